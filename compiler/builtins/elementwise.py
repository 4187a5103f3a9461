"""Functions of each cell by itself."""

from __future__ import annotations

from typing import Any

from ..ir import Node
from ..scope import Context, Scope, as_node
from ..source import Span
from .declare import At, builtin
from .reductions import reduce


def _map(name: str, op: str, arity: int) -> None:
    letters = "abc"[:arity]

    @builtin(name, " ".join(letters))
    def build(ctx: Context, scope: Scope, span: Span, **given: Any) -> Node:
        values = [as_node(ctx, given[x], span, f"an argument of `{name}`") for x in letters]
        return ctx.map(op, *values, span=span)


UNARY = "abs sign sqrt exp ln sin cos arctan tanh sigmoid erf floor ceil round bf16 isfinite"
for _op in UNARY.split():
    _map(_op, _op, 1)

_map("where", "where", 3)
_map("mod", "mod", 2)


def _fold(name: str) -> None:
    """max and min: element-wise of several operands, or a reduction with `over`."""

    @builtin(name, rest=True)
    def build(
        ctx: Context, scope: Scope, span: Span, *values: Any, at: At, over: Any = None
    ) -> Node:
        if len(values) < 2 if over is None else len(values) != 1:
            wrong = f"`{name}` takes two values or more, or one and `over`"
            ctx.error("E205", wrong, span, f"{name}(a, b); {name}(x, over = row)")
        nodes = [as_node(ctx, v, span) for v in values]
        if over is not None:
            return reduce(ctx, name, nodes[0], over, span, at)
        result = nodes[0]
        for other in nodes[1:]:
            result = ctx.map(name, result, other, span=span)
        return result


_fold("max")
_fold("min")
