"""Functions that depend on the order of cells: ranks, sorted cells, running sums, the largest."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from ..ir import Node
from ..meanings import Function
from ..scope import Context, Scope, as_node, constant
from ..source import Span
from ..types import COARSE, Axis
from .constants import axis_of
from .declare import At, builtin
from .reductions import reduce, there
from .views import back, flat


def _order(name: str) -> None:
    @builtin(name, "x over?")
    def build(ctx: Context, scope: Scope, span: Span, x: Any, at: At, over: Any = None) -> Node:
        value = as_node(ctx, x, span)
        if over is None and len(value.type.axes) == 1:
            over = value.type.axes
        axis = _reach(ctx, over, span, at)
        kept = tuple(a for a in value.type.axes if a.label != axis)
        if len(kept) == len(value.type.axes):
            ctx.unknown(
                "axis", axis, [str(a) for a in value.type.axes], at.get("over", span), "E308"
            )
        type = replace(value.type, axes=kept if name.startswith("arg") else value.type.axes)
        return ctx.graph.add("order", value, type=type, span=span, how=name, over=axis)


for _name in ("rank", "argmin", "argmax", "sort", "cumsum", "flip", "roll"):
    _order(_name)


@builtin("first", "x axis over?")
def first(
    ctx: Context, scope: Scope, span: Span, x: Any, axis: Any, at: At, over: Any = None
) -> Node:
    """The first places of an axis, as a new one; where it has fewer, the rest is 0."""
    value, new = as_node(ctx, x, span), axis_of(ctx, axis, at.get("axis", span))
    if over is None and len(value.type.axes) == 1:
        over = value.type.axes
    old = _reach(ctx, over, span, at)
    have = [a.label for a in value.type.axes]
    if old not in have:
        ctx.unknown("axis", old, have, at.get("over", span), "E308")
    if new.label in have:
        help = f"name the new axis otherwise: `first(x, lead(4), over = {old})`"
        ctx.error("E301", f"the value has the axis `{new}` already", span, help)
    if new.size is None and not new.side:
        wrong = f"nothing says how many places the axis `{new.name}` has"
        ctx.error("E308", wrong, at.get("axis", span), f"`first(x, {new.name}(4), over = {old})`")
    axes = tuple(new if a.label == old else a for a in value.type.axes)
    return ctx.graph.add("first", value, type=replace(value.type, axes=axes), span=span, over=old)


@builtin("quantile", "x q over")
def quantile(ctx: Context, scope: Scope, span: Span, x: Any, q: Any, over: Any, at: At) -> Node:
    value = as_node(ctx, x, span)
    mask: tuple[Node, ...] = ()
    if (
        _reach(ctx, over, span, at) == "model"
    ):  # the order of all cells matters: they become one axis
        mask = (flat(ctx, scope, span, there(ctx, value, span)),)
        value, over = flat(ctx, scope, span, value), (Axis("all"),)
    whole = reduce(ctx, "quantile", value, over, span, at)
    if not isinstance(whole["over"], tuple):
        ctx.error("E308", "a quantile goes over the model or over one axis", at.get("over", span))
    share = as_node(ctx, q, span)
    if (n := constant(share)) is not None and not 0 <= n <= 1:
        ctx.error("E309", f"a quantile is of a share from 0 to 1, not {n}", span)
    return ctx.graph.add(
        "reduce",
        value,
        share,
        *mask,
        type=whole.type,
        span=span,
        how="quantile",
        over=whole["over"],
    )


@builtin("top", "x over by? fraction? k?")
def top(
    ctx: Context,
    scope: Scope,
    span: Span,
    x: Any,
    over: Any,
    at: At,
    by: Any = None,
    fraction: Any = None,
    k: Any = None,
) -> Node:
    """The largest cells over a reach, zero elsewhere; ties go by position."""
    value = as_node(ctx, x, span)
    name = (
        "abs"
        if isinstance(by, Function)
        else by[0].name
        if isinstance(by, tuple) and by and isinstance(by[0], Axis)
        else "value"
    )
    if (fraction is None) == (k is None):
        ctx.error("E207", "`top` needs either `fraction` or `k`", span)
    size = as_node(ctx, fraction if k is None else k, span)
    n = constant(size)
    if n is not None and not (0 <= n <= 1 if k is None else 1 <= n < math.inf):
        wanted = "a fraction from 0 to 1" if k is None else "how many cells, 1 at least"
        ctx.error("E309", f"`top` takes {wanted}, not {n}", span)
    if value.type.reach in COARSE and not value.type.axes:
        ctx.error(
            "E308",
            "`top` takes the largest cells of tensors, and this is a number",
            at.get("x", span),
        )
    reach = _reach(ctx, over, span, at)
    whole = reach == "model" and value.type.reach == "element"
    if not whole and reach not in ("tensor", "all"):
        ctx.error("E308", "`top` goes over the model or each tensor", at.get("over", span))
    source = value
    mask: tuple[Node, ...] = ()
    if whole:
        source = flat(ctx, scope, span, value)
        mask = (flat(ctx, scope, span, there(ctx, value, span)),)
    kept = ctx.graph.add(
        "select",
        source,
        size,
        *mask,
        type=source.type,
        span=span,
        by=name,
        of="k" if fraction is None else "fraction",
    )
    if not whole:
        return kept
    cells = back(ctx, scope, span, kept, like=value)
    return there(ctx, value, span, cells)


def _reach(ctx: Context, over: Any, span: Span, at: At) -> str:
    if not isinstance(over, tuple) or len(over) != 1 or not isinstance(over[0], Axis):
        ctx.error("E308", "`over` names one reach or one axis", at.get("over", span))
    return over[0].label
