"""Oracles: pure functions of point, data and seed that the training loop supplies.

An objective at a point is one `evaluate` node; its value, gradient and products with curvature are
read off it, so that equal points are evaluated once. The gradient of a function that is written in
the rule is expanded symbolically down to such nodes (`differentiate`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from . import syntax as s
from .builtins.views import primed
from .differentiate import forward, reverse
from .ir import Node, inputs_of, postorder, substitute
from .meanings import Arguments, Function
from .scope import Context, Scope, as_node
from .source import Span, nearest
from .types import DATA, EVALUATION, Axis, Type, union

PARTS = {
    "outputs": Type("model", (Axis("examples"), Axis("classes"))),
    "residual": Type("model", (Axis("residuals"),)),
}
"""Parts of a loss that a loop may give, usable without a declaration."""


def objective(ctx: Context, name: str, type: Type, declare: bool = True) -> Function:
    """The function that a loss is; an undeclared one is asked of the loop only where it is used."""
    if declare:
        ctx.graph.objectives[name] = type

    def apply(given: Arguments, span: Span) -> Node:
        ctx.graph.objectives.setdefault(name, type)
        return value_at(ctx, name, evaluation(ctx, name, given, span), span)

    return Function(f"`{name}`", apply, objective=name)


def value_at(ctx: Context, name: str, at: Node, span: Span) -> Node:
    type = ctx.graph.objectives[name]
    axes = union(at.type.axes, type.axes)
    return ctx.graph.add("value", at, type=Type(type.reach, axes), span=span)


def evaluation(ctx: Context, name: str, given: Arguments, span: Span) -> Node:
    """An objective at a point; targets that are not named stand at their current version."""
    points = {key: ctx.flow[key] for key in ctx.targets}
    placed: set[str] = set()

    def put(value: Any, key: str, at: Span) -> None:
        root, whole = place(ctx, as_node(ctx, value, span, "a point"), key, span)
        if root in placed:
            wrong = (
                f"`{name}` takes one point for each target, and this is a second one for `{root}`"
            )
            ctx.error("E205", wrong, at)
        placed.add(root)
        points[root] = whole

    for k, value in enumerate(given.positional):
        put(value, "", given.spans.get(k, span))
    data = ctx.batch
    seed: tuple[Node, ...] = ()
    for key, value in given.named.items():
        if key == "on":
            data = as_node(ctx, value, span)
        elif key == "seed":
            seed = (as_node(ctx, value, span),)
        elif key in ctx.flow:
            put(value, key, given.spans.get(key, span))
        elif key != "stats":
            ctx.unknown("target", key, ctx.targets, given.spans.get(key, span))
    if data is None:
        data = ctx.graph.add("batch", type=DATA, known=1)
    axes: tuple[Axis, ...] = data.type.axes
    for point in points.values():
        axes = union(axes, point.type.axes)
    return ctx.graph.add(
        "evaluate",
        *points.values(),
        data,
        *seed,
        type=replace(EVALUATION, axes=axes),
        span=span,
        objective=name,
        targets=tuple(points),
    )


def place(ctx: Context, value: Node, key: str, span: Span) -> tuple[str, Node]:
    """Where a point belongs, the target that its cells are of; and the point of all of it."""
    key = key or ctx.domain_key.get(value.type.domain, ctx.targets[0])
    type = ctx.flow[key].type
    if value.type == Type("model") and value.known == 2:
        wrong = "a point has the cells of its target, and this is one number"
        help = "the gradient of the loss is `grad(w)`, that of a function f is `grad(f, x)`"
        ctx.error("E306", wrong, value.span, help)
    if value.type.reach not in ("element", "row", "column", "tensor") and value.type.domain == "":
        value = ctx.expand(value, replace(type, axes=value.type.axes), span)
    elif value.type.reach != "element":
        value = ctx.expand(value, replace(type, axes=value.type.axes), span)
    return ctx.whole(key, value, span)


def gradient_of(
    ctx: Context, scope: Scope, function: Function, points: list[Any], given: Arguments, span: Span
) -> Node:
    """The gradient of a function by a target, at a point or where the targets stand."""
    key = given.wrt or scope.target
    if key not in ctx.flow:
        ctx.unknown("target", key, ctx.targets, span)
    if function.objective:
        declared(ctx, function.objective)
        at = evaluation(ctx, function.objective, replace_points(given, points), span)
        return read_gradient(ctx, function.objective, at, key, span)
    point, named = _point(ctx, "grad", points, given, key, span)
    return at_point(
        ctx,
        point,
        span,
        lambda x: reverse(ctx, _apply(ctx, function, x, named, span), None, x, span),
    )


def declared(ctx: Context, name: str) -> None:
    ctx.graph.objectives.setdefault(name, PARTS.get(name, Type("model")))


def replace_points(given: Arguments, points: list[Any]) -> Arguments:
    before = len(given.positional) - len(points)
    spans = {k - before if isinstance(k, int) else k: at for k, at in given.spans.items()}
    return Arguments(points, given.named, spans)


_OF_THE_LOOP = ("on", "seed", "stats")
"""What the losses of the training loop take: a function that a rule writes says it in its text."""


def _point(
    ctx: Context, what: str, points: list[Any], given: Arguments, key: str, span: Span
) -> tuple[Node, dict[str, Any]]:
    """The point that a derivative is taken at, and what else its function is given by name."""
    named = dict(given.named)
    if not points:
        points = [named.pop(key, ctx.flow[key])]
    if len(points) > 1:
        at = given.spans.get(len(given.positional) - len(points) + 1, span)
        ctx.error("E205", f"`{what}` takes a function and a point, and this is one more", at)
    return as_node(ctx, points[0], span), named


def _apply(ctx: Context, function: Function, x: Node, named: dict[str, Any], span: Span) -> Node:
    own = {} if function.objective else {n: v for n, v in named.items() if n in _OF_THE_LOOP}
    rest = {n: v for n, v in named.items() if n not in own}
    result = as_node(ctx, function.apply(Arguments([x], rest), span), span)
    if own and _asks(result, x):
        wrong = (
            f"{function.what} asks the loop in its own text, which `{next(iter(own))}` is not in"
        )
        ctx.error("E203", wrong, span, "say it in the function: `p -> train(p, on = b) + ..`")
    return result


def _asks(result: Node, x: Node) -> bool:
    """Whether a value needs an answer of the loop at a point that depends on x."""
    follow = {x}
    for n in postorder([result]):
        if any(i in follow for i in inputs_of(n)):
            follow.add(n)
    return any(n.op == "evaluate" for n in follow)


def at_point(ctx: Context, point: Node, span: Span, build: Any) -> Node:
    """Build something of a fresh variable, then put the point in its place."""
    ctx.streams += 1
    x = ctx.graph.add("parameter", type=point.type, known=2, span=span, stream=ctx.streams)
    result = build(x)
    return substitute(ctx.graph, [result], {x: point})[result]


def read_gradient(ctx: Context, name: str, at: Node, key: str, span: Span) -> Node:
    root = key
    while root in ctx.routed:
        root = ctx.routed[root]
    type = ctx.graph.objectives[name]
    axes = union(at.type.axes, type.axes)
    domain = ctx.flow[root].type.domain
    g = ctx.graph.add("gradient", at, type=Type("element", axes, domain), span=span, wrt=root)
    return ctx.restrict(g, ctx.flow[key].type.domain)


def _split(
    ctx: Context, scope: Scope, given: Arguments, span: Span, what: str
) -> tuple[Function, Node, Node, dict[str, Any]]:
    """The arguments of hvp, jvp and vjp: a function, a point (or where the target stands), a
    vector; and what else the function is given by name.
    """
    function, *values = given.positional or [None]
    if not isinstance(function, Function) or not 1 <= len(values) <= 2:
        wrong = f"`{what}` takes a function, a point and a vector"
        help = f"`{what}(loss, w, v)`; where the target stands, `{what}(loss, v)`"
        ctx.error("E205", wrong, span, help)
    point, named = _point(ctx, what, values[:-1], given, given.wrt or scope.target, span)
    vector = as_node(ctx, values[-1], span)
    if what != "vjp":  # a vector at the point: in a block the part of it that is there
        point, vector = ctx.narrowed((point, vector))
    return function, point, vector, named


def _spread(ctx: Context, key: str, vector: Node, span: Span) -> tuple[str, Node]:
    """A vector over a routed part as one over the whole target, zero elsewhere."""
    key = ctx.domain_key.get(vector.type.domain, key)
    type = replace(ctx.flow[key].type, axes=vector.type.axes)
    vector = ctx.expand(vector, type, span)
    while key in ctx.routed:
        parent = ctx.routed[key]
        t = replace(ctx.flow[parent].type, axes=vector.type.axes)
        zero = ctx.expand(ctx.graph.const(0.0), t, span)
        vector, key = ctx.merge(zero, {vector.type.domain: vector}, span), parent
    return key, vector


def hvp(ctx: Context, scope: Scope, given: Arguments, span: Span) -> Node:
    """`hvp(loss, w, v)`: the Hessian at w times v."""
    function, point, vector, named = _split(ctx, scope, given, span, "hvp")
    key = given.wrt or scope.target
    if function.objective:
        declared(ctx, function.objective)
        at = evaluation(ctx, function.objective, Arguments([point], named, given.spans), span)
        root, whole = _spread(ctx, key, vector, span)
        type = replace(whole.type, axes=union(at.type.axes, whole.type.axes))
        result = ctx.graph.add("hvp", at, whole, type=type, span=span, wrt=root, of=root)
        return ctx.restrict(result, ctx.flow[key].type.domain)

    def build(x: Node) -> Node:
        g = reverse(ctx, _apply(ctx, function, x, named, span), None, x, span)
        return reverse(ctx, g, vector, x, span)

    return at_point(ctx, point, span, build)


def jvp(ctx: Context, scope: Scope, given: Arguments, span: Span) -> Node:
    """`jvp(f, w, v)`: the derivative of f at w along v."""
    function, point, vector, named = _split(ctx, scope, given, span, "jvp")
    vector = ctx.expand(vector, replace(point.type, axes=vector.type.axes), span)
    return at_point(
        ctx,
        point,
        span,
        lambda x: forward(ctx, _apply(ctx, function, x, named, span), x, vector, span),
    )


def vjp(ctx: Context, scope: Scope, given: Arguments, span: Span) -> Node:
    """`vjp(f, w, u)`: the transposed derivative of f at w times u."""
    function, point, vector, named = _split(ctx, scope, given, span, "vjp")
    return at_point(
        ctx,
        point,
        span,
        lambda x: reverse(ctx, _apply(ctx, function, x, named, span), vector, x, span),
    )


def jacobian(ctx: Context, scope: Scope, given: Arguments, span: Span) -> Node:
    """`jacobian(f, w)`: element[axes of f], for a function whose result has axes."""
    values = list(given.positional)
    function = values.pop(0) if values else None
    if not isinstance(function, Function):
        ctx.error("E306", "`jacobian` takes a function, and a point", span)
    if function.objective:
        return gradient_of(ctx, scope, function, values, given, span)
    key = given.wrt or scope.target
    point, named = _point(ctx, "jacobian", values, given, key, span)

    def build(x: Node) -> Node:
        result = _apply(ctx, function, x, named, span)
        seed = ctx.graph.const(1.0, span)
        for axis in result.type.axes:  # 1 at one place of the result, mapped over all of them
            one = Type("model", (axis, axis.prime()))
            seed = ctx.map("mul", seed, ctx.graph.add("eye", type=one, known=2), span=span)
        return primed(ctx, reverse(ctx, result, seed, x, span), -1)

    return at_point(ctx, point, span, build)


OBJECTIVE_METHODS = {"hvp": hvp, "jvp": jvp, "vjp": vjp, "jacobian": jacobian}


def in_order(
    ctx: Context,
    name: str,
    inputs: Sequence[str],
    more: Sequence[str],
    given: Arguments,
    span: Span,
) -> list[Node]:
    """The arguments of a function that the host supplies, in the order of its inputs; of `more`
    the last ones may be left to it.
    """
    parameters = (*inputs, *more)
    values = [as_node(ctx, v, span) for v in given.positional]
    lacking = parameters[len(values) :]
    for key in given.named:
        if key not in lacking:
            wrong = f"`{name}` has no input `{key}`, or it is given twice"
            ctx.error("E203", wrong, given.spans.get(key, span), nearest(key, parameters))
    if len(values) > len(parameters):
        wrong = f"`{name}({', '.join(parameters)})` has no place for this"
        ctx.error("E205", wrong, given.spans.get(len(parameters), span))
    for key in lacking:
        if key in given.named:
            values.append(as_node(ctx, given.named[key], span))
        elif key in inputs or len(values) < len(given.positional) + len(given.named):
            ctx.error("E207", f"`{name}` needs its input `{key}`", span)
    return values


def named_oracle(ctx: Context, slot: s.Slot, type: Type) -> Function:
    """`oracle score(x, condition): element`: a function that the loop supplies under this name."""
    ctx.graph.oracles[slot.name] = type

    def apply(given: Arguments, span: Span) -> Node:
        values = in_order(ctx, slot.name, slot.parameters, (), given, span)
        axes = type.axes
        for value in values:
            axes = union(axes, value.type.axes)
        return ctx.graph.add(
            "oracle", *values, type=replace(type, axes=axes), span=span, name=slot.name
        )

    return Function(f"`{slot.name}`", apply)
