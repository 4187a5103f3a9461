"""Calls of primitives, and the fields that steps rebind: loss, grad and d.

A primitive's inputs and result are its type. Inputs with the names of the environment (`loss`,
`grad`, `d` or `g`, `w`) are supplied by it; all others are given in the call, before the options.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from . import syntax as s
from .bounds import complaint
from .builtins import BUILTINS
from .ir import Node
from .meanings import POISON, Arguments, Function, SlotRef
from .names import find_function
from .oracles import OBJECTIVE_METHODS, gradient_of
from .primitive import Declaration
from .scope import Context, Scope, Stop, agreed, as_node, constant
from .source import Span, nearest
from .typed_inputs import name_axes
from .types import meet

ENVIRONMENT = {"loss": "loss", "grad": "grad", "d": "d", "g": "d", "w": "w"}
"""Names of inputs that the environment supplies, and what it supplies."""


def supplied(item: s.Input, kind: str) -> str:
    """What the environment supplies for an input: loss, grad, d, w, or "" where the call must."""
    if kind == "function":
        return ""
    if item.type is not None and item.type.reach == "element" and item.type.axes:
        return "d"
    return ENVIRONMENT.get(item.name, "")


def current(ctx: Context, scope: Scope, name: str, span: Span) -> Any:
    """`loss`, `grad` or `d` where the text stands; `d` is `grad(w)` at its first use."""
    block = scope.block or scope
    if name == "grad":
        return block.names.get("grad") or gradient_field(ctx, scope)
    if name == "loss":
        found = scope.find("loss")
        if found is POISON:
            raise Stop
        if found is not None and not isinstance(found, Function):
            ctx.error("E302", "`loss` is no function here", span, "`loss = p -> ...`")
        if found is None:
            known = ", ".join(ctx.graph.objectives)
            ctx.error(
                "E206",
                "the rule has several losses and none is chosen",
                span,
                f"say which: `loss = ...` ({known})",
            )
        return found
    key = direction_key(scope)
    if key not in ctx.flow:
        field = current(ctx, scope, "grad", span)
        value = field.apply(Arguments([ctx.flow[scope.target]], {}), span)
        ctx.flow[key] = as_node(ctx, value, span)
    return SlotRef(key)


def direction_key(scope: Scope) -> str:
    return f"{scope.target}#d"


def gradient_field(ctx: Context, scope: Scope) -> Function:
    """`grad`: a point goes to the gradient of the current loss there, by the block's target."""

    def apply(given: Arguments, span: Span) -> Any:
        values = list(given.positional)
        if values and isinstance(values[0], Function):
            return gradient_of(ctx, scope, values.pop(0), values, given, span)
        return gradient_of(ctx, scope, current(ctx, scope, "loss", span), values, given, span)

    return Function("`grad`", apply)


def call_named(ctx: Context, scope: Scope, expr: s.Call) -> Any:
    """A call of a bare name that the scope does not bind, or None where it is no primitive."""
    from .expressions import arguments

    name = expr.function.id  # type: ignore[union-attr]
    if name in OBJECTIVE_METHODS:
        return OBJECTIVE_METHODS[name](ctx, scope, arguments(ctx, scope, expr), expr.span)
    if name == "grad":
        return current(ctx, scope, "grad", expr.span).apply(arguments(ctx, scope, expr), expr.span)
    # a primitive named like a builtin (`sign`) uses the builtin in its own body
    own = None if scope.in_primitive else ctx.local.get(name)
    declaration = own or (None if name in BUILTINS else find_function(ctx, name))
    if declaration is None or isinstance(declaration.tree, s.Bundle):
        return None
    given = arguments(ctx, scope, expr)
    return call(ctx, scope, declaration, given, expr.span)


def as_function(ctx: Context, scope: Scope, declaration: Declaration) -> Any:
    """A primitive named without a call: a function, or a bundle's members."""
    if isinstance(declaration.tree, s.Bundle):
        from .statements import bundle

        return bundle(ctx, declaration.tree)
    return Function(
        f"`{declaration.name}`",
        lambda given, span: call(ctx, scope, declaration, given, span),
    )


@dataclass
class Instance:
    """One call site of a primitive: its bound inputs and options, and the path of its slots.

    `spans` are where the options stand that are given.
    """

    declaration: Declaration
    inputs: dict[str, Any]
    options: dict[str, Any]
    path: str
    spans: dict[str, Span] = field(default_factory=dict)
    seen: dict[Node, Any] = field(default_factory=dict)
    wrote: bool = False


