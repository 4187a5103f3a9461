"""Loops: `repeat` is unrolled where its count is a small constant, else a node with a region."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from . import syntax as s
from .expressions import node
from .ir import Node, Region, substitute
from .scope import Block, Context, Scope, Turn, agreed, constant
from .types import MODEL, Type, coarser_or_equal, union

UNROLL_LIMIT = 32
"""Loops that turn no oftener are unrolled."""


def repeat(ctx: Context, scope: Scope, statement: s.Repeat, block: Block) -> None:
    """`repeat n as i until c`: unrolled where n is a small constant, else a loop node."""
    count = node(ctx, scope, statement.count, "a count")
    n = constant(count)
    if count.known == 2 or count.type.reach not in ("group", "model"):
        ctx.error(
            "E314",
            "the host must know how often a loop turns at most, the same for all tensors",
            statement.count.span,
            "`repeat N until c:` stops by itself",
        )
    if n is not None and (not 0 <= n <= 1e6 or n != int(n)):
        ctx.error("E309", f"a loop turns 0 to 1000000 times, not {n}", statement.count.span)
    if n is not None and statement.until is None and n <= UNROLL_LIMIT:
        return _unroll(ctx, scope, statement, block, int(n))
    _loop(ctx, scope, statement, block, count)


def _unroll(ctx: Context, scope: Scope, statement: s.Repeat, block: Block, n: int) -> None:
    """The body n times; a step inside keeps one state, whatever the turn.

    A direction that a turn begins ends with it, as in a loop that stays one.
    """
    paths, before = set(ctx.paths), set(ctx.flow)
    for i in range(n):
        inner = scope.within(statement.span)
        index = ctx.graph.const(i, statement.span)
        if statement.index:
            inner.names[statement.index] = index
        if i:
            ctx.paths = set(paths)
        with turn(ctx, Turn(index, n)):
            block(ctx, inner, statement.body)
        for key in [k for k in ctx.flow if k.endswith("#d") and k not in before]:
            del ctx.flow[key]


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
    inner = scope.within(statement.span)
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
