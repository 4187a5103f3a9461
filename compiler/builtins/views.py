"""The same cells arranged otherwise: as matrices, in one axis, back again."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..ir import Node
from ..scope import Context, Scope, as_node
from ..source import Span
from ..types import Axis, Type
from .declare import builtin


@builtin("matrix", "x")
def matrix(ctx: Context, scope: Scope, span: Span, x: Any) -> Node:
    """The cells of each tensor as a matrix: the first dimension against the others."""
    t = as_node(ctx, x, span).type
    value = ctx.expand(as_node(ctx, x, span), replace(t, reach="element"), span)
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
    type = Type("model", (*value.type.axes, Axis("all")))
    return ctx.graph.add("flat", value, type=type, span=span)


@builtin("back", "x like?")
def back(ctx: Context, scope: Scope, span: Span, x: Any, like: Any = None) -> Node:
    """The cells of a matrix or of a flat value where they came from."""
    value = as_node(ctx, x, span)
    if [str(a) for a in value.type.axes[-2:]] in (["cols", "rows"], ["long", "short"]):
        # axes go by name, in whatever order they came
        *rest, a, b = value.type.axes
        type = replace(value.type, axes=(*rest, b, a))
        value = ctx.graph.add("transpose", value, type=type, span=span)
    key = scope.target
    domain = as_node(ctx, like, span).type.domain if like is not None else ctx.flow[key].type.domain
    count = 2 if value.type.reach == "tensor" else 1
    axes = value.type.axes[:-count]
    return ctx.graph.add("back", value, type=Type("element", axes, domain), span=span)


@builtin("prime", "x")
def prime(ctx: Context, scope: Scope, span: Span, x: Any) -> Node:
    return primed(ctx, as_node(ctx, x, span), 1)


def primed(ctx: Context, value: Node, by: int) -> Node:
    """The same value with its axes primed, so that they do not align with the unprimed ones."""
    t = value.type
    axes = tuple(a.prime(by) for a in t.axes)
    return ctx.graph.add("prime", value, type=Type(t.reach, axes, t.domain, t.logical), by=by)
