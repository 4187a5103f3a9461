"""Variants by what the host knows: a step that is not due does not pay for what it skips."""

from __future__ import annotations

from ..ir import Graph, Node, postorder, substitute, users
from ..types import HOST

LIMIT = 3
"""Conditions that make variants; with more, the rest stay selections."""


def conditions(graph: Graph) -> list[Node]:
    """Host-known conditions whose one side holds something that the other does not pay for.

    One of the groups (an interval is an option) counts as true where it is in any group.
    """
    roots = graph.roots()
    readers = users(roots)
    found: dict[Node, None] = {}
    for node in postorder(roots):
        if node.op != "where" or node.inputs[0].known != HOST or node.inputs[0].type.axes:
            continue
        condition, *sides = node.inputs
        if condition.type.reach == "group" and _expensive(sides[0], node, readers):
            found[condition] = None
        elif condition.type.reach == "model" and any(_expensive(x, node, readers) for x in sides):
            found[_positive(condition)] = None
    return sorted(found, key=lambda c: c.type.reach != "model")[:LIMIT]


def _positive(condition: Node) -> Node:
    return condition.inputs[0] if condition.op == "not" else condition


_FREE = {"leaf", "map", "random", "data"}


def _expensive(side: Node, select: Node, readers: dict[Node, list[Node]]) -> bool:
    """Whether a side depends on a cut."""
    return any(n.kind not in _FREE for n in postorder([side]))


def specialise(graph: Graph, bits: dict[Node, bool]) -> Graph:
    """The rule with these conditions known.

    One that is true in some group stays a selection: the others may differ.
    """
    told = {c: v for c, v in bits.items() if not v or c.type.reach == "model"}
    table: dict[Node, Node] = {c: graph.const(v) for c, v in told.items()}
    roots = graph.roots()
    done = substitute(graph, roots, table)
    chosen: dict[Node, Node] = {}
    for node in postorder(list(dict.fromkeys(done[r] for r in roots))):
        new = (
            graph.rebuild(node, tuple(chosen[i] for i in node.inputs))
            if node.op != "loop"
            else node
        )
        known = _truth(new.inputs[0]) if new.op == "where" else None
        if known is not None:
            side = new.inputs[1] if known else new.inputs[2]
            new = side if side.type == new.type else graph.add("expand", side, type=new.type)
        chosen[node] = new
    return graph.with_roots(lambda n: chosen[done[n]])


def every_due(graph: Graph) -> Graph:
    """The variant of a step in which all that is done now and then is done."""
    bits = conditions(graph)
    return specialise(graph, dict.fromkeys(bits, True)) if bits else graph


def _truth(node: Node) -> bool | None:
    if node.op == "const":
        return bool(node["value"])
    if node.op == "not":
        inner = _truth(node.inputs[0])
        return None if inner is None else not inner
    return None
