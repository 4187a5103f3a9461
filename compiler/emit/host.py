"""Scalars that the host knows, as one small torch.fx graph of Python arithmetic in double."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

from torch import fx

from .. import scalars
from ..ir import Node, postorder
from ..program import Host

FUNCTIONS: dict[str, Callable[..., Any]] = {
    **scalars.HOST,
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "neg": operator.neg,
    **{name: getattr(operator, name) for name in ("lt", "le", "gt", "ge", "eq", "ne")},
    "and": scalars.both,
    "or": scalars.either,
    "not": operator.not_,
    "expand": scalars.same,
}


def host_module(roots: list[Node], counting: Mapping[Node, str] | None = None) -> Host:
    """The graph that gives the roots from their leaves: options, clocks, inputs, facts."""
    graph = fx.Graph()
    leaves: list[tuple[str, Any]] = []
    values: dict[Node, Any] = {}
    order = list(postorder(roots))
    for node in order:
        if node.kind == "leaf" and node.op != "const":
            name = f"x{len(leaves)}"
            values[node] = graph.placeholder(name)
            leaves.append((name, leaf(node)))
    for node in order:
        if node in values:
            continue
        if node.op == "const":
            values[node] = (
                node["value"] if isinstance(node["value"], bool) else float(node["value"])
            )
        else:
            inputs = tuple(values[i] for i in node.inputs)
            if all(isinstance(x, bool | float) for x in inputs):
                values[node] = FUNCTIONS[node.op](*inputs)
            else:
                values[node] = graph.call_function(FUNCTIONS[node.op], inputs)
    graph.output(tuple(values[r] for r in roots))
    counts = (
        tuple((k, counting[r]) for k, r in enumerate(roots) if r in counting) if counting else ()
    )
    return Host(leaves, fx.GraphModule({}, graph), [f"%{r.number}" for r in roots], counts)


def leaf(node: Node) -> tuple[Any, ...]:
    """What a leaf is, in words that the runtime understands."""
    if node.op == "option":
        return ("option", node["name"], node.get("place", -1), node.get("agree", False))
    if node.op == "clock":
        return ("clock", node["which"], node.get("stream", 0), node.get("scope", ""))
    if node.op == "input":
        return ("input", node["name"])
    more = node["cells"] if node["what"] == "total" else node.get("patterns", ())
    return ("meta", node["what"], more, node.get("place", 0))
