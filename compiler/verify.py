"""What a legal graph is, as a table; the pipeline asks it between passes."""

from __future__ import annotations

from collections.abc import Callable

from .ir import KIND, Graph, Node, inputs_of, postorder
from .ops import OPS
from .types import TypeClash, coarser_or_equal, meet

Law = Callable[[Graph, Node], bool]


def _meets(graph: Graph, node: Node) -> bool:
    """An element-wise result has the type where its operands meet, or a finer one."""
    if node.op not in OPS:
        return True
    try:
        type = meet([i.type for i in node.inputs])
    except TypeClash:
        return False
    return coarser_or_equal(type.reach, node.type.reach)


def _expands(graph: Graph, node: Node) -> bool:
    return node.op != "expand" or coarser_or_equal(node.inputs[0].type.reach, node.type.reach)


def _arity(graph: Graph, node: Node) -> bool:
    return node.op not in OPS or len(node.inputs) == OPS[node.op].arity


def _declared(graph: Graph, node: Node) -> bool:
    if node.op == "read":
        return node["slot"] in graph.slots
    return node.op != "evaluate" or node["objective"] in graph.objectives


def _known_in_time(graph: Graph, node: Node) -> bool:
    return all(i.known <= node.known for i in inputs_of(node))


LAWS: tuple[tuple[str, Law], ...] = (
    ("is a known operation", lambda graph, node: node.op in KIND),
    ("has as many inputs as its operation", _arity),
    ("has the type where its operands meet", _meets),
    ("expands a coarser value", _expands),
    ("reads slots and asks for objectives that are declared", _declared),
    ("is known no earlier than its inputs", _known_in_time),
)


def verify(graph: Graph, after: str = "check") -> None:
    """Raise AssertionError, a bug of ours, where a graph is not legal."""
    for node in postorder(graph.roots()):
        for law, holds in LAWS:
            assert holds(graph, node), f"after {after}: {node} ({node.op}) breaks: every node {law}"
    for slot, node in graph.writes.items():
        spec = graph.slots.get(slot)
        assert spec is not None, f"after {after}: {slot} is written and not declared"
        assert node.type.reach == spec.type.reach, (
            f"after {after}: {slot} is {spec.type}, and {node.type} is written"
        )
