"""Statements with bodies: if, every, repeat, for. They split and join the flow of versions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from . import syntax as s
from .expressions import node
from .ir import Domain, Node, Region, substitute
from .scope import (
    POISON,
    Arguments,
    Context,
    Function,
    Scope,
    SlotRef,
    Turn,
    agreed,
    as_node,
    constant,
)
from .source import Span
from .types import MODEL, Type, coarser_or_equal, union

Block = Callable[[Context, Scope, Iterable[s.Statement]], None]
UNROLL_LIMIT = 32


def if_statement(ctx: Context, scope: Scope, statement: s.If, block: Block) -> None:
    condition = node(ctx, scope, statement.condition, "a condition")
    branch(ctx, scope, condition, statement.body, statement.orelse, block, statement.span)


def every(ctx: Context, scope: Scope, statement: s.Every, block: Block) -> None:
    """`every k` means `if (call - 1) % k == 0`; the host knows it."""
    period = node(ctx, scope, statement.period, "a period")
    if constant(period) == 1:
        return block(ctx, scope, statement.body)
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
    yes_names = _side(ctx, scope, condition, body, block)
    yes, ctx.flow = ctx.flow, dict(start)
    no_names = _side(ctx, scope, opposite, orelse, block)
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
    ctx: Context, scope: Scope, condition: Node, body: Iterable[s.Statement], block: Block
) -> dict[str, Any]:
    inner = scope.child()
    ctx.conditions.append(condition)
    block(ctx, inner, body)
    ctx.conditions.pop()
    return inner.names


# Loops ----------------------------------------------------------------------------------------


def repeat(ctx: Context, scope: Scope, statement: s.Repeat, block: Block) -> None:
    """`repeat n as i until c`: unrolled where n is a small constant, else a loop node."""
    count = node(ctx, scope, statement.count, "a count")
    n = constant(count)
    if count.known == 2:
        ctx.error(
            "E314",
            "the host must know how often a loop turns at most",
            statement.count.span,
            "`repeat N until c:` stops by itself",
        )
    if n is not None and (n != n or n != int(n) or not 0 <= n <= 1e6):
        ctx.error("E309", f"a loop turns 0 to 1000000 times, not {n}", statement.count.span)
    if n is not None and statement.until is None and n <= UNROLL_LIMIT:
        return _unroll(ctx, scope, statement, block, int(n))
    _loop(ctx, scope, statement, block, count)


def _loop(ctx: Context, scope: Scope, statement: s.Repeat, block: Block, count: Node) -> None:
    """The body once, as a region; it is read until what it carries has its slots and types."""
    before, paths = dict(ctx.flow), set(ctx.paths)
    first = _turn(ctx, scope, statement, block, before)
    # slots of steps inside the body are carried like those that stand above
    start = {**before, **{p: ctx.flow_of(p) for p in ctx.graph.slots if p not in before}}
    ctx.slot_of.update({p: p for p in ctx.graph.slots})
    if len(start) > len(before):
        ctx.paths = set(paths)
        first = _turn(ctx, scope, statement, block, start)
    # a value that the body makes finer begins finer: read the body once more with that type
    widened = {
        k: ctx.expand(start[k], _wider(start[k].type, first[1][k].type), statement.span)
        for k in first[0]
        if k not in ctx.slot_of
    }
    start.update(widened)
    ctx.paths = set(paths)
    parameters, ends, index, until = _turn(ctx, scope, statement, block, start)
    changed = [k for k in parameters if ends[k] is not parameters[k]]
    unchanged = {parameters[k]: start[k] for k in parameters if k not in changed}
    table = substitute(
        ctx.graph,
        [*(ends[k] for k in changed), *([until] if until else [])],
        {**unchanged, **{parameters[k]: parameters[k] for k in changed}},
    )
    region = Region(
        tuple(parameters[k] for k in changed),
        index,
        tuple(table[ends[k]] for k in changed),
        table[until] if until else None,
    )
    loop = ctx.graph.add(
        "loop", count, *(start[k] for k in changed), type=MODEL, span=statement.span, body=region
    )
    ctx.flow = dict(start)
    for i, key in enumerate(changed):
        type = ends[key].type
        ctx.flow[key] = ctx.graph.add("out", loop, type=type, span=statement.span, index=i)


def _unroll(ctx: Context, scope: Scope, statement: s.Repeat, block: Block, n: int) -> None:
    """The body n times; a step inside keeps one state, whatever the turn.

    A direction that a turn begins ends with it, as in a loop that stays one.
    """
    paths, before = set(ctx.paths), set(ctx.flow)
    for i in range(n):
        inner = scope.child()
        index = ctx.graph.const(i, statement.span)
        if statement.index:
            inner.names[statement.index] = index
        if i:
            ctx.paths = set(paths)
        with turn(ctx, Turn(index, n)):
            block(ctx, inner, statement.body)
        for key in [k for k in ctx.flow if k.endswith("#d") and k not in before]:
            del ctx.flow[key]


@contextmanager
def turn(ctx: Context, one: Turn) -> Iterator[None]:
    """While a turn of a loop is read: steps inside count it."""
    ctx.turns.append(one)
    counted, ctx.counted = ctx.counted, {}
    try:
        yield
    finally:
        ctx.turns.pop()
        ctx.counted = counted


def _wider(a: Type, b: Type) -> Type:
    fine = a if coarser_or_equal(b.reach, a.reach) else b
    return Type(fine.reach, union(a.axes, b.axes), a.domain or b.domain)


def _turn(
    ctx: Context, scope: Scope, statement: s.Repeat, block: Block, start: dict[str, Node]
) -> tuple[dict[str, Node], dict[str, Node], Node, Node | None]:
    """Read a loop's body once with a parameter for every version that it may carry."""
    ctx.streams += 1
    stream, graph = ctx.streams, ctx.graph
    parameters = {
        k: graph.add("parameter", type=v.type, known=2, span=statement.span, stream=stream, of=k)
        for k, v in start.items()
    }
    index = graph.add(
        "parameter", type=MODEL, known=2, span=statement.span, stream=stream, of="%index"
    )
    ctx.flow = dict(parameters)
    inner = scope.child()
    if statement.index:
        inner.names[statement.index] = index
    ctx.loops.append(index)
    # the condition is looked at before each turn: a loop whose end is reached already does not turn
    until = None
    if statement.until is not None:
        condition = node(ctx, inner, statement.until, "a condition")
        until = agreed(ctx, condition, statement.until.span)
    count = constant(node(ctx, scope, statement.count, "a count")) if until is None else None
    with turn(ctx, Turn(index, int(count) if count is not None else None)):
        block(ctx, inner, statement.body)
    ctx.loops.pop()
    ends = {k: v for k, v in ctx.flow.items() if k in parameters}
    ctx.flow = dict(start)
    return parameters, ends, index, until


# Routing --------------------------------------------------------------------------------------


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
    inner = scope.child(target=key)
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
        inner = scope.child(target=key)
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
