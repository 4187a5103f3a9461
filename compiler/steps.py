"""Steps: a primitive that rebinds the loss or the gradient, the direction, or a target."""

from __future__ import annotations

from typing import Any

from . import syntax as s
from .assignments import assign
from .calls import current, direction_key, field_of, instance, run, supplied
from .expressions import arguments, node
from .ir import Node
from .meanings import Arguments, Function
from .primitive import Declaration
from .scope import Context, Scope, Stop, as_node
from .source import Span, nearest
from .types import COARSE

FIELD = {"grad", "loss"}
"""Who asks for one of these gives a loss or a gradient function; a `project` gives `w` even so."""


def step(ctx: Context, scope: Scope, statement: s.Step) -> None:
    """A step: whatever it rebinds keeps its value where its condition does not hold."""
    when = node(ctx, scope, statement.when, "a condition") if statement.when is not None else None
    if statement.kind == "step":
        return _descend(ctx, scope, statement, when)
    declaration, given = _declaration(ctx, scope, statement)
    span = statement.span
    made = instance(ctx, scope, declaration, given, span, statement.alias, step=True)
    _unless_broken(scope)

    def result() -> Node:
        return as_node(ctx, run(ctx, scope, made, span, None), span)

    asked = {supplied(i, declaration.kind) for i in declaration.inputs} - {""}
    objectives = [v for v in made.inputs.values() if isinstance(v, Function)]
    if declaration.kind == "monitor":
        ctx.graph.metrics[statement.alias or made.path] = result()
    elif declaration.kind == "average":
        ctx.graph.evals[scope.target] = result()
    elif declaration.kind != "project" and "d" not in asked and (asked & FIELD or objectives):
        _rebind_field(ctx, scope, made, when, span)
    elif "d" in asked:
        current(ctx, scope, "d", span)
        _guarded(ctx, direction_key(scope), result(), when, span)
    else:
        _guarded(ctx, scope.target, result(), when, span)


def _descend(ctx: Context, scope: Scope, statement: s.Step, when: Node | None) -> None:
    """`step lr`: the target moves against the direction."""
    span = statement.span
    size = node(ctx, scope, statement.call, "a step size")
    _unless_broken(scope)
    d = as_node(ctx, current(ctx, scope, "d", span), span)
    w = ctx.flow[scope.target]
    moved = ctx.map("sub", w, ctx.map("mul", size, d, span=span), span=span)
    _guarded(ctx, scope.target, moved, when, span)


def _unless_broken(scope: Scope) -> None:
    """A step above that is wrong makes this one unknown: no second message about it."""
    if "%broken" in (scope.block or scope).names:
        raise Stop


def _guarded(ctx: Context, key: str, value: Node, when: Node | None, span: Span) -> None:
    old = ctx.flow[key]
    assign(ctx, key, value if when is None else ctx.where(when, value, old, span), span)


def _rebind_field(ctx: Context, scope: Scope, made: Any, when: Node | None, span: Span) -> None:
    """A step that maps a loss to a loss, or a field (point to direction) to a field."""
    name = made.declaration.name
    block_scope = scope.block or scope
    if direction_key(scope) in ctx.flow:
        ctx.error(
            "E211",
            f"`{name}` comes too late: a step above used the gradient already",
            span,
            "steps that choose where the gradient is taken stand first",
        )
    previous = {"grad": current(ctx, scope, "grad", span)}
    if scope.find("loss") is not None:
        previous["loss"] = scope.find("loss")
    field = field_of(ctx, scope, made, previous, span)
    first = as_node(ctx, field.apply(Arguments([ctx.flow[scope.target]], {}), span), span)
    slot = "loss" if first.type.reach in COARSE else "grad"
    if slot == "loss" and "grad" in block_scope.names:
        ctx.error(
            "E211",
            f"`{name}` changes the loss, and a step above took its gradient elsewhere",
            span,
            "put it above the perturbation",
        )
    if when is not None:
        field = _either(ctx, field, previous[slot], when)
    block_scope.names[slot] = field


def _either(ctx: Context, field: Function, before: Function, when: Node) -> Function:
    def apply(given: Arguments, span: Span) -> Node:
        yes = as_node(ctx, field.apply(given, span), span)
        no = as_node(ctx, before.apply(given, span), span)
        return ctx.where(when, yes, no, span)

    return Function(field.what, apply)


def _declaration(ctx: Context, scope: Scope, statement: s.Step) -> tuple[Declaration, Arguments]:
    call = statement.call
    name_of = call.function if isinstance(call, s.Call) else call
    if not isinstance(name_of, s.Name):
        ctx.error("E201", f"`{statement.kind}` is followed by the name of a primitive", call.span)
    name, kind = name_of.id, statement.kind
    found = ctx.local.get(name) or ctx.registry.find(kind, name)
    if found is None:
        others = list(ctx.registry.kinds_of(name))
        if others:
            ctx.error(
                "E217",
                f"`{name}` is no {kind}",
                name_of.span,
                f"it is a {others[0]}: `{others[0]} {name}(...)`",
            )
        known = [*ctx.local, *ctx.registry.names(kind)]
        ctx.error("E201", f"unknown {kind} `{name}`", name_of.span, nearest(name, known))
    given = arguments(ctx, scope, call) if isinstance(call, s.Call) else Arguments([], {})
    return found, given
