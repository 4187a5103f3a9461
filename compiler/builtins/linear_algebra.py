"""Products, solutions and factorisations of matrices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ..ir import Node
from ..scope import Context, Scope, as_node
from ..source import Span
from ..types import SINGULAR, Axis, Type, coarser_or_equal
from .declare import builtin
from .reductions import reduce


@builtin("transpose", "x")
def transpose(ctx: Context, scope: Scope, span: Span, x: Any) -> Node:
    """Rows and columns exchanged; a square [a, a'] stays [a, a'], since axes align by name."""
    value = as_node(ctx, x, span)
    *rest, a, b = _two_axes(ctx, value, span)
    last = (a, b) if a.name == b.name else (b, a)
    return ctx.graph.add(
        "transpose", value, type=replace(value.type, axes=(*rest, *last)), span=span
    )


@builtin("matmul", "a b")
def matmul(ctx: Context, scope: Scope, span: Span, a: Any, b: Any) -> Node:
    """`a @ b`: the last axis of a against the first matrix axis of b; either may be a vector."""
    left, right = _both(ctx, a, b, span)
    for operand in (left, right):
        if not operand.type.axes:
            _two_axes(ctx, operand, span)
    if len(left.type.axes) == 1:
        left, right = transpose(ctx, scope, span, right), left
    *rest, m, k = _two_axes(ctx, left, span)
    vector = len(right.type.axes) == 1
    k2, *n = right.type.axes[-2:] if not vector else right.type.axes
    if k.name != k2.name:
        message = f"`@` sums {left.type} over `{k}`, and {right.type} has `{k2}` there"
        ctx.error("E311", message, span)
    axes = (*rest, *_product(m, k, tuple(n)))
    base, other = left.type, right.type
    reach = other.reach if coarser_or_equal(base.reach, other.reach) else base.reach
    type = Type(reach, axes, base.domain or other.domain)
    return ctx.graph.add("matmul", left, right, type=type, span=span, vector=vector)


def _both(ctx: Context, a: Any, b: Any, span: Span) -> tuple[Node, ...]:
    """Two operands at the same tensors: one from above a block counts at the block's part."""
    return ctx.narrowed((as_node(ctx, a, span), as_node(ctx, b, span)))


def _product(m: Axis, k: Axis, n: tuple[Axis, ...]) -> tuple[Axis, ...]:
    """The axes of a product: primed only where both have one name."""
    plain = replace(m, primes=0)
    if not n:
        return (plain,)
    last = replace(n[0], primes=0)
    return (plain, last.prime()) if last.name == plain.name else (plain, last)


@builtin("trace", "x")
def trace(ctx: Context, scope: Scope, span: Span, x: Any) -> Node:
    value = as_node(ctx, x, span)
    *rest, a, b = _two_axes(ctx, value, span)
    diagonal = ctx.map("mul", value, eye_like(ctx, value, a, b, span), span=span)
    return reduce(
        ctx, "sum", diagonal, (Axis(a.name, None, a.primes), Axis(b.name, None, b.primes)), span
    )


def eye_like(ctx: Context, value: Node, a: Axis, b: Axis, span: Span) -> Node:
    type = Type(
        value.type.reach if value.type.reach == "tensor" else "model", (a, b), value.type.domain
    )
    return ctx.graph.add("eye", type=type, known=2, span=span)


@builtin("solve", "a b")
def solve(ctx: Context, scope: Scope, span: Span, a: Any, b: Any) -> Node:
    """x with a x = b, batched over tensors."""
    left, right = _both(ctx, a, b, span)
    _square_axes(ctx, left, "solve", span)
    vector = len(right.type.axes) == 1
    type = replace(
        right.type,
        axes=(left.type.axes[-1].prime(-left.type.axes[-1].primes), *right.type.axes[1:]),
    )
    if vector:
        type = right.type
    return ctx.graph.add("solve", left, right, type=type, span=span, vector=vector)


