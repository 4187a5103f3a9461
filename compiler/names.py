"""What a name means that no block declares: clocks, inputs, facts of a tensor, functions, axes."""

from __future__ import annotations

from typing import Any

from . import syntax as s
from .bounds import INPUTS
from .builtins import BUILTINS
from .builtins.constants import CONSTANTS
from .builtins.metadata import METAS
from .ir import Node
from .meanings import Arguments, AxisName, Function, Mixing, SlotRef
from .scope import Context, Scope, as_node
from .source import Span, nearest
from .types import DATA, REACHES, Axis, Type

CLOCKS = {"t": "tensor", "steps": "model", "call": "model"}
"""Counters of steps, and the reach of each."""


def ambient(ctx: Context, scope: Scope, expr: s.Name) -> Any:
    """Names that nobody declared: clocks, inputs, facts of a tensor, constants."""
    name, graph = expr.id, ctx.graph
    domain = ctx.domain(scope)
    if name in CLOCKS:
        reach = CLOCKS[name]
        type = Type(reach, (), domain if reach == "tensor" else "")
        clock = graph.add("clock", type=type, known=1, span=expr.span, which=name, scope=domain)
        return clock if name != "t" or not scope.turns else turns_of(ctx, scope, clock, expr.span)
    if name in INPUTS:
        graph.inputs.setdefault(name, Type())
        return graph.add("input", type=Type(), known=1, span=expr.span, name=name)
    if name in METAS:
        return graph.add("meta", type=Type("tensor", (), domain), known=1, what=name)
    if name in CONSTANTS:
        return graph.const(CONSTANTS[name], expr.span)
    if name in REACHES or name == "workers" and graph.workers:
        return AxisName(Axis(name))
    if name in ("complete", "star"):
        return Mixing((name,))
    if name == "batch":
        return ctx.batch if ctx.batch is not None else graph.add("batch", type=DATA, known=1)
    if name in ctx.externs:
        return ctx.externs[name]
    if name == "criterion":
        return criterion(ctx)
    if name == "grad" or name == "d":
        from .calls import current

        return current(ctx, scope, name, expr.span)
    if name in BUILTINS:
        return Function(f"`{name}`", lambda a, span: BUILTINS[name](ctx, scope, a, span))
    declaration = find_function(ctx, name)
    if declaration is not None:
        from .calls import as_function

        return as_function(ctx, scope, declaration)
    axis = find_axis(ctx, scope, name)
    if axis is not None:
        return AxisName(axis)
    return _unknown(ctx, scope, expr)


def turns_of(ctx: Context, scope: Scope, clock: Node, span: Span) -> Node:
    """`t` of a primitive that is called in a loop: how often it was, this turn included.

    Where every loop around the call turns a known number of times it follows from the step's t;
    else the primitive keeps count itself.
    """
    one = ctx.graph.const(1)
    if all(turn.count is not None for turn in scope.turns):
        before = ctx.map("sub", clock, one, span=span)
        for turn in scope.turns:
            passed = ctx.map("mul", before, ctx.graph.const(turn.count or 0), span=span)
            before = ctx.map("add", passed, turn.index, span=span)
        return ctx.map("add", before, one, span=span)
    path = f"{scope.path}turns"
    if path not in ctx.counted:
        if path not in ctx.graph.slots:
            none = ctx.expand(ctx.graph.const(0.0), clock.type, span)
            ctx.declare(path, "state", clock.type, none, span)
        elif path not in ctx.flow:
            ctx.flow[path] = ctx.flow_of(path)
        count = ctx.map("add", ctx.flow[path], one, span=span)
        ctx.flow[path] = ctx.counted[path] = ctx.expand(count, clock.type, span)
        ctx.writes += 1
    return ctx.counted[path]


def criterion(ctx: Context) -> Function:
    """`criterion(outputs, labels)`: the loss of each example, where the loop gives its loss in
    parts.
    """
    type = Type("model", (Axis("examples"),))

    def apply(given: Arguments, span: Any) -> Node:
        ctx.graph.oracles["criterion"] = type
        values = [as_node(ctx, v, span) for v in given.positional]
        return ctx.graph.add("oracle", *values, type=type, span=span, name="criterion")

    return Function("`criterion`", apply)


ELSEWHERE = {
    "None": "without a default an option is required; a number can stand for none: 0, or `inf`",
    "log": "the natural logarithm is `ln(x)`",
    "pow": "a power is `x^y`",
    "square": "a power is `x^2`",
    "int": "whole numbers are `floor(x)` and `round(x)`",
    "rsqrt": "a power is `x^-0.5`",
    "clip": "cells are held in bounds by `clamp(x, low, high)`",
    "std": "it is `sqrt(mean((x - mean(x, over = a))^2, over = a))`",
    "var": "it is `mean((x - mean(x, over = a))^2, over = a)`",
    "randn": "draws are `normal(x)`, `uniform(x)` and `rademacher(x)`",
    "rand": "draws are `normal(x)`, `uniform(x)` and `rademacher(x)`",
    "zeros_like": "it is `zeros(x)`",
    "ones_like": "it is `ones(x)`",
    "atan": "it is `arctan(x)`",
}
"""What other languages have under names that the language does not."""
MODULES = ("torch", "math", "np", "numpy", "nn")


def _unknown(ctx: Context, scope: Scope, expr: s.Name) -> Any:
    known = {
        *scope.visible(),
        *BUILTINS,
        *METAS,
        *CONSTANTS,
        *CLOCKS,
        *INPUTS,
        *ctx.local,
        *ctx.registry.names("function"),
    }
    help = nearest(expr.id, known)
    if expr.id in MODULES:
        help = "functions stand without a module: `sqrt(x)`"
    elif expr.id in ctx.graph.options:
        help = f"`{expr.id}` is the rule's: a primitive takes it as an option of its own"
    elif expr.id in ELSEWHERE:
        help = ELSEWHERE[expr.id]
    elif (block := scope.ending(expr.id)) is not None:
        help = (
            f"the block of line {block.row} binds `{expr.id}`, and ends with it: bind it above, or "
            f"declare `var {expr.id} = ...` there and write it in the block"
        )
    elif not help.startswith("did"):
        bound = ", ".join(sorted({n for n in scope.visible() if n.isidentifier()}))
        help = f"bound here: {bound}; what is kept is declared: `state {expr.id} = zeros(w)`"
    ctx.error("E201", f"unknown name `{expr.id}`", expr.span, help)


def find_function(ctx: Context, name: str) -> Any:
    """A primitive called by its bare name: a local one, a function, or of any kind."""
    if name in ctx.local:
        return ctx.local[name]
    found = ctx.registry.find("function", name)
    if found is None:
        for kind in ctx.registry.kinds_of(name):
            return ctx.registry.find(kind, name)
    return found


def find_axis(ctx: Context, scope: Scope, name: str) -> Axis | None:
    """An axis that some visible value has."""
    reach: Scope | None = scope
    while reach is not None:
        for value in reach.names.values():
            at = ctx.flow.get(value.key) if isinstance(value, SlotRef) else value
            types = [at.type] if isinstance(at, Node) else []
            if isinstance(value, Function) and value.objective:
                types = [ctx.graph.objectives.get(value.objective, Type())]
            for t in types:
                for axis in t.axes:
                    if axis.name == name:
                        return Axis(name, axis.size)
        reach = reach.parent
    for type in ctx.graph.objectives.values():
        known = type.axis(name)
        if known:
            return known
    if name in ctx.axes:
        return ctx.axes[name]
    return None
