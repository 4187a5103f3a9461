"""Products that are symmetric, so that half of them is enough: x @ x', and a @ a of such an a.

Newton-Schulz and Kronecker factors are made of these.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from .. import cells, matrices

KEEPING = (operator.neg, cells.bf16, cells.low, cells.high)
"""A function of each number leaves a matrix symmetric."""
AS_HALF = {matrices.matmul: matrices.gram, matrices.add_product: matrices.add_gram}


def symmetric(graph: fx.Graph) -> None:
    """Take products by halves where their operands show that they are symmetric."""
    known: set[Any] = set()
    for node in graph.nodes:
        if node.target in AS_HALF:
            a, b = node.args[-2:] if node.target is matrices.matmul else node.args[1:3]
            rest = node.args[:1] if node.target is matrices.add_product else ()
            same = _turned(b) is a or _turned(a) is b or a is b and a in known
            if same and all(z in known for z in rest):
                node.target = AS_HALF[node.target]
                known.add(node)
        elif node.op == "call_function" and _keeps(node, known):
            known.add(node)


def _turned(x: Any) -> Any:
    """What a transpose is the transpose of."""
    turned = isinstance(x, fx.Node) and x.target is torch.transpose
    return x.args[0] if turned and {*x.args[1:]} == {0, 1} else None


def _keeps(node: fx.Node, known: set[Any]) -> bool:
    """Whether a value is symmetric because what it is made of is."""
    if node.target in KEEPING:
        return node.args[0] in known
    if node.target in (operator.add, operator.sub):
        return all(x in known for x in node.args)
    if node.target in (operator.mul, operator.truediv):
        x, y = node.args
        return (
            x in known and isinstance(y, int | float) or y in known and isinstance(x, int | float)
        )
    return False
