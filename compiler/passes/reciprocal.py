"""A division of cells by a number that the host knows is a product with its reciprocal.

The reciprocal is taken once and in double, and the product is off by one unit in the last place
where the quotient is off by half of one. A core divides several times slower than it multiplies, so
that a step of Adam, which divides each cell three times, would be ruled by that and not by memory.
Where a unit in the last place decides (`floor`, `%`, a comparison) the division stays.
"""

from __future__ import annotations

from ..ir import Graph, Node
from ..ops import OPS
from ..rewrite import rewrite
from ..types import DEVICE, FINE

DECIDING = {name for name, op in OPS.items() if not op.partials} | {"mod"}
"""Operations that jump."""


def reciprocal(graph: Graph) -> Graph:
    """The graph with these products; what is written or reported is a product too."""
    made = rewrite(graph, (), _operands)
    return made.with_roots(lambda root: _product(made, root))


def _operands(graph: Graph, node: Node) -> Node:
    if node.op in DECIDING:
        return node
    return graph.rebuild(node, tuple(_product(graph, i) for i in node.inputs))


def _product(graph: Graph, node: Node) -> Node:
    """A quotient as a product, where the host knows its divisor."""
    if node.op == "expand":
        return graph.rebuild(node, (_product(graph, node.inputs[0]),))
    if node.op != "div" or node.type.reach not in FINE:
        return node
    cells, divisor = node.inputs
    while divisor.op == "expand":
        divisor = divisor.inputs[0]
    if divisor.type.reach in FINE or divisor.type.axes or divisor.known == DEVICE:
        return node
    if divisor.op == "const":
        if not divisor["value"]:
            return node
        over = graph.const(1 / divisor["value"], divisor.span)
    else:
        one = graph.const(1.0, divisor.span)
        over = graph.add("div", one, divisor, type=divisor.type, span=node.span)
    return graph.add("mul", cells, over, type=node.type, span=node.span)
