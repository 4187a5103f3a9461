"""Random numbers: each call draws from a stream of its own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..ir import Node
from ..scope import Context, Scope, as_node, constant
from ..source import Span
from ..types import MODEL, Type
from .constants import axis_of
from .declare import At, builtin
from .reductions import reduce


def _draw(ctx: Context, how: str, type: Type, span: Span) -> Node:
    """Numbers that no other call draws, and anew in each turn of the loops around it."""
    ctx.streams += 1
    return ctx.graph.add("random", *ctx.loops, type=type, span=span, how=how, stream=ctx.streams)


def _random(name: str) -> None:
    @builtin(name, "like? axis?")
    def build(
        ctx: Context, scope: Scope, span: Span, at: At, like: Any = None, axis: Any = None
    ) -> Node:
        """A draw for each cell; calls in other places, or in other turns of a loop, differ."""
        type = replace(as_node(ctx, like, span).type, logical=False) if like is not None else MODEL
        if type.reach == "group":  # like an option: one number
            type = replace(type, reach="model")
        if axis is not None:
            own = axis_of(ctx, axis, at.get("axis", span))
            if type.axis(own.name, own.primes) is not None:
                help = f"leave it out: `{name}(x)` draws for each of its places"
                ctx.error("E301", f"the value has the axis `{own}` already", span, help)
            type = replace(type, axes=(own, *type.axes))
        return _draw(ctx, name, type, span)


for _name in ("normal", "uniform", "rademacher"):
    _random(_name)


@builtin("coin", "p")
def coin(ctx: Context, scope: Scope, span: Span, p: Any) -> Node:
    """True with probability p.

    Drawn on the host, so that what it guards is not paid for when false; in a loop, on the device,
    anew for each turn.
    """
    chance = as_node(ctx, p, span)
    if (n := constant(chance)) is not None and not 0 <= n <= 1:
        ctx.error("E309", f"a coin falls with a probability from 0 to 1, not {n}", span)
    if ctx.loops:
        drawn = _draw(ctx, "uniform", MODEL, span)
    else:
        ctx.streams += 1
        drawn = ctx.graph.add(
            "clock", type=MODEL, known=1, span=span, which="coin", stream=ctx.streams
        )
    return ctx.map("lt", drawn, chance, span=span)


@builtin("sample", "p over?")
def sample(ctx: Context, scope: Scope, span: Span, p: Any, over: Any = None) -> Node:
    """A class for each example, drawn with the probabilities p: the first whose running sum passes
    u.
    """
    value = as_node(ctx, p, span)
    axes = over if isinstance(over, tuple) else (value.type.axes[-1],)
    last = next(a for a in value.type.axes if a.same(axes[0]))
    kept = tuple(a for a in value.type.axes if a is not last)
    u = _draw(ctx, "uniform", replace(value.type, axes=kept), span)
    running = ctx.graph.add(
        "order", value, type=value.type, span=span, how="cumsum", over=last.label
    )
    below = ctx.map(
        "where",
        ctx.map("lt", running, u, span=span),
        ctx.graph.const(1.0),
        ctx.graph.const(0.0),
        span=span,
    )
    return reduce(ctx, "sum", below, (last,), span)