@builtin("lstsq", "a b")
def lstsq(ctx: Context, scope: Scope, span: Span, a: Any, b: Any) -> Node:
    """The least-squares solution of a x = b with the smallest norm."""
    left, right = _both(ctx, a, b, span)
    _two_axes(ctx, left, span)
    type = replace(left.type, axes=(left.type.axes[-1],))
    return ctx.graph.add("lstsq", left, right, type=type, span=span)


def _square(name: str) -> None:
    @builtin(name, "x")
    def build(ctx: Context, scope: Scope, span: Span, x: Any) -> Node:
        value = as_node(ctx, x, span)
        _square_axes(ctx, value, name, span)
        return ctx.graph.add(name, value, type=value.type, span=span)


for _name in ("cholesky", "inverse", "sqrtm", "polar", "upper"):
    _square(_name)


def _several(
    name: str, results: tuple[Callable[[tuple[Axis, ...]], tuple[Axis, ...]], ...]
) -> None:
    @builtin(name, "x")
    def build(ctx: Context, scope: Scope, span: Span, x: Any) -> tuple[Node, ...]:
        value = as_node(ctx, x, span)
        axes = _square_axes(ctx, value, name, span)
        return tuple(
            ctx.graph.add(
                name,
                value,
                type=replace(value.type, axes=(*axes[:-2], *axis(axes[-2:]))),
                span=span,
                part=i,
            )
            for i, axis in enumerate(results)
        )


_several("eigh", (lambda a: (a[0],), lambda a: (a[0], a[1])))
_several("qr", (lambda a: a, lambda a: (a[1], a[1].prime())))
_several(
    "svd",
    (
        lambda a: (a[0], Axis(SINGULAR)),
        lambda a: (Axis(SINGULAR),),
        lambda a: (Axis(SINGULAR), a[1]),
    ),
)


def _two_axes(ctx: Context, value: Node, span: Span) -> tuple[Axis, ...]:
    if len(value.type.axes) < 2:
        ctx.error(
            "E311",
            f"this takes a matrix, and the value is {value.type}",
            span,
            "`matrix(x)` makes one of each tensor",
        )
    *others, a, b = value.type.axes
    pairs = [(x, y) for k, x in enumerate(value.type.axes) for y in value.type.axes[k + 1 :]]
    pair = next((p for p in pairs if _pair(*p)), None)
    if pair is not None and not _pair(a, b):
        first = next(x for x in (a, b) if x not in pair)
        ctx.error(
            "E311",
            f"the last two axes are taken for the matrix, and in {value.type} these are "
            f"`{a}` and `{b}`",
            span,
            f"axes stand in the order in which they come: let a value with `{first}` be first",
        )
    return value.type.axes


SQUARE = ("solve", "cholesky", "inverse", "sqrtm", "eigh")
"""What takes a matrix with as many rows as columns."""


def _square_axes(ctx: Context, value: Node, name: str, span: Span) -> tuple[Axis, ...]:
    """The axes of what a function takes; where it needs a square, two that may have one size."""
    *_, a, b = axes = _two_axes(ctx, value, span)
    if name in SQUARE and _differ(a, b):
        help = "`m @ transpose(m)` is square; of a square tensor `as_square(m)` says that it is"
        message = f"`{name}` takes a square matrix, and the last two axes of {value.type} differ"
        ctx.error("E311", message, span, help if a.side else "")
    return axes


def _differ(a: Axis, b: Axis) -> bool:
    """Whether two axes surely have different sizes, or are two sides of a tensor's matrix."""
    sizes = (a.size, b.size)
    if all(isinstance(n, int) for n in sizes):
        return a.size != b.size
    return a.name != b.name and "" not in (a.side, b.side) and a.side != b.side


def _pair(a: Axis, b: Axis) -> bool:
    """Whether two axes are surely those of one matrix."""
    return a.name == b.name or {a.name, b.name} in ({"rows", "cols"}, {"short", "long"})
