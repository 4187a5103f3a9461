"""Operations on the cells of one tensor that torch has no single function for; torch alone is
needed.

A value's tensor has its axes first, then the dimensions of the cells: those of the parameter `like`
for elements (1 where a row or a column is one cell), none for coarser values. A standalone module
carries this file along.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def ratio(a: Any, b: Any) -> Tensor:
    """a / b, and 0 where the divisor is 0."""
    a, b = torch.as_tensor(a), torch.as_tensor(b)
    zero = b == 0
    return torch.where(zero, 0.0, a / torch.where(zero, 1.0, b))


def truth(x: Tensor) -> Tensor:
    """What a number says that stands for true (1) or false (0)."""
    return x if x.dtype == torch.bool else x != 0


def number(x: float) -> Tensor:
    """A number of the host as a value."""
    return torch.tensor(float(x), dtype=torch.float64)


def sign(x: Any) -> Tensor:
    """-1, 0 or 1; NaN stays, which torch.sign makes 0."""
    x = torch.as_tensor(x)
    return torch.where(x != x, x, torch.sign(x))


def maximum(a: Any, b: Any) -> Tensor:
    """The larger one; NaN in either stays."""
    return torch.maximum(*_both(a, b))


def minimum(a: Any, b: Any) -> Tensor:
    return torch.minimum(*_both(a, b))


def f16(x: Tensor) -> Tensor:
    """The nearest float16, in the type of x."""
    return x.to(torch.float16).to(x.dtype)


def dither_bf16(x: Tensor, chance: Tensor) -> Tensor:
    """A bfloat16 next to x, the larger one as often as keeps the mean; chance is 0 to 65535."""
    bits = (x.float().contiguous().view(torch.int32) + chance.to(torch.int32)) & -65536
    return torch.where(x.isnan(), x, bits.view(torch.float32).to(x.dtype))


def dither_f16(x: Tensor, chance: Tensor) -> Tensor:
    """A float16 next to x, the larger one as often as keeps the mean; chance is 0 to 65535."""
    wide = x.float().double()
    _, exponent = torch.frexp(wide)
    quantum = torch.ldexp(torch.ones_like(wide), (exponent - 1).clamp(min=-14) - 10)
    count = (wide.abs() / quantum + chance.double() / 65536).floor()
    return torch.copysign(count * quantum, wide).to(torch.float16).to(x.dtype)


def _both(a: Any, b: Any) -> tuple[Tensor, Tensor]:
    like = a if isinstance(a, Tensor) and (a.dim() or not isinstance(b, Tensor)) else b
    return tuple(torch.as_tensor(x, dtype=like.dtype, device=like.device) for x in (a, b))  # type: ignore[return-value]


def bf16(x: Tensor) -> Tensor:
    """Rounded to float32, then to bfloat16, in the type of before."""
    if x.dtype == torch.float64:
        return x.float().bfloat16().double()
    return x.bfloat16().float()


def low(x: Tensor) -> Tensor:
    """Rounded to bfloat16, and kept in that type unless it was float64."""
    if x.dtype == torch.bfloat16:
        return x
    return bf16(x) if x.dtype == torch.float64 else x.bfloat16()


def high(x: Tensor) -> Tensor:
    """A rounded value in the type that others have."""
    return x.float() if x.dtype == torch.bfloat16 else x


def arrange(x: Any, places: Sequence[int], axes: int, like: Tensor | None, fine: bool) -> Any:
    """Permute the leading axes of x to `places` (-1: a new one of size 1), keep the cells behind.

    `like` is given where the result has cells; a coarse x gets a 1 for each of their dimensions.
    A single number stays one: with dimensions a double would make what it meets double.
    """
    if not isinstance(x, Tensor) or not x.dim():
        return x
    cells = like.dim() if like is not None else 0
    present = [p for p in places if p >= 0]
    x = x.permute((*present, *(range(axes, axes + cells) if fine else ())))
    for i, p in enumerate(places):
        if p < 0:
            x = x.unsqueeze(i)
    return x if fine else x.reshape((*x.shape, *(1 for _ in range(cells))))


def extent(shape: Sequence[int], reach: str) -> tuple[int, ...]:
    """The dimensions that a value of a reach has in a tensor of this shape."""
    if reach == "row":
        return (*shape[:1], *(1 for _ in shape[1:]))
    if reach == "column":
        return (*(1 for _ in shape[:1]), *shape[1:])
    return tuple(shape) if reach == "element" else ()


def spread(x: Any, sizes: Sequence[int], reach: str, like: Tensor) -> Tensor:
    """Broadcast an aligned value to axes of these sizes and to the cells of a reach."""
    shape = tuple(int(n) for n in sizes) + extent(like.shape, reach)
    if isinstance(x, Tensor):
        return x.to(like.dtype if x.is_floating_point() else x.dtype).broadcast_to(shape)
    return torch.full(
        shape, x, dtype=torch.bool if isinstance(x, bool) else like.dtype, device=like.device
    )


def filled(x: Any, sizes: Sequence[int]) -> Tensor:
    """Broadcast a value of the model to axes of these sizes."""
    x = torch.full((), x, dtype=torch.float64) if not isinstance(x, Tensor) else x
    return x.broadcast_to(tuple(int(n) for n in sizes))


def fold_axes(x: Tensor, how: str, dims: Sequence[int], like: Tensor | None = None) -> Tensor:
    """Reduce over some dimensions."""
    return _fold(_counted(x, how, like), how, tuple(dims), False)


def _counted(x: Tensor, how: str, like: Tensor | None) -> Tensor:
    """Truth values as numbers, where numbers come of them, in the type in which is computed: torch
    would give whole numbers, and what these meet would become float32."""
    if x.dtype != torch.bool or how in ("any", "all"):
        return x
    kind = torch.float64 if like is None else like.dtype
    return x.to(torch.float32 if kind in (torch.bfloat16, torch.float16) else kind)


def norm(x: Tensor, dims: Sequence[int]) -> Tensor:
    """The Euclidean norm over some dimensions, without the squares in memory."""
    dtype = torch.float32 if x.dtype == torch.bfloat16 else x.dtype
    return torch.linalg.vector_norm(x, dim=tuple(dims), dtype=dtype)


def low_norm(x: Tensor, dims: Sequence[int]) -> Tensor:
    """The norm of bfloat16 that is rounded itself: torch sums in float32, and copies nothing."""
    return torch.linalg.vector_norm(x, dim=tuple(dims))


def fold_cells(x: Tensor, how: str, axes: int, over: str, like: Tensor, fine: bool) -> Tensor:
    """Reduce over the cells of one tensor: all of them, or those of each row or column."""
    cells = like.dim() if fine else 0
    x = _counted(x, how, like)
    if how == "sum" and over not in ("row", "column") and x.is_floating_point():
        x = x.double() if not cells else x
        dims = tuple(range(axes, axes + cells))
        return torch.sum(x, dim=dims, dtype=torch.float64) if dims else x
    if over == "row":
        return _fold(x, how, tuple(range(axes + 1, axes + cells)), True)
    if over == "column":
        return _fold(x, how, tuple(range(axes, axes + min(cells, 1))), True)
    return _fold(x, how, tuple(range(axes, axes + cells)), False)


def _fold(x: Tensor, how: str, dims: tuple[int, ...], keep: bool) -> Tensor:
    if not dims:
        return x
    if how in ("max", "min") and not all(x.shape[d] for d in dims):  # torch has no largest of none
        return torch.sum(x, dim=dims, keepdim=keep).fill_(EMPTY[how])
    if how in ("sum", "max", "min"):
        function = {"sum": torch.sum, "max": torch.amax, "min": torch.amin}[how]
        return function(x, dim=dims, keepdim=keep)  # type: ignore[operator]
    for d in sorted(dims, reverse=True):
        x = _ALONG[how](x, dim=d, keepdim=keep)
    return x


_ALONG: dict[str, Callable[..., Tensor]] = {"any": torch.any, "all": torch.all, "prod": torch.prod}


def combine(how: str, parts: Sequence[Any], place: str = "") -> Tensor:
    """Finish a reduction over several tensors, in their order; `place` is where the rule has it."""
    if how == "cat":
        return torch.cat(list(parts), dim=-1)
    parts = [torch.as_tensor(p) for p in parts]
    if place and (shapes := dict.fromkeys(tuple(p.shape) for p in parts)) and len(shapes) > 1:
        some = " and ".join(map(str, list(shapes)[:2]))
        raise RuntimeError(
            f"{place}\n  what a tensor has here is of its own shape, {some}, and cannot be taken "
            "together with that of another: reduce these axes first, or choose tensors of one shape"
        )
    whole = torch.stack(list(parts))
    return _fold(whole, how, (0,), False)


EMPTY = {"max": float("-inf"), "min": float("inf"), "prod": 1.0, "all": 1.0}
"""What a reduction of no cells gives; 0 for the others."""


def quantile(x: Tensor, q: Any, dim: int, mask: Tensor | None = None) -> Tensor:
    """The q-quantile along a dimension, of the cells where the mask is 1; NaN if there are none."""
    if x.shape[dim] == 0:
        return torch.full_like(x.sum(dim), torch.nan)
    q = torch.as_tensor(q, dtype=x.dtype, device=x.device)
    if mask is None:
        return torch.quantile(x, q, dim=dim)
    here = mask != 0
    found = torch.nanquantile(torch.where(here, x, torch.nan), q, dim=dim)
    return torch.where((x.isnan() & here).any(dim), torch.nan, found)


def contract(equation: str, a: Tensor, b: Tensor, axes: Sequence[int]) -> Tensor:
    """Products summed over the cells of one tensor; `axes` counts the leading axes of each."""
    a, b = (
        x.flatten(n) if x.dim() > n else x.unsqueeze(-1) for x, n in zip((a, b), axes, strict=True)
    )
    kind = torch.promote_types(a.dtype, b.dtype)
    return torch.einsum(equation, a.to(kind), b.to(kind))


def matrix(x: Tensor, axes: int, like: Tensor) -> Tensor:
    """The cells of a tensor as a matrix: the first dimension against the others."""
    lead = x.shape[:axes]
    return (
        x.reshape(*lead, like.shape[0] if like.dim() else 1, -1)
        if like.numel()
        else x.reshape(*lead, 0, 0)
    )


def back(x: Tensor, axes: int, like: Tensor) -> Tensor:
    """Cells of a matrix, or of a flat stretch, where they came from."""
    return x.reshape((*x.shape[:axes], *like.shape))


def wide(x: Tensor, axes: int, like: Tensor) -> Tensor:
    """The matrix of a tensor, turned where it is tall."""
    x = matrix(x, axes, like)
    return x.mT if rows(like) > columns(like) else x


def narrow(x: Tensor, axes: int, like: Tensor) -> Tensor:
    """Cells of a wide matrix where they came from."""
    return back(x.mT if rows(like) > columns(like) else x, axes, like)


def flat(x: Tensor, axes: int) -> Tensor:
    return x.reshape((*x.shape[:axes], x.shape[axes:].numel()))


def choose(x: Tensor, at: Any, dim: int, many: bool) -> Tensor:
    """The place `at` along an axis, or several places, which become the first axis."""
    if not many:
        return (
            x.select(dim, int(at))
            if not isinstance(at, Tensor)
            else x.index_select(dim, at.to(x.device).long().reshape(1)).squeeze(dim)
        )
    return x.index_select(dim, at.to(x.device).long()).movedim(dim, 0)


def put(x: Tensor, at: Any, value: Any, dim: int) -> Tensor:
    """x with its place `at` along an axis replaced."""
    place = torch.as_tensor(at, device=x.device).long().reshape(1)
    hit = torch.arange(x.shape[dim], device=x.device) == place
    hit = hit.reshape(*(-1 if i == dim else 1 for i in range(x.dim())))
    return torch.where(
        hit, value.unsqueeze(dim) if isinstance(value, Tensor) and value.dim() else value, x
    )


def order(x: Tensor, how: str, dim: int) -> Tensor:
    """Ranks, sorted values, running sums, ... along an axis."""
    if how == "rank":
        return torch.argsort(torch.argsort(x, dim=dim, stable=True), dim=dim).to(x.dtype)
    if how in ("argmin", "argmax"):
        return torch.argmin(x, dim=dim) if how == "argmin" else torch.argmax(x, dim=dim)
    if how == "sort":
        return torch.sort(x, dim=dim, stable=True).values
    if how == "flip":
        return torch.flip(x, (dim,))
    return torch.roll(x, 1, dim) if how == "roll" else torch.cumsum(x, dim)


def top(
    x: Tensor, amount: Any, by: str, fraction: bool, axes: int, mask: Tensor | None = None
) -> Tensor:
    """Keep the largest cells behind the leading axes, zero elsewhere; ties go by position."""
    flat = x.reshape(*x.shape[:axes], -1)
    score = flat.abs() if by == "abs" else flat
    if mask is not None:
        return _top_of(flat, score, amount, fraction, mask != 0).reshape(x.shape)
    count = flat.shape[-1]
    k = max(1, int(float(amount) * count + 1e-9)) if fraction else int(float(amount))
    places = torch.argsort(score, dim=-1, descending=True, stable=True)[..., : min(k, count)]
    return torch.zeros_like(flat).scatter(-1, places, flat.gather(-1, places)).reshape(x.shape)


def _top_of(flat: Tensor, score: Tensor, amount: Any, fraction: bool, here: Tensor) -> Tensor:
    """The largest of the cells that are there; how many those are the host need not know."""
    count = here.sum(-1, keepdim=True)
    k = (count * amount + 1e-9).floor().clamp(min=1) if fraction else int(float(amount))
    order = score.argsort(dim=-1, descending=True, stable=True)
    behind = ~here.gather(-1, order)  # whatever they hold, those that are not there come last
    order = order.gather(-1, behind.int().argsort(dim=-1, stable=True))
    first = torch.arange(flat.shape[-1], device=flat.device) < k
    kept = torch.where(first, flat.gather(-1, order), torch.zeros_like(flat))
    return torch.zeros_like(flat).scatter(-1, order, kept)


def either(c: Tensor, a: float, b: float, like: Tensor | None) -> Tensor:
    """One of two numbers, in the type in which a phase computes."""
    dtype = like.dtype if like is not None else torch.float64
    return torch.where(c, float(a), c.new_full(c.shape, float(b), dtype=dtype))


def eye(n: Any, like: Tensor | None) -> Tensor:
    if like is None:
        return torch.eye(int(n), dtype=torch.float64)
    return torch.eye(int(n), dtype=like.dtype, device=like.device)


def iota(n: Any) -> Tensor:
    return torch.arange(int(n), dtype=torch.float64)


def rows(like: Tensor) -> int:
    return like.shape[0] if like.dim() else 1


def columns(like: Tensor) -> int:
    return like.numel() // max(1, rows(like))


def shorter(like: Tensor) -> int:
    return min(rows(like), columns(like))


def longer(like: Tensor) -> int:
    return max(rows(like), columns(like))


SIDES: dict[str, Callable[[Tensor], int]] = {
    "rows": rows,
    "cols": columns,
    "short": shorter,
    "long": longer,
}
"""The axes of a tensor's matrix, and how many places each has."""


def length(x: Tensor, dim: int) -> int:
    return x.shape[dim]


def first(x: Tensor, dim: int, n: float) -> Tensor:
    """The first n places of a dimension; where it has fewer, the rest is 0."""
    have, n = x.shape[dim], int(n)
    part = x.narrow(dim, 0, min(have, n))
    if have >= n:
        return part
    shape = [n - have if k == dim else size for k, size in enumerate(x.shape)]
    return torch.cat([part, x.new_zeros(shape)], dim)
