"""A sum with a product is rounded once over a stack too, and has its derivative there."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import grad, vmap

from optc.compiler import matrices

DIMS = {
    "all": (0, 0, 0),
    "elsewhere": (2, 1, 0),
    "one for all": (0, None, 0),
    "only the first": (0, None, None),
    "only a factor": (None, None, -1),
}


def taken(z: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return matrices.add_product(z, a, b, 0.5, -2.0)


def operands(dims: Any, dtype: torch.dtype) -> list[Tensor]:
    make = torch.Generator().manual_seed(0)
    values = [
        torch.randn(3, *shape, generator=make, dtype=torch.float64).to(dtype)
        for shape in ((4, 6), (4, 5), (5, 6))
    ]
    return [x[0] if d is None else x.movedim(0, d) for x, d in zip(values, dims, strict=True)]


def one(xs: list[Tensor], dims: Any, k: int) -> list[Tensor]:
    return [x if d is None else x.select(d, k) for x, d in zip(xs, dims, strict=True)]


@pytest.mark.parametrize("dims", DIMS.values(), ids=DIMS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_a_stack_is_what_its_members_are(dims: Any, dtype: torch.dtype) -> None:
    xs = operands(dims, dtype)
    whole = vmap(taken, in_dims=dims)(*xs)
    assert whole.shape == (3, 4, 6) and whole.dtype == dtype
    for k in range(3):
        z, a, b = (x.double() for x in one(xs, dims, k))
        exact = 0.5 * z - 2 * a @ b
        if dtype == torch.bfloat16:  # to the nearest, or a neighbour where float32 sums otherwise
            assert (whole[k] == exact.bfloat16()).double().mean() > 0.95
        bound = {torch.float64: 1e-14, torch.float32: 1e-5, torch.bfloat16: 1 / 128}[dtype]
        torch.testing.assert_close(whole[k].double(), exact, rtol=bound, atol=bound)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_a_stack_of_stacks(dtype: torch.dtype) -> None:
    z, a, b = operands((0, 0, 0), dtype)
    more = torch.stack([z, 2 * z])
    inner = vmap(taken, in_dims=(0, 0, 0))
    whole = vmap(inner, in_dims=(0, None, None))(more, a, b)
    assert torch.equal(whole[0], inner(z, a, b)) and torch.equal(whole[1], inner(2 * z, a, b))
    crossed = vmap(lambda a, b: vmap(lambda z: taken(z, a, b))(z))(a, b)
    assert torch.equal(crossed[1], vmap(taken, in_dims=(0, None, None))(z, a[1], b[1]))


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("outside", [False, True])
def test_the_derivative_over_a_stack(place: int, outside: bool) -> None:
    xs = operands((0, 0, 0), torch.float64)

    def size(*xs: Tensor) -> Tensor:
        return taken(*xs).square().sum()

    if outside:
        found = grad(lambda *xs: vmap(size)(*xs).sum(), place)(*xs)
    else:
        found = vmap(grad(size, place))(*xs)
    for k in range(3):
        mine = [x[k].clone().requires_grad_() for x in xs]
        (0.5 * mine[0] - 2 * mine[1] @ mine[2]).square().sum().backward()
        torch.testing.assert_close(found[k], mine[place].grad, rtol=1e-12, atol=1e-12)
