"""Assignments: `=` binds a name, `<-` gives a slot its next version."""

from __future__ import annotations

from dataclasses import replace

from . import syntax as s
from .calls import current, direction_key
from .expressions import evaluate, node, placed
from .ir import Node
from .meanings import POISON, SlotRef
from .scope import Context, Scope, Stop, agreed, as_node
from .source import Span
from .types import Type

REBINDABLE = {"loss", "batch", "d", "grad"}


def bind(ctx: Context, scope: Scope, statement: s.Bind) -> None:
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


def write(ctx: Context, scope: Scope, statement: s.Write) -> None:
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
    value = _here(ctx, value, old.type.domain)
    variable = key not in ctx.slot_of and key not in ctx.routed and not key.endswith("#d")
    if variable and ctx.fits(old.type, value.type) and not ctx.fits(value.type, old.type):
        ctx.flow[key] = value  # a var takes the finer type
    elif not key.endswith("#d") and not ctx.fits(value.type, old.type):
        _refuse(ctx, key, value, old.type, span)
    else:
        ctx.flow[key] = value if key.endswith("#d") else ctx.expand(value, old.type, span)
    ctx.writes += key in ctx.slot_of


def _here(ctx: Context, value: Node, domain: str) -> Node:
    """Of a value from above a block, what the block's part of the tensors has."""
    return ctx.down(value, ctx.above(domain)) if domain else value


def _drawn(ctx: Context, key: str, value: Node) -> str:
    """What helps where a draw has other cells than its slot."""
    if value.op != "random":
        return ""
    name = ctx.slot_of.get(key, key).partition("%")[0].rpartition(".")[2]
    return f"`{value['how']}({name})` draws a number for each place of `{name}`"


def _refuse(ctx: Context, key: str, value: Node, slot: Type, span: Span) -> None:
    """A value that does not fit its slot."""
    wrong = f"a value of type {value.type} does not fit the slot of type {slot}"
    help = _drawn(ctx, key, value)
    if ctx.fits(replace(value.type, domain=""), slot):
        wrong = "a value of one part of the tensors does not fit a slot of others"
        help = "declare the slot in the block that writes it"
    advice = f"declare the slot with `: {value.type}`, or reduce the value"
    if {"rows", "cols", "short", "long"} & {a.name for a in value.type.axes} and not slot.axes:
        advice = "`back(x)` puts the cells of a matrix where they came from"
    ctx.error("E304", wrong, span, help or advice)


def _set_index(ctx: Context, scope: Scope, old: Node, place: s.Index, value: Node) -> Node:
    axes = old.type.axes
    chosen = [(a, i) for a, i in zip(axes, place.items, strict=False) if not isinstance(i, s.Slice)]
    if len(chosen) != 1:
        ctx.error("E303", "exactly one axis is chosen when a slice is written", place.span)
    ((axis, item),) = chosen
    at = placed(ctx, axis, node(ctx, scope, item, "an index"), item.span)
    value = _into_slice(ctx, old.type, axis.label, value, place.span)
    return ctx.graph.add(
        "set_index", old, at, value, type=old.type, span=place.span, axis=axis.label
    )


def _into_slice(ctx: Context, whole: Type, chosen: str, value: Node, span: Span) -> Node:
    """A value with the axes of the slice that it is written to: `K[i, :] <- r` needs no prime."""
    left = replace(whole, axes=tuple(a for a in whole.axes if a.label != chosen))
    value = _here(ctx, value, whole.domain)
    have = [a.name for a in value.type.axes]
    if not ctx.fits(value.type, left) and have == [a.name for a in left.axes]:
        type = replace(value.type, axes=left.axes)
        value = ctx.graph.add("rename", value, type=type, span=span)
    if value.type.reach == "group" and left.reach == "model":
        value = agreed(ctx, value, span)
    if not ctx.fits(value.type, left):
        ctx.error("E304", f"a value of type {value.type} does not fit a slice of type {left}", span)
    return value
