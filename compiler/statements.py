"""Statements: they bind names, give slots new versions, and rebind loss, grad and d."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from . import syntax as s
from .calls import ENVIRONMENT, current, direction_key, field_of, instance, run, supplied
from .expressions import evaluate, node
from .ir import Ending, Node, postorder
from .oracles import named_oracle, objective
from .primitive import Declaration, from_syntax
from .regions import every, for_chain, if_statement, repeat
from .scope import (
    POISON,
    Arguments,
    Context,
    Function,
    Members,
    Scope,
    SlotRef,
    Stop,
    agreed,
    as_node,
)
from .source import Span, nearest
from .types import DATA, MODEL, REACHES, Axis, Type

REBINDABLE = {"loss", "batch", "d", "grad"}
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


def _bind(ctx: Context, scope: Scope, statement: s.Bind) -> None:
    value = evaluate(ctx, scope, statement.value)
    values = (value,)
    if len(statement.names) > 1:
        if not isinstance(value, tuple) or len(value) != len(statement.names):
            ctx.error(
                "E205", f"{len(statement.names)} names need as many values", statement.value.span
            )
        values = value
    for name, one in zip(statement.names, values, strict=True):
        if isinstance(one, SlotRef):
            one = ctx.flow[one.key]  # the version of now: a name never changes
        old = scope.names.get(name)
        if name == "d" and not scope.in_primitive:
            ctx.flow[direction_key(scope)] = as_node(ctx, one, statement.span)
        elif name in REBINDABLE and not scope.in_primitive:
            scope.names[name] = one
            if name == "batch":
                ctx.batch = as_node(ctx, one, statement.span)
        elif old is not None and old is not POISON:
            ctx.error(
                "E213",
                f"`{name}` has a value already",
                statement.span,
                "`=` names a value once; a slot (`state` or `var`) is written with `<-`",
            )
        else:
            scope.names[name] = one


def _write(ctx: Context, scope: Scope, statement: s.Write) -> None:
    values = [node(ctx, scope, v, "what is written") for v in statement.values]
    if len(values) != len(statement.places):
        ctx.error("E205", f"{len(statement.places)} slots need as many values", statement.span)
    keys = [_place(ctx, scope, p) for p in statement.places]
    results = []
    for place, key, value in zip(statement.places, keys, values, strict=True):
        if isinstance(place, s.Index):
            value = _set_index(ctx, scope, ctx.flow[key], place, value)
        results.append(value)
    for place, key, value in zip(statement.places, keys, results, strict=True):
        assign(ctx, key, value, place.span)
        if statement.always:
            ctx.always.add(ctx.slot_of.get(key, key))


def _place(ctx: Context, scope: Scope, place: s.Name | s.Index) -> str:
    name = place.base if isinstance(place, s.Index) else place
    if isinstance(name, s.Name):
        value = scope.find(name.id)
        if value is POISON:
            raise Stop
        if isinstance(value, SlotRef):
            return value.key
        if name.id == "d":
            return current(ctx, scope, "d", place.span).key
        why = "an argument of this primitive" if name.id == "w" else "no slot"
        ctx.error(
            "E212",
            f"`{name.id}` is {why}; `<-` writes slots",
            place.span,
            f"declare `state {name.id} = ...` (kept) or `var {name.id} = ...` (this step)",
        )
    ctx.error("E212", "`<-` writes slots", place.span)


def assign(ctx: Context, key: str, value: Node, span: Span) -> None:
    """Give a slot its next version."""
    old = ctx.flow[key]
    if value.type.reach == "group" and old.type.reach == "model":
        value = agreed(ctx, value, span)
    variable = key not in ctx.slot_of and not key.endswith("#d")
    if variable and ctx.fits(old.type, value.type) and not ctx.fits(value.type, old.type):
        ctx.flow[key] = value  # a var takes the finer type
    elif not key.endswith("#d") and not ctx.fits(value.type, old.type):
        ctx.error(
            "E304",
            f"a value of type {value.type} does not fit the slot of type {old.type}",
            span,
            f"declare the slot with `: {value.type}`, or reduce the value",
        )
    else:
        ctx.flow[key] = value if key.endswith("#d") else ctx.expand(value, old.type, span)
    ctx.writes += key in ctx.slot_of


def _set_index(ctx: Context, scope: Scope, old: Node, place: s.Index, value: Node) -> Node:
    axes = old.type.axes
    chosen = [
        (a.label, i) for a, i in zip(axes, place.items, strict=False) if not isinstance(i, s.Slice)
    ]
    if len(chosen) != 1:
        ctx.error("E303", "exactly one axis is chosen when a slice is written", place.span)
    at = node(ctx, scope, chosen[0][1], "an index")
    value = _into_slice(ctx, old.type, chosen[0][0], value, place.span)
    return ctx.graph.add(
        "set_index", old, at, value, type=old.type, span=place.span, axis=chosen[0][0]
    )


def _into_slice(ctx: Context, whole: Type, chosen: str, value: Node, span: Span) -> Node:
    """A value with the axes of the slice that it is written to: `K[i, :] <- r` needs no prime."""
    left = replace(whole, axes=tuple(a for a in whole.axes if a.label != chosen))
    have = [a.name for a in value.type.axes]
    if not ctx.fits(value.type, left) and have == [a.name for a in left.axes]:
        type = replace(value.type, axes=left.axes)
        value = ctx.graph.add("rename", value, type=type, span=span)
    if not ctx.fits(value.type, left):
        ctx.error("E304", f"a value of type {value.type} does not fit a slice of type {left}", span)
    return value


# Declarations ---------------------------------------------------------------------------------


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
        if a.size is not None:
            from .scope import constant

            size = node(ctx, scope, a.size, "the size of an axis")
            size = constant(size) if constant(size) is not None else size
            if isinstance(size, float | int) and not 1 <= size <= 2**20:
                ctx.error("E309", f"an axis has 1 to {2**20} places, not {size}", a.size.span)
        axis = Axis(a.name, int(size) if isinstance(size, float) else size, a.primes)
        ctx.axes[a.name] = Axis(a.name, axis.size)
        axes.append(axis)
    domain = ctx.domain(scope)
    return Type(expr.reach, tuple(axes), domain if expr.reach in REACHES[:4] else "")


def _declare(ctx: Context, scope: Scope, statement: s.Declare) -> None:
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
        )
    return ctx.expand(init, type, slot.span), type


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


def bundle(ctx: Context, tree: s.Bundle) -> Members:
    """A bundle's functions under their names."""
    scope = Scope(path="", in_primitive=True)
    for member in tree.members:
        _bind(ctx, scope, member)
    return Members(f"`{tree.name}`", scope.names)


