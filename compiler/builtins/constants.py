"""Numbers with a name, and values that are made from nothing: filled, unit and evenly spaced."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from ..ir import Node
from ..meanings import AxisName
from ..scope import Context, Scope, as_node, constant
from ..source import Span
from ..types import MODEL, Axis, Type
from .declare import At, builtin
from .metadata import meta

CONSTANTS: dict[str, float | bool] = {
    "pi": math.pi,
    "inf": math.inf,
    "nan": math.nan,
    "true": True,
    "false": False,
}


def _filled(name: str, number: float) -> None:
    @builtin(name, "like axis?")
    def build(ctx: Context, scope: Scope, span: Span, like: Any, at: At, axis: Any = None) -> Node:
        """A constant for each cell of `like` (and each place of `axis`), or for each place of an
        axis alone.
        """
        if isinstance(like, AxisName) and axis is None:
            like, axis = ctx.graph.const(number, span), like
        type = replace(as_node(ctx, like, span).type, logical=False)
        if axis is not None:
            type = replace(type, axes=(*type.axes, axis_of(ctx, axis, at.get("axis", span))))
        return ctx.expand(ctx.graph.const(number, span), type, span)


_filled("zeros", 0.0)
_filled("ones", 1.0)


def axis_of(ctx: Context, value: Any, span: Span) -> Axis:
    if not isinstance(value, AxisName):
        ctx.error("E308", "the name of an axis is expected here", span, "for example `eye(losses)`")
    return value.axis


@builtin("eye", "axis")
def eye(ctx: Context, scope: Scope, span: Span, axis: Any, at: At) -> Node:
    a = axis_of(ctx, axis, at.get("axis", span))
    reach, domain = ("tensor", ctx.flow[scope.target].type.domain) if a.side else ("model", "")
    return ctx.graph.add("eye", type=Type(reach, (a, a.prime()), domain), known=2, span=span)


@builtin("size", "axis")
def size(ctx: Context, scope: Scope, span: Span, axis: Any, at: At) -> Node:
    a = axis_of(ctx, axis, at.get("axis", span))
    if isinstance(a.size, int):
        return ctx.graph.const(a.size, span)
    if isinstance(a.size, Node):
        return a.size
    if a.side:
        rows, cols = (meta(ctx, scope, what, span) for what in ("rows", "cols"))
        if a.side in ("rows", "cols"):
            return rows if a.side == "rows" else cols
        return ctx.map("min" if a.side == "short" else "max", rows, cols, span=span)
    return ctx.graph.add("size", type=MODEL, known=2, span=span, axis=a)


@builtin("grid", "axis low high n")
def grid(
    ctx: Context, scope: Scope, span: Span, axis: Any, low: Any, high: Any, n: Any, at: At
) -> Node:
    """n points from low to high along a new axis; one point is low."""
    places = constant(as_node(ctx, n, span))
    if not isinstance(places, int) or not 1 <= places <= 4096:
        ctx.error("E309", "`grid` needs a constant number of points, 1 to 4096", span)
    a = Axis(axis_of(ctx, axis, at.get("axis", span)).name, places)
    ctx.axes[a.name] = a
    i = ctx.graph.add("iota", type=Type("model", (a,)), known=2, span=span)
    lo, hi = as_node(ctx, low, span), as_node(ctx, high, span)
    gaps = ctx.graph.const(max(places - 1, 1))
    step = ctx.map("div", ctx.map("sub", hi, lo, span=span), gaps, span=span)
    return ctx.map("add", lo, ctx.map("mul", i, step, span=span), span=span)
