"""Declarations: states, variables, inputs, losses, oracles, and the types that they name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import syntax as s
from .expressions import node, places
from .ir import Node, postorder
from .meanings import SlotRef
from .oracles import named_oracle, objective
from .scope import Context, Scope, agreed
from .types import DATA, MODEL, REACHES, Axis, Type


def type_of(ctx: Context, scope: Scope, expr: s.TypeExpr) -> Type:
    """The type that a type expression names."""
    if expr.reach == "data":
        return DATA
    if expr.reach not in REACHES:
        ctx.unknown("reach", expr.reach, REACHES, expr.span, "E302")
    axes = []
    for a in expr.axes:
        known = ctx.axes.get(a.name)
        size: Any = known.size if known else None
        if a.name == "all":
            size = ctx.everything(ctx.domain(scope)).size
        if a.size is not None:
            size = places(ctx, scope, a.size)
        axis = Axis(a.name, size, a.primes)
        ctx.axes[a.name] = Axis(a.name, axis.size)
        axes.append(axis)
    domain = ctx.domain(scope)
    return Type(expr.reach, tuple(axes), domain if expr.reach in REACHES[:4] else "")


def declare(ctx: Context, scope: Scope, statement: s.Declare) -> None:
    for slot in statement.slots:
        _DECLARE[statement.kind](ctx, scope, slot)


def _state(ctx: Context, scope: Scope, slot: s.Slot) -> None:
    path = scope.path + slot.name
    if (ctx.turns or scope.again) and path in ctx.flow and path in ctx.graph.slots:
        scope.names[slot.name] = SlotRef(path)  # a turn of a loop, or a point, after the first
        return
    init, type = _initial(ctx, scope, slot, "state")
    if ctx.loops and any(n.op == "parameter" for n in postorder([init])):
        ctx.error("E215", "a state in a loop begins with what is known before the loop", slot.span)
    if path in ctx.flow:
        ctx.error("E213", f"`{slot.name}` is declared already", slot.span)
    scope.names[slot.name] = SlotRef(ctx.declare(path, "state", type, init, slot.span))
    instance_name = scope.path.rstrip(".")
    ctx.instances.setdefault(instance_name, {})[slot.name] = path


def _initial(ctx: Context, scope: Scope, slot: s.Slot, what: str) -> tuple[Node, Type]:
    if slot.value is None:
        ctx.error(
            "E207",
            f"a {what} needs a value to begin with",
            slot.span,
            f"`{what} {slot.name} = zeros(w)`",
        )
    init = node(ctx, scope, slot.value, f"what `{slot.name}` begins with")
    if slot.type is None:
        type = init.type
        return init, Type(type.reach, type.axes, type.domain)
    type = type_of(ctx, scope, slot.type)
    if init.type.reach == "group" and type.reach == "model":
        init = agreed(ctx, init, slot.span)
    if not ctx.fits(init.type, type):
        ctx.error(
            "E304",
            f"a value of type {init.type} does not fit `{slot.name}` of type {type}",
            slot.span,
            _fitting(slot, init),
        )
    return ctx.expand(init, type, slot.span), type


def _fitting(slot: s.Slot, init: Node) -> str:
    """What helps where a slot cannot begin with a value."""
    if init.op != "random":
        return f"declare it with `: {init.type}`, or reduce the value"
    return (
        f"begin with 0, and below write `{slot.name} <- {init['how']}({slot.name})` where `t == 1`"
    )


def _var(ctx: Context, scope: Scope, slot: s.Slot) -> None:
    init, _ = _initial(ctx, scope, slot, "var")
    ctx.streams += 1
    key = f"{scope.path}{slot.name}%{ctx.streams}"
    ctx.flow[key] = init
    scope.names[slot.name] = SlotRef(key)


def _input(ctx: Context, scope: Scope, slot: s.Slot) -> None:
    type = type_of(ctx, scope, slot.type) if slot.type else MODEL
    ctx.graph.inputs[slot.name] = type
    known = 1 if type == MODEL else 2
    scope.names[slot.name] = ctx.graph.add(
        "input", type=type, known=known, span=slot.span, name=slot.name
    )


def _loss(ctx: Context, scope: Scope, slot: s.Slot) -> None:
    type = type_of(ctx, scope, slot.type) if slot.type else MODEL
    function = objective(ctx, slot.name, type)
    scope.names[slot.name] = function
    chosen = scope.names.get("%losses", ())
    scope.names["%losses"] = (*chosen, slot.name)
    # one declared loss is *the* loss; of several none is
    scope.names["loss"] = function if not chosen else None


def _oracle(ctx: Context, scope: Scope, slot: s.Slot) -> None:
    type = type_of(ctx, scope, slot.type) if slot.type else Type("element", (), "w")
    scope.names[slot.name] = named_oracle(ctx, slot, type)


def _target(ctx: Context, scope: Scope, slot: s.Slot) -> None:
    ctx.error("E216", "targets are declared at the top of a rule, before they are used", slot.span)


_DECLARE: dict[str, Callable[[Context, Scope, s.Slot], None]] = {
    "state": _state,
    "var": _var,
    "input": _input,
    "loss": _loss,
    "oracle": _oracle,
    "target": _target,
}