def instance(
    ctx: Context,
    scope: Scope,
    declaration: Declaration,
    given: Arguments,
    span: Span,
    alias: str = "",
    step: bool = False,
) -> Instance:
    """Bind the arguments of a call site.

    In a `step` what stands without a name is an option, since the environment supplies the inputs;
    in an expression, `half(g)`, the inputs come first.
    """
    step = step or declaration.kind == "stepsize"
    named = dict(given.named)
    values = list(given.positional)
    inputs: dict[str, Any] = {}
    for item in declaration.inputs:
        implicit = supplied(item, declaration.kind) != ""
        if item.type is not None and item.type.reach == "state":
            continue
        if item.name in named:
            inputs[item.name] = named.pop(item.name)
        elif values and not (implicit and step):
            inputs[item.name] = values.pop(0)
        elif not implicit:
            ctx.error("E207", f"`{declaration.name}` needs its input `{item.name}`", span)
    options: dict[str, Any] = {}
    spans: dict[str, Span] = {}
    for option in declaration.options:
        if option.name in named:
            options[option.name] = named.pop(option.name)
            spans[option.name] = given.spans.get(option.name, span)
        elif values:
            spans[option.name] = given.spans.get(len(given.positional) - len(values), span)
            options[option.name] = values.pop(0)
    _refuse_more(ctx, declaration, given, named, len(values), span)
    name = scope.path + (alias or declaration.name)
    again = declaration.kind == "function"  # an expression may be read at each of several points
    path = ctx.site_path(name, span) if again else ctx.fresh_path(name)
    return Instance(declaration, inputs, options, path, spans)


def _refuse_more(
    ctx: Context,
    declaration: Declaration,
    given: Arguments,
    named: dict[str, Any],
    more: int,
    span: Span,
) -> None:
    """Arguments that are left when all inputs and options have theirs: `named`, and the last."""
    known = [o.name for o in declaration.options] + [i.name for i in declaration.inputs]
    for name in named:
        ctx.error(
            "E203",
            f"`{declaration.name}` has no option `{name}`",
            given.spans.get(name, span),
            nearest(name, known),
        )
    if more:
        ctx.error(
            "E205",
            f"`{declaration.name}` takes at most {len(known)} arguments",
            given.spans.get(len(given.positional) - more, span),
            f"it takes {', '.join(known)}",
        )


def call(ctx: Context, scope: Scope, declaration: Declaration, given: Arguments, span: Span) -> Any:
    """Call a primitive here and now; the environment supplies what the call leaves out."""
    made = instance(ctx, scope, declaration, given, span)
    return run(ctx, scope, made, span, None)


def run(
    ctx: Context,
    scope: Scope,
    made: Instance,
    span: Span,
    point: Node | None,
    previous: dict[str, Any] | None = None,
) -> Any:
    """Evaluate a primitive's body with `w` at `point`, and `loss`, `grad` as before it."""
    declaration = made.declaration
    inner = Scope(
        path=made.path + ".",
        target=scope.target,
        in_primitive=True,
        turns=tuple(ctx.turns),
        again=bool(made.seen),
    )
    inner.block = inner
    _supply(ctx, scope, inner, made, span, point, previous or {})
    if declaration.call is not None:
        return python_call(ctx, inner, made, span)
    assert isinstance(declaration.tree, s.Primitive)
    for option in declaration.options:
        inner.names[option.name] = option_value(ctx, made, option, span)
    from .statements import block, returned

    before = ctx.writes
    with ctx.deeper(span), ctx.calling(span):
        for item in declaration.inputs:
            name_axes(ctx, inner, item, declaration, span)
        block(ctx, inner, declaration.tree.body)
    made.wrote = made.wrote or ctx.writes > before
    return returned(ctx, inner, declaration, span)


