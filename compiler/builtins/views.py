"""The same cells arranged otherwise: as matrices, in one axis, back again."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..ir import Node
from ..scope import Context, Scope, agreed, as_node
from ..source import Span
from ..types import Axis, Type
from .declare import builtin

BACK = [["rows", "cols"], ["short", "long"], ["all"]]
"""The last axes of what has cells to give back."""


@builtin("matrix", "x")
def matrix(ctx: Context, scope: Scope, span: Span, x: Any) -> Node:
    """The cells of each tensor as a matrix: the first dimension against the others."""
    given = as_node(ctx, x, span)
    t = given.type
    if not t.domain:
        ctx.error("E311", f"a matrix is made of the cells of tensors, and this is {t}", span)
    value = ctx.expand(given, replace(t, reach="element"), span)
    return ctx.graph.add(
        "matrix",
        value,
        type=Type("tensor", (*t.axes, Axis("rows"), Axis("cols")), t.domain),
        span=span,
    )


@builtin("wide", "x")
def wide(ctx: Context, scope: Scope, span: Span, x: Any) -> Node:
    """`matrix(x)`, turned where it is tall: its shorter side against its longer one."""
    value = matrix(ctx, scope, span, x)
    axes = (*value.type.axes[:-2], Axis("short"), Axis("long"))
    type = replace(value.type, axes=axes)
    return ctx.graph.add("wide", value.inputs[0], type=type, span=span)


@builtin("flat", "x")
def flat(ctx: Context, scope: Scope, span: Span, x: Any) -> Node:
    """All cells of the target in one axis, in the order of the parameters."""
    value = as_node(ctx, x, span)
    if not value.type.domain:
        ctx.error("E311", f"`flat` takes the cells of tensors, and this is {value.type}", span)
    here = ctx.domain(scope)
    if value.type.domain in ctx.above(here):
        value = ctx.restrict(value, here)
    type = Type("model", (*value.type.axes, ctx.everything(value.type.domain)))
    return ctx.graph.add("flat", value, type=type, span=span)


@builtin("back", "x like?")
def back(ctx: Context, scope: Scope, span: Span, x: Any, like: Any = None) -> Node:
    """The cells of a matrix or of a flat value where they came from."""
    value = agreed(ctx, as_node(ctx, x, span), span)
    if [_view(a) for a in value.type.axes[-2:]] in (["cols", "rows"], ["long", "short"]):
        # axes go by name, in whatever order they came
        *rest, a, b = value.type.axes
        type = replace(value.type, axes=(*rest, b, a))
        value = ctx.graph.add("transpose", value, type=type, span=span)
    domain = value.type.domain or ctx.domain(scope)
    if like is not None:
        value, whose = ctx.narrowed((value, as_node(ctx, like, span)))
        domain = whose.type.domain
    count = 2 if value.type.reach == "tensor" else 1
    axes, last = value.type.axes[:-count], value.type.axes[-count:]
    if [_view(a) for a in last] not in BACK:
        wrong = (
            f"`back` takes a matrix of each tensor, or what `flat` gave, and this is {value.type}"
        )
        ctx.error("E311", wrong, span)
    return ctx.graph.add("back", value, type=Type("element", axes, domain), span=span)


def _view(axis: Axis) -> str:
    """Which axis of a matrix or a flat value it is, under whatever name."""
    return axis.side or axis.name


@builtin("prime", "x")
def prime(ctx: Context, scope: Scope, span: Span, x: Any) -> Node:
    return primed(ctx, as_node(ctx, x, span), 1)


def primed(ctx: Context, value: Node, by: int) -> Node:
    """The same value with its axes primed, so that they do not align with the unprimed ones."""
    t = value.type
    axes = tuple(a.prime(by) for a in t.axes)
    return ctx.graph.add("prime", value, type=Type(t.reach, axes, t.domain, t.logical), by=by)
