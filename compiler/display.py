"""A graph as text: one line a node that is read, then what the step does."""

from __future__ import annotations

from typing import Any

from .ir import Graph, Node, Region, body_nodes, postorder
from .source import NOWHERE
from .types import Type


def graph_text(graph: Graph, spans: bool = True) -> str:
    """The graph as text: `%12 = mul %3 %11 : element @ 4:12`, then slots, writes and the rest.

    Cells of a part of a target have its name (`element of w|0`); `@` says where in the text a node
    stands.
    """
    inits = [s.init for s in graph.slots.values() if s.kind == "state" and s.init is not None]
    nodes = list(postorder([*graph.roots(), *inits]))
    names = {n: f"%{i}" for i, n in enumerate(nodes)}
    lines = [f"rule {graph.name}"]
    for node in nodes:
        lines += _lines(node, names, spans, "  ")
    for slot, spec in graph.slots.items():
        if spec.kind == "state":
            start = names[spec.init] if spec.init is not None else "?"
            lines.append(f"state {slot} : {type_text(spec.type)} = {start}")
    lines += [
        f"{'always ' if slot in graph.always else ''}{slot} <- {names[n]}"
        for slot, n in graph.writes.items()
    ]
    lines += [
        f"{e.kind}{f' {names[e.count]}' if e.count is not None else ''} when {names[e.when]}"
        for e in graph.outcomes
    ]
    lines += [f"metric {k} = {names[n]}" for k, n in graph.metrics.items()]
    lines += [f"eval {k} = {names[n]}" for k, n in graph.evals.items()]
    return "\n".join(lines) + "\n"


def type_text(type: Type) -> str:
    return f"{type} of {type.domain}" if "|" in type.domain else str(type)


def _lines(node: Node, names: dict[Node, str], spans: bool, indent: str) -> list[str]:
    inputs = " ".join(names[i] for i in node.inputs)
    attrs = " ".join(
        f"{k}={_shown(v)}" for k, v in node.attrs if not isinstance(v, Region) and k != "stream"
    )
    words = " ".join(x for x in (node.op, inputs, attrs) if x)
    known = node.span.source is not NOWHERE.source
    at = f" @ {node.span.row}:{node.span.column}" if spans and known else ""
    line = f"{indent}{names[node]} = {words} : {type_text(node.type)}{at}"
    return [line, *(_body(node["body"], names, spans, indent) if node.op == "loop" else [])]


def _shown(value: Any) -> str:
    return repr(value) if isinstance(value, float | int | str) else str(value)


def _body(region: Region, names: dict[Node, str], spans: bool, indent: str) -> list[str]:
    """A loop's body; its parameters are named from its index on."""
    depth = indent.count("|")
    mark = "p" + "'" * depth
    inside = (region.index, *region.parameters)
    names.update({p: f"%{mark}{i}" for i, p in enumerate(inside)})
    indent = f"{indent}  | "
    lines = []
    for node in body_nodes(region):
        names.setdefault(node, f"%b{len(names)}")
        lines += _lines(node, names, spans, indent)
    ends = " ".join(names[o] for o in region.outputs)
    until = f" until {names[region.until]}" if region.until is not None else ""
    return [*lines, f"{indent}-> {ends}{until}"]