def _supply(
    ctx: Context,
    scope: Scope,
    inner: Scope,
    made: Instance,
    span: Span,
    point: Node | None,
    previous: dict[str, Any],
) -> None:
    """Give a body the names that the environment supplies, and its inputs."""
    w = point if point is not None else ctx.flow.get(scope.target)
    for name in ("loss", "grad"):
        found = previous.get(name) or scope.find(name)
        if found is None and name == "grad":
            found = gradient_field(ctx, inner)
        if found is not None:
            inner.names[name] = found
    outer_batch = scope.find("batch")
    if outer_batch is not None:
        inner.names["batch"] = outer_batch
    if w is not None:
        inner.names["w"] = w
    for target in ctx.targets:
        if target != "w" and scope.find(target) is not None:
            inner.names[target] = scope.find(target)
    for item in made.declaration.inputs:
        if item.type is not None and item.type.reach == "state":
            continue
        if item.name in made.inputs:
            inner.names[item.name] = made.inputs[item.name]
        elif supplied(item, made.declaration.kind) == "d":
            inner.names[item.name] = current(ctx, scope, "d", span)


def option_value(ctx: Context, made: Instance, option: s.Option, span: Span) -> Any:
    """What an option of a call site is: given, or its default; constants are checked by their
    bound.
    """
    from .expressions import evaluate

    if option.name in made.options:
        value, span = made.options[option.name], made.spans.get(option.name, span)
    elif option.default is not None:
        value = evaluate(ctx, Scope(), option.default)
    else:
        ctx.error("E207", f"`{made.declaration.name}` needs its option `{option.name}`", span)
    constants = tuple(constant(v) for v in value) if isinstance(value, tuple) else constant(value)
    if constants is not None and not (isinstance(constants, tuple) and None in constants):
        wrong = complaint(option.bound, constants)
        if wrong:
            ctx.error("E208", f"`{option.name}` of `{made.declaration.name}` {wrong}", span)
    if not made.declaration.of_the_model:
        return value
    parts = value if isinstance(value, tuple) else (value,)
    whole = tuple(agreed(ctx, x, span) if isinstance(x, Node) else x for x in parts)
    return whole if isinstance(value, tuple) else whole[0]


def python_call(ctx: Context, inner: Scope, made: Instance, span: Span) -> Any:
    """A primitive written in Python: one node now, inlined by a pass when torch is at hand."""
    declaration = made.declaration
    values, states = [], []
    for item in declaration.inputs:
        if item.type is not None and item.type.reach == "state":
            states.append(item.name)
        else:
            values.append(as_node(ctx, inner.names[item.name], span))
    options = {o.name: option_value(ctx, made, o, span) for o in declaration.options}
    flat = [(n, v if isinstance(v, tuple) else (v,)) for n, v in options.items()]
    layout = tuple((n, len(v) if isinstance(options[n], tuple) else 0) for n, v in flat)
    nodes = [as_node(ctx, x, span) for _, v in flat for x in v]
    reach = meet([v.type for v in values])
    zero = ctx.graph.const(0.0)
    paths = [made.path + "." + n for n in states]
    for path in paths:
        if path not in ctx.flow:
            ctx.declare(path, "state", reach, ctx.expand(zero, reach, span), span)
    ctx.graph.python[declaration.name] = declaration.call
    whole = ctx.graph.add(
        "python",
        *values,
        *(ctx.flow[p] for p in paths),
        *nodes,
        type=reach,
        span=span,
        call=declaration.name,
        positional=len(values) + len(paths),
        layout=layout,
    )
    results = [
        ctx.graph.add("out", whole, type=reach, span=span, index=i) for i in range(1 + len(paths))
    ]
    for path, result in zip(paths, results[1:], strict=True):
        ctx.flow[path] = result
        ctx.writes += 1
        made.wrote = True
    return results[0]


def field_of(
    ctx: Context, scope: Scope, made: Instance, previous: dict[str, Any], span: Span
) -> Function:
    """A primitive as a function of the point; its value at a point is computed once."""

    def apply(given: Arguments, at: Span) -> Any:
        if len(given.positional) != 1:
            ctx.error("E205", f"`{made.declaration.name}` as a function takes one point", at)
        for key in given.named:
            wrong = f"`{made.declaration.name}` as a function takes a point alone, not `{key}`"
            ctx.error("E203", wrong, given.spans.get(key, at))
        point = as_node(ctx, given.positional[0], at)
        if point not in made.seen:
            if made.wrote:
                ctx.error(
                    "E210",
                    f"`{made.declaration.name}` keeps state and is evaluated at several points "
                    "of one step",
                    span,
                    "its state would advance several times; put it after the "
                    "steps that evaluate the gradient elsewhere",
                )
            made.seen[point] = run(ctx, scope, made, at, point, previous)
        return made.seen[point]

    return Function(f"`{made.declaration.name}`", apply)
