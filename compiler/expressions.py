"""Expressions: syntax + scope -> values. One function a class of the tree."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from . import syntax as s
from .bounds import PLACES, complaint
from .builtins import BUILTINS
from .builtins.views import primed
from .ir import Node
from .meanings import POISON, Arguments, AxisName, Function, Members, SlotRef
from .names import ambient, find_axis
from .ops import SYMBOLS
from .scope import Context, Scope, Stop, agreed, as_node, constant
from .source import Span
from .types import DEVICE, Axis, Type, coarser_or_equal


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


NEW_AXIS = {
    "grid": 0,
    "normal": 1,
    "uniform": 1,
    "rademacher": 1,
    "zeros": 1,
    "ones": 1,
    "first": 1,
    "eye": 0,
    "size": 0,
    "draw": 0,
}
"""Functions with an argument that may name an axis (or a source of data) which nothing declares."""


def places(ctx: Context, scope: Scope, expr: s.Expr) -> int | Node:
    """How many places an axis has: a number, or what the host knows."""
    size = node(ctx, scope, expr, "the size of an axis")
    n = constant(size)
    if n is None:
        if size.known == DEVICE or size.type.axes or size.type.reach not in ("group", "model"):
            wrong = "the host must know how many places an axis has, the same for all tensors"
            ctx.error("E314", wrong, expr.span, "a constant, or an option with the bound `count`")
        return counted(ctx, size, "count", expr.span)
    if not 1 <= n <= PLACES or n != int(n):
        ctx.error("E309", f"an axis has 1 to {PLACES} places, not {n}", expr.span)
    return int(n)


NUMBERS = ("", "real", "finite", "nonnegative", "positive", "integer")
"""Bounds within which there are whole numbers to count with."""


def counted(ctx: Context, value: Node, bound: str, span: Span) -> Node:
    """A count that the host knows, the same for all groups; an option of it has the bound."""
    counts(ctx, value, bound, span)
    return agreed(ctx, value, span)


def counts(ctx: Context, value: Node, bound: str, span: Span) -> None:
    """Where a count is an option, it has the bound, whatever its own."""
    option = ctx.graph.options.get(value["name"]) if value.op == "option" else None
    if option is not None and isinstance(option.default, int | float | None):
        wrong = "" if option.default is None else complaint(bound, option.default)
        if option.bound not in (*NUMBERS, "count"):
            wrong = f"has the bound `{option.bound}`"
        if wrong:
            help = f"declare `{option.name}: {bound} = ..`"
            ctx.error("E309", f"`{option.name}` counts something here: it {wrong}", span, help)
        if option.bound != "count":
            ctx.graph.options[option.name] = replace(option, bound=bound)


def placed(ctx: Context, axis: Axis, at: Node, span: Span) -> Node:
    """An index that is a number must be a place of the axis."""
    n = constant(at)
    many = axis.size if isinstance(axis.size, int) else None
    if n is not None and (n != int(n) or n < 0 or many is not None and n >= many):
        there = "begin at 0" if many is None else f"are 0 to {many - 1}"
        ctx.error("E303", f"the places of `{axis.label}` {there}, and this is {n}", span)
    return at


def by_name(ctx: Context, scope: Scope, expr: s.Expr) -> Any:
    """`probes(n)` or `trial` where an axis is named for the first time."""
    if isinstance(expr, s.Call) and isinstance(expr.function, s.Name) and len(expr.arguments) == 1:
        axis = Axis(expr.function.id, places(ctx, scope, expr.arguments[0].value))
        ctx.axes[axis.name] = axis
        return AxisName(axis)
    if isinstance(expr, s.Name) and scope.find(expr.id) is None:
        if expr.id == "all":
            return AxisName(ctx.everything(ctx.domain(scope)))
        return AxisName(find_axis(ctx, scope, expr.id) or ctx.axes.get(expr.id) or Axis(expr.id))
    return evaluate(ctx, scope, expr)


def _attribute(ctx: Context, scope: Scope, expr: s.Attribute) -> Any:
    if isinstance(expr.base, s.Name) and scope.find(expr.base.id) is None:
        found = _instance(ctx, scope, expr, expr.base.id)
        if found is not None:
            return found
    base = evaluate(ctx, scope, expr.base)
    if not isinstance(base, Members):
        wrong = f"`{expr.name}` is asked of something that has no members"
        help = "a matrix is turned by `transpose(matrix(x))`" if expr.name in ("T", "mT") else ""
        if expr.name in BUILTINS:
            help = f"a function stands before its value: `{expr.name}(x)`"
        ctx.error("E202", wrong, expr.span, help)
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
        at = placed(ctx, axis, node(ctx, scope, item, "an index"), item.span)
        t, reach = value.type, at.type.reach
        if reach != "group" and not coarser_or_equal(reach, t.reach):
            ctx.error(
                "E303",
                f"a place of reach {reach} cannot choose from a value of reach {t.reach}",
                item.span,
                "reduce the place `over = model`",
            )
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
            members = list(function.values) if isinstance(function, Members) else []
            help = f"call a member of it: `{name}.{members[0]}(..)`" if members else ""
            if name in BUILTINS:
                help = f"it names a value here: call the option or value otherwise than `{name}`"
            elif isinstance(function, Node | SlotRef):
                help = f"a product is `{name} * (..)`"
            ctx.error("E203", f"`{name}` is no function", expr.function.span, help)
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
        for key in given.named:
            wrong = f"this function takes what it is given by place, not `{key}` by name"
            ctx.error("E203", wrong, given.spans.get(key, span))
        if len(given.positional) != len(expr.parameters):
            form = f"{', '.join(expr.parameters)} -> .."
            ctx.error("E205", f"this function takes other arguments: it is `{form}`", span)
        inner = scope.child()
        inner.names.update(zip(expr.parameters, given.positional, strict=True))
        with ctx.deeper(span):
            return evaluate(ctx, inner, expr.body)

    return Function("this function", apply)


def _tuple(ctx: Context, scope: Scope, expr: s.Tuple) -> tuple[Any, ...]:
    return tuple(evaluate(ctx, scope, item) for item in expr.items)


def _list(ctx: Context, scope: Scope, expr: s.List) -> Any:
    wrong = "a list of numbers stands in `check` blocks only"
    ctx.error("E302", wrong, expr.span, "several numbers are a tuple: `(0.9, 0.999)`")


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
