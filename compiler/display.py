"""A graph as text: one line a node that is read, then what the step does."""

from __future__ import annotations

from typing import Any

from .ir import Graph, Node, Region, body_nodes, postorder


def graph_text(graph: Graph) -> str:
    """The graph as text: `%12 = mul %3 %11 : element`."""
    nodes = list(postorder([*graph.roots(), *_inits(graph)]))
    names = {n: f"%{i}" for i, n in enumerate(nodes)}
    lines = [f"rule {graph.name}"]
    for node in nodes:
        lines.append("  " + _line(node, names))
        if node.op == "loop":
            lines += _body(node["body"], names)
    for slot, spec in graph.slots.items():
        if spec.kind == "state":
            start = names.get(spec.init, "?") if spec.init is not None else "?"
            lines.append(f"state {slot} : {spec.type} = {start}")
    lines += [
        f"{'always ' if slot in graph.always else ''}{slot} <- {names[n]}"
        for slot, n in graph.writes.items()
    ]
    lines += [f"{e.kind} when {names[e.when]}" for e in graph.outcomes]
    lines += [f"metric {k} = {names[n]}" for k, n in graph.metrics.items()]
    lines += [f"eval {k} = {names[n]}" for k, n in graph.evals.items()]
    return "\n".join(lines) + "\n"


def _inits(graph: Graph) -> list[Node]:
    return [s.init for s in graph.slots.values() if s.kind == "state" and s.init is not None]


def _line(node: Node, names: dict[Node, str]) -> str:
    inputs = " ".join(names[i] for i in node.inputs)
    attrs = " ".join(
        f"{k}={_shown(v)}" for k, v in node.attrs if not isinstance(v, Region) and k != "stream"
    )
    words = " ".join(x for x in (node.op, inputs, attrs) if x)
    return f"{names[node]} = {words} : {node.type}"


def _shown(value: Any) -> str:
    return repr(value) if isinstance(value, float | int | str) else str(value)


def _body(region: Region, names: dict[Node, str]) -> list[str]:
    inside = {p: f"%p{i}" for i, p in enumerate((region.index, *region.parameters))}
    table = {**names, **inside}
    lines = []
    for node in body_nodes(region):
        table.setdefault(node, f"%b{len(table)}")
        lines.append("    | " + _line(node, table))
    ends = " ".join(table[o] for o in region.outputs)
    until = f" until {table[region.until]}" if region.until is not None else ""
    return [*lines, f"    | -> {ends}{until}"]
