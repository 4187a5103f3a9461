"""What computes a node, by its operation."""

from __future__ import annotations

from collections.abc import Callable

from ..ir import Node
from . import arithmetic, asking, leaves, loops, mixing, slots
from .state import Cells
from .values import Values

OPERATIONS: dict[str, Callable[[Values, Node], Cells]] = {
    "const": leaves.const,
    "option": leaves.option,
    "input": leaves.input,
    "clock": leaves.clock,
    "meta": leaves.meta,
    "random": leaves.random,
    "read": slots.read,
    "restrict": slots.restrict,
    "merge": slots.merge,
    "where": arithmetic.where,
    "flat": arithmetic.flat,
    "reduce": arithmetic.reduce,
    "contract": arithmetic.reduce,
    "loop": loops.loop,
    "out": loops.out,
    "mix": mixing.mix,
    "evaluate": asking.evaluate,
    "gradient": asking.gradient,
    **dict.fromkeys(("value", "hvp", "jvp", "vjp"), asking.ask),
    **dict.fromkeys(("oracle", "extern"), asking.oracle),
    "batch": asking.batch,
    **dict.fromkeys(("draw", "split", "each", "subset"), asking.data),
}
"""All others are arithmetic on the cells of each tensor."""


def compute(values: Values, node: Node) -> Cells:
    return OPERATIONS.get(node.op, arithmetic.cellwise)(values, node)
