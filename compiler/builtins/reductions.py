"""Functions that make a value coarser: one number of many cells, over a reach or over axes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..ir import Node
from ..meanings import Mixing
from ..scope import Context, Scope, as_node
from ..source import Span
from ..types import COARSE, REACHES, Axis, coarser_or_equal
from .declare import NOWHERE, At, builtin
from .mixing import mix


def reduce(ctx: Context, how: str, value: Node, over: Any, span: Span, at: At = NOWHERE) -> Node:
    """Make a value coarser: over a reach, or over named axes."""
    stands = at.get("over", span)
    if not isinstance(over, tuple) or not all(isinstance(a, Axis) for a in over):
        ctx.error(
            "E308", "`over` names a reach or an axis", stands, f"a reach: {', '.join(REACHES)}"
        )
    if len(over) == 1 and over[0].name in REACHES:
        reach = over[0].name
        if reach == "tensor" == value.type.reach and value.type.axes:
            axes = [str(replace(a, size=None)) for a in value.type.axes]
            inner = f"({', '.join(axes)})" if axes[1:] else axes[0]
            wrong = f"a value of type {value.type} is one for each tensor already"
            ctx.error("E308", wrong, stands, f"name its axes: `over = {inner}`")
        if reach == value.type.reach:
            return value
        if not coarser_or_equal(reach, value.type.reach):
            ctx.error(
                "E308",
                f"a value of reach {value.type.reach} has no cells to reduce over {reach}",
                stands,
            )
        type = replace(value.type.at(reach), logical=how in ("any", "all"))
        return ctx.graph.add("reduce", value, type=type, span=span, how=how, over=reach)
    for axis in over:
        if axis.name in REACHES:
            wrong = f"`{axis.name}` is a reach, and cannot stand among axes"
            help = f"alone: `over = {axis.name}`; in turn: `sum(sum(x, over = a), over = model)`"
            ctx.error("E308", wrong, stands, help)
        if value.type.axis(axis.name, axis.primes) is None:
            known = [str(a) for a in value.type.axes]
            ctx.unknown("axis", axis.name, [*known, *REACHES], stands, "E308")
    kept = tuple(a for a in value.type.axes if not any(a.same(o) for o in over))
    names = tuple(o.label for o in over)
    type = replace(value.type, axes=kept, logical=how in ("any", "all"))
    return ctx.graph.add("reduce", value, type=type, span=span, how=how, over=names)


def _reduction(name: str, how: str) -> None:
    @builtin(name, "x over")
    def build(ctx: Context, scope: Scope, span: Span, x: Any, over: Any, at: At) -> Node:
        return reduce(ctx, how, as_node(ctx, x, span), over, span, at)


for _name, _how in (("sum", "sum"), ("any", "any"), ("all", "all"), ("product", "prod")):
    _reduction(_name, _how)


def there(ctx: Context, value: Node, span: Span, result: Node | None = None) -> Node:
    """A result, or 1 in each cell, absent where a value is."""
    result = ctx.graph.const(1.0) if result is None else result
    return ctx.map("where", ctx.map("eq", value, value, span=span), result, result, span=span)


@builtin("count", "x over")
def count(ctx: Context, scope: Scope, span: Span, x: Any, over: Any, at: At) -> Node:
    """How many cells a value has over a reach (all of them, whatever their values)."""
    return reduce(ctx, "sum", there(ctx, as_node(ctx, x, span), span), over, span, at)


@builtin("mean", "x over")
def mean(ctx: Context, scope: Scope, span: Span, x: Any, over: Any, at: At) -> Node:
    value = as_node(ctx, x, span)
    if over == (Axis("workers"),):
        return mix(ctx, scope, span, value, Mixing(("complete",)))
    total = reduce(ctx, "sum", value, over, span, at)
    if total.type.reach in COARSE:
        return ctx.map("div", total, count(ctx, scope, span, value, over, at), span=span)
    # what is absent is so in the sum: the cells are counted without a look at them
    ones = ctx.expand(ctx.graph.const(1.0), replace(value.type, logical=False), span)
    return ctx.map("div", total, reduce(ctx, "sum", ones, over, span), span=span)


@builtin("norm", "x over")
def norm(ctx: Context, scope: Scope, span: Span, x: Any, over: Any, at: At) -> Node:
    """The Euclidean norm over a reach or over axes."""
    value = as_node(ctx, x, span)
    square = ctx.map("mul", value, value, span=span)
    return ctx.map("sqrt", reduce(ctx, "sum", square, over, span, at), span=span)


@builtin("dot", "a b over")
def dot(ctx: Context, scope: Scope, span: Span, a: Any, b: Any, over: Any, at: At) -> Node:
    """Products summed over a reach; axes that only one operand has stay."""
    left, right = ctx.narrowed((as_node(ctx, a, span), as_node(ctx, b, span)))
    if not left.type.axes and not right.type.axes:
        return reduce(ctx, "sum", ctx.map("mul", left, right, span=span), over, span, at)
    product = ctx.map("mul", left, right, span=span)
    summed = reduce(ctx, "sum", product, over, span, at)
    if not any(o.name in REACHES for o in over):
        return summed
    return ctx.graph.add("contract", left, right, type=summed.type, span=span, over=over[0].name)
