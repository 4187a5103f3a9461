"""Loops: `repeat` is unrolled where its count is a small constant, else a node with a region."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from . import syntax as s
from .bounds import TURNS, UNROLL_LIMIT
from .expressions import counted, node
from .ir import Node, Region, substitute
from .scope import Block, Context, Disagreement, Scope, Turn, agreed, constant, same_axes
from .types import MODEL, Type, coarser_or_equal, union

ONE_END = (
    "a loop ends for all groups at once, and this is a condition of each group",
    "`all(.., over = model)` waits for the last one; `a <- where(.., a, next)` in a loop without "
    "`until` stops each by itself",
)
"""What is said of an `until` that differs by group."""

Read = tuple[dict[str, Node], dict[str, Node], Node, Node | None]
"""A turn as it was read: what it began with, what it ended with, its number, its `until`."""


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
    if n is not None and (not 0 <= n <= TURNS or n != int(n)):
        ctx.error("E309", f"a loop turns 0 to {TURNS} times, not {n}", statement.count.span)
    if n is not None and statement.until is None and n <= UNROLL_LIMIT:
        return _unroll(ctx, scope, statement, block, int(n))
    count = count if n is not None else counted(ctx, count, "integer", statement.count.span)
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
    """The body once, as a region; groups agree on the variables that it needs for the model."""
    flow, paths, begun = dict(ctx.flow), set(ctx.paths), ctx.streams
    loops, conditions, batch = len(ctx.loops), len(ctx.conditions), ctx.batch
    while True:
        try:
            return _carry(ctx, scope, statement, block, count)
        except Disagreement as found:
            if found.parameter["stream"] <= begun:
                raise  # it is carried by a loop around this one
            del ctx.loops[loops:], ctx.conditions[conditions:]
            ctx.paths, ctx.batch = set(paths), batch
            key = found.parameter["of"]
            flow[key] = agreed(ctx, flow[key], statement.span)
            ctx.flow = dict(flow)


def _carry(ctx: Context, scope: Scope, statement: s.Repeat, block: Block, count: Node) -> None:
    """The body is read until what it carries has its slots and types."""
    before, paths = dict(ctx.flow), set(ctx.paths)
    first = _turn(ctx, scope, statement, block, before)
    # slots of steps inside the body are carried like those that stand above
    start = {**before, **{p: ctx.flow_of(p) for p in ctx.graph.slots if p not in before}}
    ctx.slot_of.update({p: p for p in ctx.graph.slots})
    if len(start) > len(before):
        ctx.paths = set(paths)
        first = _turn(ctx, scope, statement, block, start)
    # a value that the body makes finer begins finer: read the body again with those types, until
    # none of them changes
    while True:
        finer = _finer(ctx, start, first)
        start.update({k: ctx.expand(start[k], t, statement.span) for k, t in finer.items()})
        ctx.paths = set(paths)
        first = _turn(ctx, scope, statement, block, start)
        if not _finer(ctx, start, first):
            break
    parameters, ends, index, until = first
    if until is not None:
        _stops(ctx, parameters, ends, until)
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


def _finer(ctx: Context, start: dict[str, Node], turn: Read) -> dict[str, Type]:
    """The types of what a turn makes finer than it began: by what it writes, or cell by cell."""
    parameters, ends, _, until = turn
    result = {}
    for k, p in parameters.items():
        if k in ctx.slot_of or k in ctx.routed or ends[k] is p:
            continue
        type = _wider(start[k].type, ends[k].type)
        type = type if until is None else _wider(type, until.type)
        if type.reach != start[k].type.reach or not same_axes(type, start[k].type):
            result[k] = type
    return result


def _stops(ctx: Context, parameters: dict[str, Node], ends: dict[str, Node], until: Node) -> None:
    """A slot that a turn writes must have the cells that `until` stops one by one."""
    for k, p in parameters.items():
        if ends[k] is not p and not ctx.fits(until.type, p.type):
            name = ctx.slot_of.get(k, k.partition("%")[0])
            axes = [a.label for a in until.type.axes if not any(a.same(b) for b in p.type.axes)]
            ctx.error(
                "E304",
                f"a condition of type {until.type} cannot stop the writing of `{name}`, a slot of "
                f"type {p.type}",
                until.span,
                f"reduce the condition: `all(.., over = {axes[0] if axes else p.type.reach})`",
            )


def _turn(
    ctx: Context, scope: Scope, statement: s.Repeat, block: Block, start: dict[str, Node]
) -> Read:
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
        until = agreed(ctx, condition, statement.until.span, ONE_END)
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
