"""What the host knows of a tensor: its name, module, number type and shape."""

from __future__ import annotations

from typing import Any

from ..ir import Node
from ..scope import Context, Scope, as_node, constant
from ..source import Span
from ..types import Type
from .declare import builtin

METAS = {"ndim", "rows", "cols", "numel", "place"}


@builtin("named", rest=True)
def named(ctx: Context, scope: Scope, span: Span, *patterns: Any) -> Node:
    """Whether the name of a tensor matches one of the patterns."""
    return _matches(ctx, scope, "name", patterns, span)


@builtin("module", rest=True)
def module(ctx: Context, scope: Scope, span: Span, *names: Any) -> Node:
    """Whether the module that owns a tensor has one of these types (`Linear`, `Conv2d`)."""
    return _matches(ctx, scope, "module", names, span)


@builtin("dtype", rest=True)
def dtype(ctx: Context, scope: Scope, span: Span, *names: Any) -> Node:
    """Whether a tensor has one of these types (`float32`, `bfloat16`)."""
    return _matches(ctx, scope, "dtype", names, span)


@builtin("shape", "place")
def shape(ctx: Context, scope: Scope, span: Span, place: Any) -> Node:
    at = constant(as_node(ctx, place, span))
    if at is None or not 0 <= at < 64 or at != int(at):
        ctx.error("E303", "`shape` takes the number of a dimension, from 0 on", span)
    return meta(ctx, scope, "shape", span, place=int(at))


def _matches(ctx: Context, scope: Scope, what: str, patterns: tuple[Any, ...], span: Span) -> Node:
    if not patterns or not all(isinstance(p, str) for p in patterns):
        ctx.error("E310", 'this takes patterns as texts, like `named("*bias")`', span)
    return meta(ctx, scope, what, span, logical=True, patterns=patterns)


def meta(
    ctx: Context, scope: Scope, what: str, span: Span, logical: bool = False, **more: Any
) -> Node:
    """What the host knows of each tensor of the target."""
    type = Type("tensor", (), ctx.domain(scope), logical)
    return ctx.graph.add("meta", type=type, known=1, span=span, what=what, **more)