# Steps ----------------------------------------------------------------------------------------

FIELD = {"grad", "loss"}
"""Who asks for one of these gives a loss or a gradient function; a `project` gives `w` even so."""


def _step(ctx: Context, scope: Scope, statement: s.Step) -> None:
    when = node(ctx, scope, statement.when, "a condition") if statement.when is not None else None
    broken = "%broken" in (scope.block or scope).names
    if statement.kind == "step":
        size = node(ctx, scope, statement.call, "a step size")
        if broken:
            raise Stop
        d = as_node(ctx, current(ctx, scope, "d", statement.span), statement.span)
        w = ctx.flow[scope.target]
        span = statement.span
        moved = ctx.map("sub", w, ctx.map("mul", size, d, span=span), span=span)
        _guarded(ctx, scope.target, moved, when, span)
        return
    declaration, given = _declaration(ctx, scope, statement)
    made = instance(ctx, scope, declaration, given, statement.span, statement.alias, step=True)
    if broken:
        raise Stop
    asked = {supplied(i, declaration.kind) for i in declaration.inputs} - {""}
    objectives = [v for v in made.inputs.values() if isinstance(v, Function)]
    span = statement.span
    if declaration.kind == "monitor":
        ctx.graph.metrics[statement.alias or made.path] = as_node(
            ctx, run(ctx, scope, made, span, None), span
        )
    elif declaration.kind == "average":
        ctx.graph.evals[scope.target] = as_node(ctx, run(ctx, scope, made, span, None), span)
    elif declaration.kind != "project" and "d" not in asked and (asked & FIELD or objectives):
        _rebind_field(ctx, scope, made, when, span)
    elif "d" in asked:
        current(ctx, scope, "d", span)
        value = as_node(ctx, run(ctx, scope, made, span, None), span)
        _guarded(ctx, direction_key(scope), value, when, span)
    else:
        value = as_node(ctx, run(ctx, scope, made, span, None), span)
        _guarded(ctx, scope.target, value, when, span)


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
    slot = "loss" if first.type.reach in ("model", "group") else "grad"
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
        yes, no = (
            as_node(ctx, field.apply(given, span), span),
            as_node(ctx, before.apply(given, span), span),
        )
        return ctx.where(when, yes, no, span)

    return Function(field.what, apply)


def _declaration(ctx: Context, scope: Scope, statement: s.Step) -> tuple[Declaration, Arguments]:
    from .expressions import arguments

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


# The rest -------------------------------------------------------------------------------------


def _outcome(ctx: Context, scope: Scope, statement: s.Outcome) -> None:
    when = node(ctx, scope, statement.when, "a condition")
    if when.type.reach not in ("model", "group") or when.type.axes:
        ctx.error(
            "E313",
            f"`{statement.kind}` decides over the whole step, and this is {when.type}",
            statement.span,
            "reduce it: `any(..., over = model)`",
        )
    for condition in ctx.conditions:
        when = ctx.map("and", condition, when, span=statement.span)
    count = node(ctx, scope, statement.count) if statement.count is not None else None
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


def local_primitive(ctx: Context, tree: s.Primitive) -> None:
    ctx.local[tree.name] = from_syntax(tree, "this file")


_STATEMENTS: dict[type, Callable[[Context, Scope, Any], None]] = {
    s.Bind: _bind,
    s.Write: _write,
    s.Declare: _declare,
    s.Step: _step,
    s.Outcome: _outcome,
    s.Return: _return,
    s.Eval: _eval,
    s.Metric: _metric,
    s.Paper: _paper,
    s.Repeat: lambda ctx, scope, st: repeat(ctx, scope, st, block),
    s.Every: lambda ctx, scope, st: every(ctx, scope, st, block),
    s.If: lambda ctx, scope, st: if_statement(ctx, scope, st, block),
}

__all__ = ["ENVIRONMENT", "block", "bundle", "returned", "type_of"]
