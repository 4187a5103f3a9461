"""What the analysis of memory trusts: operations that never give a view of what they read."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from optc.compiler import cells, matrices
from optc.compiler.emit.versions import FRESH

A = torch.tensor([[2.0, 1.0], [1.0, 3.0]])
ROW = torch.tensor([1.0, 2.0])
ARGUMENTS: dict[Callable[..., Any], list[tuple[Any, ...]]] = {
    **dict.fromkeys(
        (operator.add, operator.sub), [(A, 0.0), (A, A), (0.0, A), (A, torch.tensor(0.0))]
    ),
    **dict.fromkeys((operator.mul, operator.truediv, cells.ratio), [(A, 1.0), (A, A)]),
    operator.mod: [(A, 5.0)],
    **dict.fromkeys((cells.maximum, cells.minimum), [(A, A), (A, ROW)]),
    cells.contract: [("az,bz->ab", A, A, (1, 1))],
    cells.eye: [(2, A)],
    cells.put: [(A, 0, ROW, 0), (A[:1], 0, A[0], 0), (A, torch.tensor(1), 2.0, 1)],
    **dict.fromkeys((matrices.matmul, matrices.gram), [(A, torch.eye(2)), (torch.eye(2), A)]),
    matrices.matvec: [(torch.eye(2), ROW)],
    **dict.fromkeys(
        (matrices.add_product, matrices.add_gram),
        [(A, A, A, 1.0, 0.0), (A, torch.eye(2), A, 0.0, 1.0)],
    ),
    matrices.solve: [(torch.eye(2), A, False), (torch.eye(2), ROW, True)],
    matrices.solve_triangular: [
        (torch.eye(2), A, False, True),
        (torch.eye(2), ROW, True, False),
    ],
    matrices.decompose: [(A, "eigh", 0), (A, "svd", 1), (torch.eye(2), "qr", 0)],
    matrices.factors: [(A, "eigh"), (A, "svd"), (torch.eye(2), "qr")],
    torch.where: [(torch.tensor(True), A, 0.0), (torch.tensor([True, True]), A, A)],
}
"""Such as would make a view, or give an operand back, if anything did."""


def given(function: Callable[..., Any]) -> list[tuple[Any, ...]]:
    return ARGUMENTS.get(function, [(A,), (torch.eye(2),), (torch.ones(1, 1),)])


def tensors(values: Any) -> list[Tensor]:
    return [values] if isinstance(values, Tensor) else [x for x in values if isinstance(x, Tensor)]


@pytest.mark.parametrize("function", sorted(FRESH, key=str), ids=lambda f: f.__name__)
def test_nothing_fresh_shares_memory(function):
    for arguments in given(function):
        old = {x.untyped_storage().data_ptr() for x in tensors(arguments)}
        for result in tensors(function(*arguments)):
            assert result.untyped_storage().data_ptr() not in old
