"""Statements: a block is read line by line, each by the function for its class of the tree."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from . import syntax as s
from .assignments import bind, write
from .branches import every, if_statement
from .declarations import declare
from .expressions import counted, evaluate, node
from .ir import Ending
from .loops import repeat
from .meanings import POISON, Members, SlotRef
from .primitive import Declaration
from .routing import for_chain
from .scope import Context, Scope, Stop, constant
from .source import Span
from .steps import step
from .types import COARSE

STATEMENT_LIMIT = 20_000
"""No rule expands to more statements than this: an unrolled loop must not fill the memory."""


def block(ctx: Context, scope: Scope, body: Iterable[s.Statement]) -> None:
    """Read the statements of a block; a wrong one is recorded and its names poisoned."""
    statements = list(body)
    while statements:
        statement = statements.pop(0)
        chain = [statement]
        while isinstance(statement, s.For) and statements and isinstance(statements[0], s.For):
            chain.append(statements.pop(0))
        ctx.statements += 1
        if ctx.statements > STATEMENT_LIMIT:
            ctx.error(
                "E401",
                f"the rule expands to more than {STATEMENT_LIMIT} statements",
                statement.span,
                "a `repeat` with an `until`, or with a large count, stays a loop",
            )
        try:
            if isinstance(statement, s.For):
                for_chain(ctx, scope, chain, block)  # type: ignore[arg-type]
            else:
                _STATEMENTS[type(statement)](ctx, scope, statement)
        except Stop:
            _poison(scope, statement)


def _poison(scope: Scope, statement: s.Statement) -> None:
    if isinstance(statement, s.Bind):
        scope.names.update(dict.fromkeys(statement.names, POISON))
    elif isinstance(statement, s.Declare):
        scope.names.update({slot.name: POISON for slot in statement.slots})
    elif isinstance(statement, s.Return):
        scope.names["%return"] = POISON
    elif isinstance(statement, s.Step):
        # what the step would have changed is unknown now: no second message about it
        (scope.block or scope).names["%broken"] = POISON


def returned(ctx: Context, scope: Scope, declaration: Declaration, span: Span) -> Any:
    """What a primitive's body returned."""
    value = scope.names.get("%return")
    if value is POISON:
        raise Stop
    if value is None:
        at = declaration.tree.span if declaration.tree else span
        ctx.error("E214", f"`{declaration.name}` returns nothing", at, "end it with `return ...`")
    return value


def bundle(ctx: Context, tree: s.Bundle) -> Members:
    """A bundle's functions under their names."""
    scope = Scope(path="", in_primitive=True)
    for member in tree.members:
        bind(ctx, scope, member)
    return Members(f"`{tree.name}`", scope.names)


def _outcome(ctx: Context, scope: Scope, statement: s.Outcome) -> None:
    when = node(ctx, scope, statement.when, "a condition")
    if when.type.reach not in COARSE or when.type.axes:
        ctx.error(
            "E313",
            f"`{statement.kind}` decides over the whole step, and this is {when.type}",
            statement.span,
            "reduce it: `any(..., over = model)`",
        )
    for condition in ctx.conditions:
        when = ctx.map("and", condition, when, span=statement.span)
    count = node(ctx, scope, statement.count) if statement.count is not None else None
    back = constant(count) if count is not None else None
    if statement.count and count is not None and back is None:
        if count.type.reach not in ("group", "model") or count.type.axes:
            wrong = f"`restore` goes back one number of snapshots, and this is {count.type}"
            ctx.error("E313", wrong, statement.count.span, "reduce it `over = model`")
        count = counted(ctx, count, "count", statement.count.span)
    if statement.count and back is not None and (not 1 <= back <= 2**20 or back != int(back)):
        wrong = f"`restore` goes back a whole number of snapshots, 1 at least, not {back}"
        ctx.error("E309", wrong, statement.count.span)
    ctx.graph.outcomes.append(Ending(statement.kind, when, count))


def _return(ctx: Context, scope: Scope, statement: s.Return) -> None:
    if scope is not scope.block or scope.names.get("%return") not in (None, POISON):
        ctx.error(
            "E214",
            "a primitive returns once, at its end and in no branch",
            statement.span,
            "give a `var` its value in each branch, and return that at the end",
        )
    value = evaluate(ctx, scope, statement.value)
    scope.names["%return"] = ctx.flow[value.key] if isinstance(value, SlotRef) else value


def _eval(ctx: Context, scope: Scope, statement: s.Eval) -> None:
    value = node(ctx, scope, statement.value)
    ctx.graph.evals[scope.target] = ctx.expand(value, ctx.flow[scope.target].type, statement.span)


def _metric(ctx: Context, scope: Scope, statement: s.Metric) -> None:
    ctx.graph.metrics[scope.path + statement.name] = node(ctx, scope, statement.value)


def _paper(ctx: Context, scope: Scope, statement: s.Paper) -> None:
    """A paper is documentation."""


_STATEMENTS: dict[type, Callable[[Context, Scope, Any], None]] = {
    s.Bind: bind,
    s.Write: write,
    s.Declare: declare,
    s.Step: step,
    s.Outcome: _outcome,
    s.Return: _return,
    s.Eval: _eval,
    s.Metric: _metric,
    s.Paper: _paper,
    s.Repeat: lambda ctx, scope, st: repeat(ctx, scope, st, block),
    s.Every: lambda ctx, scope, st: every(ctx, scope, st, block),
    s.If: lambda ctx, scope, st: if_statement(ctx, scope, st, block),
}
