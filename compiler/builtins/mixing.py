"""What workers exchange: means of their values, weighted by who hears whom."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..ir import Node
from ..meanings import Mixing
from ..networks import unfit
from ..scope import Context, Scope, as_node, constant
from ..source import Span
from .declare import builtin


@builtin("mix", "x weights own?")
def mix(ctx: Context, scope: Scope, span: Span, x: Any, weights: Any, own: Any = None) -> Node:
    """The weighted mean of x among the workers; `own` stands in for a worker's own x."""
    _among(ctx, "mix", span)
    given = [as_node(ctx, v, span) for v in (x, own) if v is not None]
    type = replace(ctx.map("add", *(given * 2)[:2], span=span).type, logical=False)
    given = [ctx.expand(v, type, span) for v in given]
    return ctx.graph.add(
        "mix", *given, type=type, span=span, weights=_matrix(ctx, weights, span).weights
    )


@builtin("ring", "weight")
def ring(ctx: Context, scope: Scope, span: Span, weight: Any) -> Mixing:
    """The mixing weights of a ring: each worker and its two neighbours."""
    share = constant(as_node(ctx, weight, span))
    if share is None or not 0 < share <= 0.5:
        ctx.error("E309", "the weight of a neighbour is a constant in (0, 0.5]", span)
    return Mixing(("ring", float(share)))


def _matrix(ctx: Context, given: Any, span: Span) -> Mixing:
    """The mixing weights that are written as rows."""
    if isinstance(given, Mixing):
        return given
    rows = given if isinstance(given, tuple) else ()
    numbers = [[constant(x) for x in row] for row in rows if isinstance(row, tuple)]
    flat = [x for row in numbers for x in row]
    if not flat or len(numbers) != len(rows) or any(x is None for x in flat):
        known = "ring(1 / 3), complete, star, or rows like ((0.5, 0.5), (0.5, 0.5))"
        ctx.error("E316", "these are no mixing weights", span, f"weights are {known}")
    matrix = tuple(tuple(float(x or 0) for x in row) for row in numbers)
    if wrong := unfit(matrix):
        ctx.error("E316", f"the mixing matrix {wrong}", span)
    return Mixing(("matrix", matrix))


def _among(ctx: Context, what: str, span: Span) -> None:
    if not ctx.graph.workers:
        ctx.error("E312", f"`{what}` is of rules that say `over workers`", span)
