"""Expressions: syntax + scope -> values. One function a class of the tree."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import syntax as s
from .builtins import BUILTINS
from .builtins.constants import CONSTANTS
from .builtins.metadata import METAS
from .builtins.views import primed
from .ir import Node
from .ops import SYMBOLS
from .scope import (
    POISON,
    Arguments,
    AxisName,
    Context,
    Function,
    Members,
    Mixing,
    Scope,
    SlotRef,
    Stop,
    as_node,
    constant,
)
from .source import Span
from .types import DATA, REACHES, Axis, Type


def evaluate(ctx: Context, scope: Scope, expr: s.Expr) -> Any:
    """The value of an expression: a node, a function, a tuple, an axis, a text."""
    value = _EVALUATE[type(expr)](ctx, scope, expr)
    if value is POISON:
        raise Stop
    return value


def node(ctx: Context, scope: Scope, expr: s.Expr, what: str = "this") -> Node:
    """The value of an expression, which must be an array."""
    return as_node(ctx, evaluate(ctx, scope, expr), expr.span, what)


def _number(ctx: Context, scope: Scope, expr: s.Number) -> Node:
    return ctx.graph.const(expr.value, expr.span)


def _quantity(ctx: Context, scope: Scope, expr: s.Quantity) -> Node:
    """A length of time in steps: an epoch has as many steps as the loop says."""
    value = node(ctx, scope, expr.value)
    if expr.unit == "step":
        return value
    per_epoch = ctx.graph.add("input", type=Type(), known=1, name="steps_per_epoch")
    ctx.graph.inputs.setdefault("steps_per_epoch", Type())
    return ctx.map("mul", value, per_epoch, span=expr.span)


def _name(ctx: Context, scope: Scope, expr: s.Name) -> Any:
    value = scope.find(expr.id)
    if value is None:
        value = ambient(ctx, scope, expr)
    if expr.primes and not isinstance(value, AxisName):
        return primed(ctx, as_node(ctx, value, expr.span), expr.primes)
    if isinstance(value, AxisName) and expr.primes:
        return AxisName(value.axis.prime(expr.primes))
    return value


CLOCKS = {"t": "tensor", "steps": "model", "call": "model"}
INPUTS = {"epoch": 0, "progress": 0, "new_epoch": 0, "steps_per_epoch": 1}


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
            ctx.declare(path, "state", clock.type, ctx.graph.const(0.0), span)
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


NEW_AXIS = {
    "grid": 0,
    "normal": 1,
    "uniform": 1,
    "rademacher": 1,
    "zeros": 1,
    "ones": 1,
    "eye": 0,
    "size": 0,
    "draw": 0,
}
"""Functions with an argument that may name an axis (or a source of data) which nothing declares."""


def by_name(ctx: Context, scope: Scope, expr: s.Expr) -> Any:
    """`probes(n)` or `trial` where an axis is named for the first time."""
    if isinstance(expr, s.Call) and isinstance(expr.function, s.Name) and len(expr.arguments) == 1:
        size = node(ctx, scope, expr.arguments[0].value, "the size of an axis")
        places = constant(size)
        if places is not None and (places != int(places) or not 1 <= places <= 2**20):
            ctx.error("E309", f"an axis has 1 to {2**20} places, not {places}", expr.span)
        axis = Axis(expr.function.id, int(places) if places is not None else size)
        ctx.axes[axis.name] = axis
        return AxisName(axis)
    if isinstance(expr, s.Name) and scope.find(expr.id) is None:
        return AxisName(find_axis(ctx, scope, expr.id) or ctx.axes.get(expr.id) or Axis(expr.id))
    return evaluate(ctx, scope, expr)


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
    ctx.unknown("name", expr.id, known, expr.span)


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


def _attribute(ctx: Context, scope: Scope, expr: s.Attribute) -> Any:
    if isinstance(expr.base, s.Name) and scope.find(expr.base.id) is None:
        found = _instance(ctx, scope, expr, expr.base.id)
        if found is not None:
            return found
    base = evaluate(ctx, scope, expr.base)
    if not isinstance(base, Members):
        ctx.error("E202", f"`{expr.name}` is asked of something that has no members", expr.span)
    if expr.name not in base.values:
        ctx.unknown(f"member of {base.what}", expr.name, base.values, expr.span, "E202")
    return base.values[expr.name]


def _instance(ctx: Context, scope: Scope, expr: s.Attribute, name: str) -> Any:
    """A slot of a step that is named (`sgd.m`), also of one that stands further down."""
    path = f"{name}.{expr.name}"
    if path in ctx.flow:
        return SlotRef(path)
    if path in ctx.known_slots:
        slot = ctx.known_slots[path]
        return ctx.graph.add("read", type=slot.type, known=2, span=expr.span, slot=path)
    if name in ctx.aliases:
        ctx.forward.add(path)
        raise Stop
    if name in ctx.instances:
        ctx.unknown(f"slot of `{name}`", expr.name, ctx.instances[name], expr.span, "E202")
    return None


def _index(ctx: Context, scope: Scope, expr: s.Index) -> Any:
    base = evaluate(ctx, scope, expr.base)
    if isinstance(base, tuple):
        place = expr.items[0]
        alone = len(expr.items) == 1 and not isinstance(place, s.Slice)
        at = constant(node(ctx, scope, place)) if alone else None  # type: ignore[arg-type]
        if not isinstance(at, int) or not 0 <= at < len(base):
            ctx.error("E303", f"this tuple has places 0 to {len(base) - 1}", expr.span)
        return base[at]
    value = as_node(ctx, base, expr.base.span)
    return index_axes(ctx, scope, value, expr)


def index_axes(ctx: Context, scope: Scope, value: Node, expr: s.Index) -> Node:
    """`x[i]`, `x[i, :]`: choose places along the leading axes."""
    axes = value.type.axes
    if len(expr.items) > len(axes):
        ctx.error(
            "E303",
            f"a value of type {value.type} has {len(axes)} axes to index",
            expr.span,
            "`x[i]` chooses along an axis; tuples of options are indexed by a number",
        )
    for axis, item in zip(axes, expr.items, strict=False):
        if isinstance(item, s.Slice):
            continue
        at = node(ctx, scope, item, "an index")
        t = value.type
        kept = tuple(a for a in t.axes if not a.same(axis))
        type = Type(t.reach, (*at.type.axes, *kept), t.domain, t.logical)
        value = ctx.graph.add("index", value, at, type=type, span=expr.span, axis=axis.label)
    return value


def _call(ctx: Context, scope: Scope, expr: s.Call) -> Any:
    from .calls import call_named

    with ctx.deeper(expr.span):
        if isinstance(expr.function, s.Name) and scope.find(expr.function.id) is None:
            found = call_named(ctx, scope, expr)
            if found is not None:
                return found
        function = evaluate(ctx, scope, expr.function)
        if isinstance(function, SlotRef | Node | tuple | AxisName | Members | str):
            name = getattr(expr.function, "id", "this")
            ctx.error("E203", f"`{name}` is no function", expr.function.span)
        return function.apply(arguments(ctx, scope, expr), expr.span)


def arguments(ctx: Context, scope: Scope, expr: s.Call) -> Arguments:
    """The evaluated arguments of a call; `over` keeps the names of axes that do not exist yet."""
    result = Arguments([], {}, wrt=expr.wrt)
    place = NEW_AXIS.get(getattr(expr.function, "id", ""), -1)
    for at, argument in enumerate(expr.arguments):
        if argument.name in ("over", "by"):
            value = over(ctx, scope, argument.value)
        elif at == place and not argument.name:
            value = by_name(ctx, scope, argument.value)
        else:
            value = evaluate(ctx, scope, argument.value)
        if argument.name:
            if argument.name in result.named:
                ctx.error("E204", f"`{argument.name}` is given twice", argument.span)
            result.named[argument.name] = value
            result.spans[argument.name] = argument.span
        else:
            result.spans[len(result.positional)] = argument.value.span
            result.positional.append(value)
    return result


def over(ctx: Context, scope: Scope, expr: s.Expr) -> Any:
    """What a reduction goes over: a reach, an axis, or a tuple of axes, by name alone."""
    items = expr.items if isinstance(expr, s.Tuple) else (expr,)
    if not all(isinstance(i, s.Name) for i in items):
        return evaluate(ctx, scope, expr)
    return tuple(Axis(i.id, None, i.primes) for i in items if isinstance(i, s.Name))


def _unary(ctx: Context, scope: Scope, expr: s.Unary) -> Node:
    value = node(ctx, scope, expr.operand, f"the operand of `{expr.op}`")
    known = constant(value)
    if expr.op == "-" and known is not None:
        return ctx.graph.const(-known, expr.span)
    return ctx.map("neg" if expr.op == "-" else "not", value, span=expr.span)


def _binary(ctx: Context, scope: Scope, expr: s.Binary) -> Node:
    left = node(ctx, scope, expr.left, f"the left of `{expr.op}`")
    right = node(ctx, scope, expr.right, f"the right of `{expr.op}`")
    if expr.op == "@":
        return BUILTINS["matmul"](ctx, scope, Arguments([left, right], {}), expr.span)
    return ctx.map(SYMBOLS[expr.op], left, right, span=expr.span)


def _lambda(ctx: Context, scope: Scope, expr: s.Lambda) -> Function:
    def apply(given: Arguments, span: Any) -> Any:
        if len(given.positional) != len(expr.parameters) or given.named:
            ctx.error("E205", f"this function takes {len(expr.parameters)} arguments", span)
        inner = scope.child()
        inner.names.update(zip(expr.parameters, given.positional, strict=True))
        with ctx.deeper(span):
            return evaluate(ctx, inner, expr.body)

    return Function("this function", apply)


def _tuple(ctx: Context, scope: Scope, expr: s.Tuple) -> tuple[Any, ...]:
    return tuple(evaluate(ctx, scope, item) for item in expr.items)


def _list(ctx: Context, scope: Scope, expr: s.List) -> Any:
    ctx.error("E302", "a list of numbers stands in `check` blocks only", expr.span)


def _text(ctx: Context, scope: Scope, expr: s.Text) -> str:
    return expr.value


_EVALUATE: dict[type, Callable[[Context, Scope, Any], Any]] = {
    s.Number: _number,
    s.Quantity: _quantity,
    s.Name: _name,
    s.Attribute: _attribute,
    s.Index: _index,
    s.Call: _call,
    s.Unary: _unary,
    s.Binary: _binary,
    s.Lambda: _lambda,
    s.Tuple: _tuple,
    s.List: _list,
    s.Text: _text,
}
