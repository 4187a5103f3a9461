"""Operations on the matrices of a value: its last two axes; torch alone is needed.

A standalone module carries this file along.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch._C import _functorch as functorch

BLOCKS = {torch.float64: 512, torch.float32: 512, torch.bfloat16: 768}
"""From how many rows on a symmetric product is taken in blocks on one thread of a CPU. It then
takes 0.7 to 0.8 of the time of the whole in float32, 0.8 to 0.85 in bfloat16, and about all of it
at half the rows. More threads want larger blocks; on a GPU nothing was measured."""


def matmul(a: Tensor, b: Tensor) -> Tensor:
    a, b = _alike(a, b)
    return a @ b


def _alike(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Two factors in one type: numbers that a rule makes itself are double."""
    if a.dtype == b.dtype:
        return a, b
    dtype = torch.promote_types(a.dtype, b.dtype)
    return a.to(dtype), b.to(dtype)


def add_product(z: Tensor, a: Tensor, b: Tensor, of_z: float, of_product: float) -> Tensor:
    """of_z z + of_product a @ b, rounded once.

    Over a stack, torch.func.vmap would take addmm apart and round its parts, and a function of our
    own under it costs more than a small product: so the stack is taken here.
    """
    if (level := _level(z, a, b)) > 0:
        z, a, b = _stacks(level, z, a, b)
        return functorch._add_batch_dim(add_product(z, a, b, of_z, of_product), 0, level)
    if z.dim() == 2:
        return torch.addmm(z, a, b, beta=of_z, alpha=of_product)
    if z.dim() > 3:
        flat = [x.flatten(0, -3) for x in (z, a, b)]
        return torch.baddbmm(*flat, beta=of_z, alpha=of_product).view(z.shape)
    return torch.baddbmm(z, a, b, beta=of_z, alpha=of_product)


def _level(*operands: Tensor) -> int:
    """The innermost torch.func.vmap that is about to take some operands as stacks; 0 if none."""
    if torch.compiler.is_compiling():
        return 0
    level = max(map(functorch.maybe_get_level, operands))
    inner = [x for x in operands if functorch.maybe_get_level(x) == level]
    return level if level > 0 and all(map(functorch.is_batchedtensor, inner)) else 0


def _stacks(level: int, *operands: Tensor) -> list[Tensor]:
    """What torch.func.vmap holds of the operands, the stack as the first dimension of each."""
    held = []
    for x in operands:
        own = functorch.maybe_get_level(x) == level
        held.append(
            functorch.get_unwrapped(x).movedim(functorch.maybe_get_bdim(x), 0) if own else x
        )
    size = max(x.shape[0] for x, o in zip(held, operands, strict=True) if x is not o)
    return [x.expand(size, *x.shape) if x is o else x for x, o in zip(held, operands, strict=True)]


def matvec(a: Tensor, b: Tensor) -> Tensor:
    a, b = _alike(a, b)
    return (a @ b.unsqueeze(-1)).squeeze(-1)


def solve(a: Tensor, b: Tensor, vector: bool) -> Tensor:
    a, b = _alike(a, b)
    return (
        torch.linalg.solve(a, b.unsqueeze(-1)).squeeze(-1) if vector else torch.linalg.solve(a, b)
    )


def solve_triangular(a: Tensor, b: Tensor, vector: bool, upper: bool) -> Tensor:
    """The same for a triangular matrix; a zero on its diagonal is an error as in `solve`.

    Within torch.compile, where no number can be looked at, it gives what is not finite.
    """
    a, b = _alike(a, b)
    if (level := _level(a, b)) > 0:
        a, b = _stacks(level, a, b)
        return functorch._add_batch_dim(solve_triangular(a, b, vector, upper), 0, level)
    if not torch.compiler.is_compiling() and _singular(a):
        raise torch.linalg.LinAlgError("linalg.solve: The input matrix is singular.")
    x = torch.linalg.solve_triangular(a, b.unsqueeze(-1) if vector else b, upper=upper)
    return x.squeeze(-1) if vector else x


def _singular(triangle: Tensor) -> bool:
    """Whether a diagonal has a zero; the numbers lie below all transformations of torch.func."""
    while functorch.maybe_get_level(triangle) > 0:
        if functorch.is_batchedtensor(triangle):
            place = functorch.maybe_get_bdim(triangle)
            triangle = functorch.get_unwrapped(triangle).movedim(place, 0)
        else:
            triangle = functorch.get_unwrapped(triangle)
    return bool((triangle.diagonal(dim1=-2, dim2=-1) == 0).any())


def polar(x: Tensor) -> Tensor:
    u, _, v = torch.linalg.svd(x, full_matrices=False)
    return u @ v


def sqrtm(x: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(x)
    return (vectors * values.clamp_min(0).sqrt().unsqueeze(-2)) @ vectors.mT


VALUES = {("eigh", 0): torch.linalg.eigvalsh, ("svd", 1): torch.linalg.svdvals}
"""Factors that take a third of the whole decomposition's time, or less, where they are all that
is asked for."""


def decompose(x: Tensor, how: str, part: int) -> Tensor:
    """One factor of eigh, qr or svd.

    Of values over a stack torch.func.vmap would take the vectors too: so the stack is taken here.
    """
    if (how, part) not in VALUES:
        return factors(x, how)[part]
    if (level := _level(x)) > 0:
        (stack,) = _stacks(level, x)
        return functorch._add_batch_dim(decompose(stack, how, part), 0, level)
    return VALUES[how, part](x)


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
    if not least or a.shape[0] < least or functorch.is_batchedtensor(a):
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
