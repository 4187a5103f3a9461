"""Routing: `for` gives parts of a target, or other targets, rules of their own."""

from __future__ import annotations

from typing import Any

from . import syntax as s
from .expressions import node
from .ir import Domain, Node
from .meanings import Arguments, Function, SlotRef
from .scope import Block, Context, Scope, as_node
from .source import Span


def for_chain(ctx: Context, scope: Scope, chain: list[s.For], block: Block) -> None:
    """`for params where ..: for other params: ..`: the parts of one chain see the same versions.

    Blocks over declared targets (`for critic:`) run in the order of the text.
    """
    while chain:
        head = chain[0]
        if head.where is None and not head.other:
            _for_target(ctx, scope, chain.pop(0), block)
            continue
        parts = []
        while chain and (chain[0].where is not None or chain[0].other):
            parts.append(chain.pop(0))
            if parts[-1].other:
                break
        _route(ctx, scope, parts, block)


def _for_target(ctx: Context, scope: Scope, statement: s.For, block: Block) -> None:
    key = scope.target if statement.target == "params" else statement.target
    if key != scope.target and key not in ctx.targets:
        ctx.unknown("target", key, [*ctx.targets, "params"], statement.span)
    inner = scope.within(statement.span, target=key)
    inner.block = inner
    if "w" not in ctx.targets:  # a target of that name keeps it
        inner.names["w"] = SlotRef(key)
    batch = ctx.batch
    block(ctx, inner, statement.body)
    ctx.batch = batch
    ctx.flow.pop(f"{key}#d", None)


def _route(ctx: Context, scope: Scope, parts: list[s.For], block: Block) -> None:
    key = parts[0].target if parts[0].target in ctx.targets else scope.target
    start = ctx.flow[key]
    parent = start.type.domain
    names: list[str] = []
    ends: dict[str, Node] = {}
    for part in parts:
        inner = scope.within(part.span, target=key)
        where = None
        if part.where is not None:
            where = node(ctx, inner, part.where, "a condition on parameters")
            if where.known == 2:
                ctx.error(
                    "E315",
                    "parameters are routed by what the host knows of them",
                    part.where.span,
                    'names, shapes, types: `named("*bias")`, `ndim == 2`, `dtype("bfloat16")`',
                )
        domain = f"{parent}|{len([d for d in ctx.graph.domains if d.startswith(parent + '|')])}"
        ctx.graph.domains[domain] = Domain(domain, parent, where, tuple(names))
        names.append(domain)
        routed = f"{key}@{domain}"
        ctx.routed[routed] = key
        ctx.domain_key[domain] = routed
        ctx.flow[routed] = ctx.restrict(start, domain)
        inner.target, inner.block = routed, inner
        inner.names["w"] = SlotRef(routed)
        _inherit(ctx, scope, inner, routed, domain)
        batch = ctx.batch
        block(ctx, inner, part.body)
        ctx.batch = batch
        ends[domain] = ctx.flow.pop(routed)
        ctx.flow.pop(f"{routed}#d", None)
    ctx.flow[key] = ctx.merge(start, ends, parts[0].span)
    ctx.writes += 1


def _inherit(ctx: Context, scope: Scope, inner: Scope, routed: str, domain: str) -> None:
    """Steps above the chain count in its parts: the field, the loss, the direction."""
    outer = scope.block or scope
    for name in ("grad", "loss"):
        if name in outer.names:
            inner.names[name] = outer.names[name]
    if "grad" in inner.names:
        inner.names["grad"] = _restricted(ctx, inner.names["grad"], routed, domain)
    above = ctx.flow.get(f"{scope.target}#d")
    if above is not None:
        ctx.flow[f"{routed}#d"] = ctx.restrict(above, domain)


def _restricted(ctx: Context, field: Any, routed: str, domain: str) -> Any:
    def apply(given: Arguments, span: Span) -> Node:
        point = as_node(ctx, given.positional[0], span)
        _, whole = ctx.whole(routed, point, span)
        return ctx.restrict(as_node(ctx, field.apply(Arguments([whole], {}), span), span), domain)

    return Function(field.what, apply)
