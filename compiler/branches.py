"""Branches: `if` and `every` read both sides from the same versions and join what they wrote."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from . import syntax as s
from .expressions import counts, node
from .ir import Node
from .meanings import POISON, SlotRef
from .scope import Block, Context, Scope, agreed, constant
from .source import Span
from .types import MODEL


def if_statement(ctx: Context, scope: Scope, statement: s.If, block: Block) -> None:
    condition = node(ctx, scope, statement.condition, "a condition")
    branch(ctx, scope, condition, statement.body, statement.orelse, block, statement.span)


def every(ctx: Context, scope: Scope, statement: s.Every, block: Block) -> None:
    """`every k` means `if (call - 1) % k == 0`; the host knows it."""
    period = node(ctx, scope, statement.period, "a period")
    n = constant(period)
    if n is not None and (not n >= 1 or math.isfinite(n) and n != int(n)):
        ctx.error(
            "E309",
            f"a period is a whole number of steps, 1 at least, not {n}",
            statement.period.span,
        )
    if n == 1:
        return block(ctx, scope, statement.body)
    counts(ctx, period, "count", statement.period.span)
    domain = ctx.flow[scope.target].type.domain
    call = ctx.graph.add("clock", type=MODEL, known=1, which="call", scope=domain)
    graph, span = ctx.graph, statement.span
    phase = ctx.map("mod", ctx.map("sub", call, graph.const(1), span=span), period, span=span)
    due = ctx.map("eq", phase, graph.const(0), span=span)
    branch(ctx, scope, due, statement.body, statement.orelse, block, span)


def branch(
    ctx: Context,
    scope: Scope,
    condition: Node,
    body: Iterable[s.Statement],
    orelse: Iterable[s.Statement],
    block: Block,
    span: Span,
) -> None:
    """Read both bodies from the same versions and join what they wrote by the condition."""
    known = constant(condition)
    if known is not None:
        return block(ctx, scope, body if known else orelse)
    start = dict(ctx.flow)
    opposite = ctx.map("not", condition, span=span)
    yes_names = _side(ctx, scope, condition, body, block, span)
    yes, ctx.flow = ctx.flow, dict(start)
    no_names = _side(ctx, scope, opposite, orelse, block, span)
    no = ctx.flow
    joined: dict[str, Node] = {}
    for key in {**yes, **no}:
        # a slot declared in one branch only keeps its version; it is not written in the other
        a, b = yes.get(key), no.get(key)
        if key.endswith("#d") and (a is None or b is None):
            continue
        a = a if a is not None else ctx.graph.add("read", type=b.type, known=2, slot=key)  # type: ignore[union-attr]
        b = b if b is not None else ctx.graph.add("read", type=a.type, known=2, slot=key)
        joined[key] = a if a is b else _joined(ctx, key, condition, a, b, span)
    ctx.flow = joined
    for name in yes_names.keys() & no_names.keys():
        pair = yes_names[name], no_names[name]
        if all(isinstance(x, Node) for x in pair):
            scope.names[name] = ctx.where(condition, *pair, span)
    for name, value in {**yes_names, **no_names}.items():
        if isinstance(value, SlotRef) or value is POISON:
            scope.names.setdefault(name, value)


def _joined(ctx: Context, key: str, condition: Node, a: Node, b: Node, span: Span) -> Node:
    """The version of a slot behind an `if`; a `var` takes the finer type, a state keeps its own."""
    slot = ctx.graph.slots.get(ctx.slot_of.get(key, ""))
    if slot is not None and not ctx.fits(condition.type, slot.type):
        if condition.type.reach != "group" or condition.type.axes:
            ctx.error(
                "E304",
                f"a condition of type {condition.type} cannot guard `{slot.path}`, a slot of type "
                f"{slot.type}",
                condition.span,
                f"declare it with `: {condition.type}`, or reduce the condition: "
                "`any(.., over = model)`",
            )
        condition = agreed(ctx, condition, span)
    return ctx.where(condition, a, b, span)


def _side(
    ctx: Context,
    scope: Scope,
    condition: Node,
    body: Iterable[s.Statement],
    block: Block,
    span: Span,
) -> dict[str, Any]:
    inner = scope.within(span)
    ctx.conditions.append(condition)
    block(ctx, inner, body)
    ctx.conditions.pop()
    return inner.names
