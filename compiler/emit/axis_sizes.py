"""How many places axes have, where only the training loop knows: by an input, or by an answer."""

from __future__ import annotations

from collections.abc import Set

from ..ir import Graph, Node, body_nodes, postorder
from ..types import Type, union
from .classes import FIXED

PLACES = ("eye", "iota", "expand", "random")
OWN = ("all", "rows", "cols")
"""Axes whose places the tensors say, not the answers of a loop."""


def counting(graph: Graph) -> dict[Node, str]:
    """What says how many places an axis has, or how often a loop turns, and which of the two."""
    found: dict[Node, str] = {}
    order = list(postorder(graph.roots()))
    for n in order:
        if n.op == "loop":
            found[n.inputs[0]] = "number of turns"
            order += body_nodes(n["body"])
        axes = (n["axis"],) if n.op == "size" else n.type.axes
        sizes = (a.size for a in axes if isinstance(a.size, Node))
        found |= {size: "size of an axis" for size in sizes if size.op != "meta"}
    return found


def of_inputs(graph: Graph) -> dict[str, str]:
    """The axes that arrays of the loop bring, and where a step finds their sizes."""
    given = [(name, type) for name, type in graph.inputs.items() if type.reach == "model"]
    return {a.name: f"input:{name}:{k}" for name, type in given for k, a in enumerate(type.axes)}


def sizing(graph: Graph, roots: list[Node]) -> list[Node]:
    """Values asked for only because they say how many places the weights of a product need."""
    order = postorder(roots)
    asked = [n for n in order if n.op in ("value", "gradient", "vjp")]
    known = {(a.name, a.primes) for n in asked for a in n.type.axes}
    result = []
    for n in asked:
        at, type = n.inputs[0], graph.objectives.get(n.inputs[0].get("objective", ""))
        if n.op != "vjp" or type is None:
            continue
        lacking = [a for a in type.axes if a.size is None and (a.name, a.primes) not in known]
        if lacking:
            known |= {(a.name, a.primes) for a in lacking}
            whole = Type(type.reach, union(at.type.axes, type.axes))
            result.append(graph.add("value", at, type=whole))
    return result


def answers(order: list[Node], bound: Set[Node], axes: dict[str, str]) -> dict[Node, list[Node]]:
    """The first answers of the loop with the axes of what is made from nothing: it waits for them.

    `axes` gets what the answers bring, besides what is known.
    """
    first: dict[str, Node] = {}
    for n in order:
        if FIXED.get(n.op) in ("ask", "data", "call") and n not in bound:
            for a in n.type.axes:
                axes.setdefault(a.name, a.name)
                first.setdefault(a.name, n)
        elif n.op == "rename":
            for a, b in zip(n.inputs[0].type.axes, n.type.axes, strict=True):
                if a.name in axes:
                    axes.setdefault(b.name, axes[a.name])
    after: dict[Node, list[Node]] = {}
    for n in order:
        made = (n["axis"],) if n.op == "size" else n.type.axes if n.op in PLACES else ()
        asked = [a for a in made if a.size is None and a.name not in OWN]
        known = [axes.get(a.name, "") for a in asked]
        found = [first[name] for name in known if name in first]
        if found:
            after[n] = found
    return after
