"""Operations on the matrices of a value: its last two axes; torch alone is needed.

A standalone module carries this file along.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

BLOCKS = {torch.float64: 512, torch.float32: 512, torch.bfloat16: 768}
"""From how many rows on a symmetric product is taken in blocks on one thread of a CPU. It then
takes 0.7 to 0.8 of the time of the whole in float32, 0.8 to 0.85 in bfloat16, and about all of it
at half the rows. More threads want larger blocks; on a GPU nothing was measured."""


def matmul(a: Tensor, b: Tensor) -> Tensor:
    return a @ b


def add_product(z: Tensor, a: Tensor, b: Tensor, of_z: float, of_product: float) -> Tensor:
    """of_z z + of_product a @ b; in bfloat16 rounded once, over a stack too."""
    if z.dtype == torch.bfloat16 and any(map(torch._C._functorch.is_batchedtensor, (z, a, b))):
        return _AddProduct.apply(z, a, b, of_z, of_product)
    return torch.addmm(z, a, b, beta=of_z, alpha=of_product)


class _AddProduct(torch.autograd.Function):
    """torch.func.vmap takes addmm apart and rounds its parts."""

    @staticmethod
    def forward(z: Tensor, a: Tensor, b: Tensor, of_z: float, of_product: float) -> Tensor:
        function = torch.addmm if z.dim() == 2 else torch.baddbmm
        return function(z, a, b, beta=of_z, alpha=of_product)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        _, a, b, *ctx.factors = inputs
        ctx.save_for_backward(a, b)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (g,), (a, b), (of_z, of_product) = grads, ctx.saved_tensors, ctx.factors
        return of_z * g, of_product * (g @ b.mT), of_product * (a.mT @ g), None, None

    @staticmethod
    def vmap(info: Any, dims: Any, z: Tensor, a: Tensor, b: Tensor, *factors: float) -> Any:
        stacks = [
            x.expand(info.batch_size, *x.shape) if d is None else x.movedim(d, 0)
            for x, d in zip((z, a, b), dims, strict=False)
        ]
        flat = [x.flatten(0, -3) for x in stacks]
        return _AddProduct.apply(*flat, *factors).reshape(stacks[0].shape), 0


def matvec(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b.unsqueeze(-1)).squeeze(-1)


def solve(a: Tensor, b: Tensor, vector: bool) -> Tensor:
    return (
        torch.linalg.solve(a, b.unsqueeze(-1)).squeeze(-1) if vector else torch.linalg.solve(a, b)
    )


def polar(x: Tensor) -> Tensor:
    u, _, v = torch.linalg.svd(x, full_matrices=False)
    return u @ v


def sqrtm(x: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(x)
    return (vectors * values.clamp_min(0).sqrt().unsqueeze(-2)) @ vectors.mT


def decompose(x: Tensor, how: str, part: int) -> Tensor:
    """One factor of eigh, qr or svd."""
    return factors(x, how)[part]


def factors(x: Tensor, how: str) -> Sequence[Tensor]:
    """All factors."""
    if how == "svd":
        return torch.linalg.svd(x, full_matrices=False)
    return torch.linalg.eigh(x) if how == "eigh" else qr(x)


def qr(x: Tensor) -> tuple[Tensor, Tensor]:
    """Q with the sides of x, and a square R; where x is wide, zeros fill what has no direction."""
    q, r = torch.linalg.qr(x)
    missing = x.shape[-1] - q.shape[-1]
    pad = torch.nn.functional.pad
    return (pad(q, (0, missing)), pad(r, (0, 0, 0, missing))) if missing else (q, r)


def lstsq(a: Tensor, b: Tensor) -> Tensor:
    return torch.linalg.lstsq(a, b.unsqueeze(-1), driver="gelsd").solution.squeeze(-1)


def gram(a: Tensor, b: Tensor) -> Tensor:
    """a @ b where that is symmetric: the blocks below the diagonal serve above it too."""
    if not in_blocks(a):
        return a @ b
    return _symmetric(a, lambda rows, cols: a[rows] @ b[:, cols])


def add_gram(z: Tensor, a: Tensor, b: Tensor, of_z: float, of_product: float) -> Tensor:
    """of_z z + of_product a @ b where z and the product are symmetric."""
    if not in_blocks(a):
        return add_product(z, a, b, of_z, of_product)
    return _symmetric(
        a, lambda r, c: torch.addmm(z[r, c], a[r], b[:, c], beta=of_z, alpha=of_product)
    )


def in_blocks(a: Tensor) -> bool:
    """Whether a product with as many rows is worth the copies of its blocks."""
    if torch.compiler.is_compiling() or a.dim() != 2 or a.device.type != "cpu":
        return False
    least = BLOCKS.get(a.dtype, 0)
    if not least or a.shape[0] < least or torch._C._functorch.is_batchedtensor(a):
        return False
    return a.shape[0] >= least * torch.get_num_threads()


def _symmetric(like: Tensor, block: Callable[[slice, slice], Tensor]) -> Tensor:
    """A symmetric matrix of two halves: a block each, and one below the diagonal."""
    n = like.shape[0]
    first, second = slice(0, n // 2), slice(n // 2, n)
    result = like.new_empty(n, n)
    result[first, first], result[second, second] = block(first, first), block(second, second)
    below = block(second, first)
    result[second, first], result[first, second] = below, below.mT
    return result
