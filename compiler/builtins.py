"""The functions of the language: a name, its parameters, and the nodes it builds.

Everything that can be written in the language itself is not here but in plugins/function/.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from .ir import Node
from .networks import unfit
from .scope import Arguments, AxisName, Context, Function, Mixing, Scope, as_node, constant
from .source import Span
from .types import DATA, MODEL, REACHES, Axis, Type, coarser_or_equal, union

METAS = {"ndim", "rows", "cols", "numel", "place"}
CONSTANTS: dict[str, float | bool] = {
    "pi": math.pi,
    "inf": math.inf,
    "nan": math.nan,
    "true": True,
    "false": False,
}

Build = Callable[[Context, Scope, Arguments, Span], Any]
BUILTINS: dict[str, Build] = {}


def builtin(name: str, parameters: str = "", rest: bool = False) -> Callable[..., Any]:
    """Register a function; `parameters` are names, a trailing `?` marks an optional one."""
    names = [p.strip("?") for p in parameters.split()]
    needed = [p for p in parameters.split() if not p.endswith("?")]

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        def build(ctx: Context, scope: Scope, given: Arguments, span: Span) -> Any:
            if rest:
                return function(ctx, scope, span, *given.positional, **given.named)
            bound = dict(zip(names, given.positional, strict=False))
            if len(given.positional) > len(names):
                ctx.error(
                    "E205", f"`{name}` takes {len(names)} arguments: {', '.join(names)}", span
                )
            for key, value in given.named.items():
                if key not in names:
                    from .source import nearest

                    ctx.error(
                        "E203",
                        f"`{name}` has no argument `{key}`",
                        given.spans.get(key, span),
                        nearest(key, names),
                    )
                bound[key] = value
            missing = [n for n in needed if n not in bound]
            if missing:
                help = "name what it goes over: `over = model`" if missing == ["over"] else ""
                ctx.error("E207", f"`{name}` needs `{missing[0]}`", span, help)
            return function(ctx, scope, span, **bound)

        BUILTINS[name] = build
        return function

    return register


def _map(name: str, op: str, arity: int) -> None:
    letters = "abc"[:arity]

    @builtin(name, " ".join(letters))
    def build(ctx: Context, scope: Scope, span: Span, **given: Any) -> Node:
        values = [as_node(ctx, given[x], span, f"an argument of `{name}`") for x in letters]
        return ctx.map(op, *values, span=span)


for _op in "abs sign sqrt exp ln sin cos tanh sigmoid erf floor ceil round bf16 isfinite".split():
    _map(_op, _op, 1)
_map("where", "where", 3)
_map("mod", "mod", 2)


def _fold(name: str) -> None:
    """max and min: element-wise of several operands, or a reduction with `over`."""

    @builtin(name, rest=True)
    def build(
        ctx: Context, scope: Scope, span: Span, *values: Any, over: Any = None, **bad: Any
    ) -> Node:
        if bad:
            ctx.error(
                "E203", f"`{name}` has no argument `{next(iter(bad))}`", span, "it takes `over`"
            )
        nodes = [as_node(ctx, v, span) for v in values]
        if over is not None:
            return reduce(ctx, name, nodes[0], over, span)
        if len(nodes) < 2:
            ctx.error("E205", f"`{name}` takes two values, or one and `over`", span)
        result = nodes[0]
        for other in nodes[1:]:
            result = ctx.map(name, result, other, span=span)
        return result


_fold("max")
_fold("min")


# Reductions -----------------------------------------------------------------------------------


def reduce(ctx: Context, how: str, value: Node, over: Any, span: Span) -> Node:
    """Make a value coarser: over a reach, or over named axes."""
    if not isinstance(over, tuple) or not all(isinstance(a, Axis) for a in over):
        ctx.error("E308", "`over` names a reach or an axis", span, f"a reach: {', '.join(REACHES)}")
    if len(over) == 1 and over[0].name in REACHES:
        reach = over[0].name
        if reach == value.type.reach:
            return value
        if not coarser_or_equal(reach, value.type.reach):
            ctx.error(
                "E308",
                f"a value of reach {value.type.reach} has no cells to reduce over {reach}",
                span,
            )
        type = replace(value.type.at(reach), logical=how in ("any", "all"))
        return ctx.graph.add("reduce", value, type=type, span=span, how=how, over=reach)
    for axis in over:
        if value.type.axis(axis.name, axis.primes) is None:
            known = [str(a) for a in value.type.axes]
            ctx.unknown("axis", axis.name, [*known, *REACHES], span, "E308")
    kept = tuple(a for a in value.type.axes if not any(a.same(o) for o in over))
    names = tuple(o.name + "'" * o.primes for o in over)
    type = replace(value.type, axes=kept, logical=how in ("any", "all"))
    return ctx.graph.add("reduce", value, type=type, span=span, how=how, over=names)


def _reduction(name: str, how: str) -> None:
    @builtin(name, "x over")
    def build(ctx: Context, scope: Scope, span: Span, x: Any, over: Any) -> Node:
        return reduce(ctx, how, as_node(ctx, x, span), over, span)


for _name, _how in (("sum", "sum"), ("any", "any"), ("all", "all"), ("product", "prod")):
    _reduction(_name, _how)


@builtin("count", "x over")
def count(ctx: Context, scope: Scope, span: Span, x: Any, over: Any) -> Node:
    """How many cells a value has over a reach (all of them, whatever their values)."""
    value = as_node(ctx, x, span)
    one = ctx.map(
        "where",
        ctx.map("eq", value, value, span=span),
        ctx.graph.const(1.0),
        ctx.graph.const(1.0),
        span=span,
    )
    return reduce(ctx, "sum", one, over, span)


@builtin("mean", "x over")
def mean(ctx: Context, scope: Scope, span: Span, x: Any, over: Any) -> Node:
    value = as_node(ctx, x, span)
    if over == (Axis("workers"),):
        return mix(ctx, scope, span, value, Mixing(("complete",)))
    return ctx.map(
        "div",
        reduce(ctx, "sum", value, over, span),
        count(ctx, scope, span, value, over),
        span=span,
    )


@builtin("norm", "x over")
def norm(ctx: Context, scope: Scope, span: Span, x: Any, over: Any) -> Node:
    """The Euclidean norm over a reach or over axes."""
    value = as_node(ctx, x, span)
    square = ctx.map("mul", value, value, span=span)
    return ctx.map("sqrt", reduce(ctx, "sum", square, over, span), span=span)


@builtin("dot", "a b over")
def dot(ctx: Context, scope: Scope, span: Span, a: Any, b: Any, over: Any) -> Node:
    """Products summed over a reach; axes that only one operand has stay."""
    left, right = as_node(ctx, a, span), as_node(ctx, b, span)
    if not left.type.axes and not right.type.axes:
        return reduce(ctx, "sum", ctx.map("mul", left, right, span=span), over, span)
    product = ctx.map("mul", left, right, span=span)
    summed = reduce(ctx, "sum", product, over, span)
    if not any(o.name in REACHES for o in over):
        return summed
    return ctx.graph.add("contract", left, right, type=summed.type, span=span, over=over[0].name)


@builtin("quantile", "x q over")
def quantile(ctx: Context, scope: Scope, span: Span, x: Any, q: Any, over: Any) -> Node:
    value = as_node(ctx, x, span)
    if _reach(ctx, over, span) == "model":  # the order of all cells matters: they become one axis
        value, over = flat(ctx, scope, span, value), (Axis("all"),)
    whole = reduce(ctx, "quantile", value, over, span)
    if not isinstance(whole["over"], tuple):
        ctx.error("E308", "a quantile goes over the model or over one axis", span)
    return ctx.graph.add(
        "reduce",
        value,
        as_node(ctx, q, span),
        type=whole.type,
        span=span,
        how="quantile",
        over=whole["over"],
    )


@builtin("top", "x over by? fraction? k?")
def top(
    ctx: Context,
    scope: Scope,
    span: Span,
    x: Any,
    over: Any,
    by: Any = None,
    fraction: Any = None,
    k: Any = None,
) -> Node:
    """The largest cells over a reach, zero elsewhere; ties go by position."""
    value = as_node(ctx, x, span)
    name = (
        "abs"
        if isinstance(by, Function)
        else by[0].name
        if isinstance(by, tuple) and by and isinstance(by[0], Axis)
        else "value"
    )
    if (fraction is None) == (k is None):
        ctx.error("E207", "`top` needs either `fraction` or `k`", span)
    size = as_node(ctx, fraction if k is None else k, span)
    whole = _reach(ctx, over, span) == "model" and value.type.reach == "element"
    if not whole and _reach(ctx, over, span) not in ("tensor", "all"):
        ctx.error("E308", "`top` goes over the model or each tensor", span)
    source = flat(ctx, scope, span, value) if whole else value
    kept = ctx.graph.add(
        "select",
        source,
        size,
        type=source.type,
        span=span,
        by=name,
        of="k" if fraction is None else "fraction",
    )
    return back(ctx, scope, span, kept, like=value) if whole else kept


def _reach(ctx: Context, over: Any, span: Span) -> str:
    if not isinstance(over, tuple) or len(over) != 1 or not isinstance(over[0], Axis):
        ctx.error("E308", "`over` names one reach or one axis", span)
    return over[0].name + "'" * over[0].primes


def _order(name: str) -> None:
    @builtin(name, "x over?")
    def build(ctx: Context, scope: Scope, span: Span, x: Any, over: Any = None) -> Node:
        value = as_node(ctx, x, span)
        if over is None and len(value.type.axes) == 1:
            over = value.type.axes
        axis = _reach(ctx, over, span)
        kept = tuple(a for a in value.type.axes if a.name + "'" * a.primes != axis)
        if len(kept) == len(value.type.axes):
            ctx.unknown("axis", axis, [str(a) for a in value.type.axes], span, "E308")
        type = replace(value.type, axes=kept if name.startswith("arg") else value.type.axes)
        return ctx.graph.add("order", value, type=type, span=span, how=name, over=axis)


for _name in ("rank", "argmin", "argmax", "sort", "cumsum", "flip", "roll"):
    _order(_name)


# Constructors ---------------------------------------------------------------------------------


def _filled(name: str, number: float) -> None:
    @builtin(name, "like axis?")
    def build(ctx: Context, scope: Scope, span: Span, like: Any, axis: Any = None) -> Node:
        """A constant for each cell of `like` (and each place of `axis`), or for each place of an
        axis alone.
        """
        if isinstance(like, AxisName):
            like, axis = ctx.graph.const(number, span), like
        type = replace(as_node(ctx, like, span).type, logical=False)
        if isinstance(axis, AxisName):
            type = replace(type, axes=(*type.axes, axis.axis))
        return ctx.expand(ctx.graph.const(number, span), type, span)


_filled("zeros", 0.0)
_filled("ones", 1.0)


def axis_of(ctx: Context, value: Any, span: Span) -> Axis:
    if not isinstance(value, AxisName):
        ctx.error("E308", "the name of an axis is expected here", span, "for example `eye(losses)`")
    return value.axis


@builtin("eye", "axis")
def eye(ctx: Context, scope: Scope, span: Span, axis: Any) -> Node:
    a = axis_of(ctx, axis, span)
    reach, domain = (
        ("tensor", ctx.flow[scope.target].type.domain)
        if a.name in ("rows", "cols", "short", "long")
        else ("model", "")
    )
    return ctx.graph.add("eye", type=Type(reach, (a, a.prime()), domain), known=2, span=span)


@builtin("size", "axis")
def size(ctx: Context, scope: Scope, span: Span, axis: Any) -> Node:
    a = axis_of(ctx, axis, span)
    if isinstance(a.size, int):
        return ctx.graph.const(a.size, span)
    if isinstance(a.size, Node):
        return a.size
    return ctx.graph.add("size", type=MODEL, known=2, span=span, axis=a)


@builtin("grid", "axis low high n")
def grid(ctx: Context, scope: Scope, span: Span, axis: Any, low: Any, high: Any, n: Any) -> Node:
    """n points from low to high along a new axis."""
    places = constant(as_node(ctx, n, span))
    if not isinstance(places, int) or not 2 <= places <= 4096:
        ctx.error("E309", "`grid` needs a constant number of points, 2 to 4096", span)
    a = Axis(axis_of(ctx, axis, span).name, places)
    ctx.axes[a.name] = a
    i = ctx.graph.add("iota", type=Type("model", (a,)), known=2, span=span)
    lo, hi = as_node(ctx, low, span), as_node(ctx, high, span)
    step = ctx.map("div", ctx.map("sub", hi, lo, span=span), ctx.graph.const(places - 1), span=span)
    return ctx.map("add", lo, ctx.map("mul", i, step, span=span), span=span)


def _random(name: str) -> None:
    @builtin(name, "like? axis?")
    def build(ctx: Context, scope: Scope, span: Span, like: Any = None, axis: Any = None) -> Node:
        """A draw for each cell; calls in other places, or in other turns of a loop, differ."""
        type = replace(as_node(ctx, like, span).type, logical=False) if like is not None else MODEL
        if axis is not None:
            type = replace(type, axes=(axis_of(ctx, axis, span), *type.axes))
        ctx.streams += 1
        return ctx.graph.add(
            "random", *ctx.loops, type=type, span=span, how=name, stream=ctx.streams
        )


for _name in ("normal", "uniform", "rademacher"):
    _random(_name)


@builtin("coin", "p")
def coin(ctx: Context, scope: Scope, span: Span, p: Any) -> Node:
    """True with probability p.

    Drawn on the host, so that what it guards is not paid for when false; in a loop, on the device,
    anew for each turn.
    """
    ctx.streams += 1
    if ctx.loops:
        drawn = ctx.graph.add(
            "random", *ctx.loops, type=MODEL, span=span, how="uniform", stream=ctx.streams
        )
    else:
        drawn = ctx.graph.add(
            "clock", type=MODEL, known=1, span=span, which="coin", stream=ctx.streams
        )
    return ctx.map("lt", drawn, as_node(ctx, p, span), span=span)


@builtin("named", rest=True)
def named(ctx: Context, scope: Scope, span: Span, *patterns: Any) -> Node:
    """Whether the name of a tensor matches one of the patterns."""
    return _matches(ctx, scope, "name", patterns, span)


@builtin("module", rest=True)
def module(ctx: Context, scope: Scope, span: Span, *names: Any) -> Node:
    """Whether the module that owns a tensor has one of these types (`Linear`, `Conv2d`)."""
    return _matches(ctx, scope, "module", names, span)


@builtin("dtype", rest=True)
def dtype(ctx: Context, scope: Scope, span: Span, *names: Any) -> Node:
    """Whether a tensor has one of these types (`float32`, `bfloat16`)."""
    return _matches(ctx, scope, "dtype", names, span)


def _matches(ctx: Context, scope: Scope, what: str, patterns: tuple[Any, ...], span: Span) -> Node:
    if not patterns or not all(isinstance(p, str) for p in patterns):
        ctx.error("E310", 'this takes patterns as texts, like `named("*bias")`', span)
    domain = ctx.flow[scope.target].type.domain if scope.target in ctx.flow else "w"
    type = Type("tensor", (), domain, logical=True)
    return ctx.graph.add("meta", type=type, known=1, span=span, what=what, patterns=patterns)


@builtin("shape", "place")
def shape(ctx: Context, scope: Scope, span: Span, place: Any) -> Node:
    at = constant(as_node(ctx, place, span))
    domain = ctx.flow[scope.target].type.domain if scope.target in ctx.flow else "w"
    return ctx.graph.add("meta", type=Type("tensor", (), domain), known=1, what="shape", place=at)


# Views and matrices ---------------------------------------------------------------------------

ROWS, COLS = Axis("rows"), Axis("cols")


@builtin("matrix", "x")
def matrix(ctx: Context, scope: Scope, span: Span, x: Any) -> Node:
    """The cells of each tensor as a matrix: the first dimension against the others."""
    t = as_node(ctx, x, span).type
    value = ctx.expand(as_node(ctx, x, span), replace(t, reach="element"), span)
    return ctx.graph.add(
        "matrix", value, type=Type("tensor", (*t.axes, ROWS, COLS), t.domain), span=span
    )


@builtin("wide", "x")
def wide(ctx: Context, scope: Scope, span: Span, x: Any) -> Node:
    """`matrix(x)`, turned where it is tall: its shorter side against its longer one."""
    value = matrix(ctx, scope, span, x)
    axes = (*value.type.axes[:-2], Axis("short"), Axis("long"))
    type = replace(value.type, axes=axes)
    return ctx.graph.add("wide", value.inputs[0], type=type, span=span)


@builtin("flat", "x")
def flat(ctx: Context, scope: Scope, span: Span, x: Any) -> Node:
    """All cells of the target in one axis, in the order of the parameters."""
    value = as_node(ctx, x, span)
    type = Type("model", (*value.type.axes, Axis("all")))
    return ctx.graph.add("flat", value, type=type, span=span)


@builtin("back", "x like?")
def back(ctx: Context, scope: Scope, span: Span, x: Any, like: Any = None) -> Node:
    """The cells of a matrix or of a flat value where they came from."""
    value = as_node(ctx, x, span)
    key = scope.target
    domain = as_node(ctx, like, span).type.domain if like is not None else ctx.flow[key].type.domain
    count = 2 if value.type.reach == "tensor" else 1
    axes = value.type.axes[:-count]
    return ctx.graph.add("back", value, type=Type("element", axes, domain), span=span)


@builtin("transpose", "x")
def transpose(ctx: Context, scope: Scope, span: Span, x: Any) -> Node:
    """Rows and columns exchanged; a square [a, a'] stays [a, a'], since axes align by name."""
    value = as_node(ctx, x, span)
    *rest, a, b = _two_axes(ctx, value, span)
    last = (a, b) if a.name == b.name else (b, a)
    return ctx.graph.add(
        "transpose", value, type=replace(value.type, axes=(*rest, *last)), span=span
    )


def _two_axes(ctx: Context, value: Node, span: Span) -> tuple[Axis, ...]:
    if len(value.type.axes) < 2:
        ctx.error(
            "E311",
            f"this takes a matrix, and the value is {value.type}",
            span,
            "`matrix(x)` makes one of each tensor",
        )
    return value.type.axes


@builtin("matmul", "a b")
def matmul(ctx: Context, scope: Scope, span: Span, a: Any, b: Any) -> Node:
    """`a @ b`: the last axis of a against the first matrix axis of b; either may be a vector."""
    left, right = as_node(ctx, a, span), as_node(ctx, b, span)
    for operand in (left, right):
        if not operand.type.axes:
            _two_axes(ctx, operand, span)
    if len(left.type.axes) == 1:
        left, right = transpose(ctx, scope, span, right), left
    *rest, m, k = _two_axes(ctx, left, span)
    vector = len(right.type.axes) == 1
    k2, *n = right.type.axes[-2:] if not vector else right.type.axes
    if k.name != k2.name:
        message = f"`@` sums {left.type} over `{k}`, and {right.type} has `{k2}` there"
        ctx.error("E311", message, span)
    axes = (*rest, *_product(m, k, tuple(n)))
    base, other = left.type, right.type
    reach = other.reach if coarser_or_equal(base.reach, other.reach) else base.reach
    type = Type(reach, axes, base.domain or other.domain)
    return ctx.graph.add("matmul", left, right, type=type, span=span, vector=vector)


def _product(m: Axis, k: Axis, n: tuple[Axis, ...]) -> tuple[Axis, ...]:
    """The axes of a product: primed only where both have one name."""
    plain = replace(m, primes=0)
    if not n:
        return (plain,)
    last = replace(n[0], primes=0)
    return (plain, last.prime()) if last.name == plain.name else (plain, last)


@builtin("trace", "x")
def trace(ctx: Context, scope: Scope, span: Span, x: Any) -> Node:
    value = as_node(ctx, x, span)
    *rest, a, b = _two_axes(ctx, value, span)
    diagonal = ctx.map("mul", value, eye_like(ctx, value, a, b, span), span=span)
    return reduce(
        ctx, "sum", diagonal, (Axis(a.name, None, a.primes), Axis(b.name, None, b.primes)), span
    )


def eye_like(ctx: Context, value: Node, a: Axis, b: Axis, span: Span) -> Node:
    type = Type(
        value.type.reach if value.type.reach == "tensor" else "model", (a, b), value.type.domain
    )
    return ctx.graph.add("eye", type=type, known=2, span=span)


@builtin("solve", "a b")
def solve(ctx: Context, scope: Scope, span: Span, a: Any, b: Any) -> Node:
    """x with a x = b, batched over tensors."""
    left, right = as_node(ctx, a, span), as_node(ctx, b, span)
    _two_axes(ctx, left, span)
    vector = len(right.type.axes) == 1
    type = replace(
        right.type,
        axes=(left.type.axes[-1].prime(-left.type.axes[-1].primes), *right.type.axes[1:]),
    )
    if vector:
        type = right.type
    return ctx.graph.add("solve", left, right, type=type, span=span, vector=vector)


def _square(name: str) -> None:
    @builtin(name, "x")
    def build(ctx: Context, scope: Scope, span: Span, x: Any) -> Node:
        value = as_node(ctx, x, span)
        _two_axes(ctx, value, span)
        return ctx.graph.add(name, value, type=value.type, span=span)


for _name in ("cholesky", "inverse", "sqrtm", "polar", "upper"):
    _square(_name)


def _several(
    name: str, results: tuple[Callable[[tuple[Axis, ...]], tuple[Axis, ...]], ...]
) -> None:
    @builtin(name, "x")
    def build(ctx: Context, scope: Scope, span: Span, x: Any) -> tuple[Node, ...]:
        value = as_node(ctx, x, span)
        axes = _two_axes(ctx, value, span)
        return tuple(
            ctx.graph.add(
                name,
                value,
                type=replace(value.type, axes=(*axes[:-2], *axis(axes[-2:]))),
                span=span,
                part=i,
            )
            for i, axis in enumerate(results)
        )


_several("eigh", (lambda a: (a[0],), lambda a: (a[0], a[1])))
_several("qr", (lambda a: a, lambda a: (a[1], a[1].prime())))
_several(
    "svd",
    (
        lambda a: (a[0], Axis("singular")),
        lambda a: (Axis("singular"),),
        lambda a: (Axis("singular"), a[1]),
    ),
)


@builtin("lstsq", "a b")
def lstsq(ctx: Context, scope: Scope, span: Span, a: Any, b: Any) -> Node:
    """The least-squares solution of a x = b with the smallest norm."""
    left, right = as_node(ctx, a, span), as_node(ctx, b, span)
    _two_axes(ctx, left, span)
    type = replace(left.type, axes=(left.type.axes[-1],))
    return ctx.graph.add("lstsq", left, right, type=type, span=span)


# Data -----------------------------------------------------------------------------------------


def _data(name: str, parameters: str, axis: str = "") -> None:
    @builtin(name, parameters)
    def build(ctx: Context, scope: Scope, span: Span, **given: Any) -> Node:
        nodes: list[Node] = []
        texts: dict[str, Any] = {}
        for key, value in given.items():
            if isinstance(value, AxisName | str | Function):
                texts[key] = value.axis.name if isinstance(value, AxisName) else str(value)
            else:
                nodes.append(as_node(ctx, value, span))
        size = constant(nodes[1]) if name == "split" and len(nodes) > 1 else None
        axes = nodes[0].type.axes if nodes and nodes[0].type.kind == "data" else ()
        if axis:
            axes = union(axes, (Axis(axis, size),))
        if name in ("draw", "subset"):
            ctx.streams += 1
            texts["stream"] = str(ctx.streams)
            texts["sized"] = "size" in given
            nodes += ctx.loops
        return ctx.graph.add(
            name, *nodes, type=replace(DATA, axes=axes), known=1, span=span, **texts
        )


@builtin("sample", "p over?")
def sample(ctx: Context, scope: Scope, span: Span, p: Any, over: Any = None) -> Node:
    """A class for each example, drawn with the probabilities p: the first whose running sum passes
    u.
    """
    value = as_node(ctx, p, span)
    axes = over if isinstance(over, tuple) else (value.type.axes[-1],)
    last = next(a for a in value.type.axes if a.same(axes[0]))
    ctx.streams += 1
    u = ctx.graph.add(
        "random",
        *ctx.loops,
        type=replace(value.type, axes=tuple(a for a in value.type.axes if a is not last)),
        span=span,
        how="uniform",
        stream=ctx.streams,
    )
    running = ctx.graph.add(
        "order", value, type=value.type, span=span, how="cumsum", over=last.name + "'" * last.primes
    )
    below = ctx.map(
        "where",
        ctx.map("lt", running, u, span=span),
        ctx.graph.const(1.0),
        ctx.graph.const(0.0),
        span=span,
    )
    return reduce(ctx, "sum", below, (last,), span)


_data("draw", "source? size?")
_data("split", "batch k", "micro")
_data("each", "batch", "examples")
_data("subset", "batch fraction")


@builtin("prime", "x")
def prime(ctx: Context, scope: Scope, span: Span, x: Any) -> Node:
    from .expressions import primed

    return primed(ctx, as_node(ctx, x, span), 1)


# Workers --------------------------------------------------------------------------------------


@builtin("ring", "weight")
def ring(ctx: Context, scope: Scope, span: Span, weight: Any) -> Mixing:
    """The mixing weights of a ring: each worker and its two neighbours."""
    share = constant(as_node(ctx, weight, span))
    if share is None or not 0 < share <= 0.5:
        ctx.error("E309", "the weight of a neighbour is a constant in (0, 0.5]", span)
    return Mixing(("ring", float(share)))


def _matrix(ctx: Context, given: Any, span: Span) -> Mixing:
    """The mixing weights that are written as rows."""
    if isinstance(given, Mixing):
        return given
    rows = given if isinstance(given, tuple) else ()
    numbers = [[constant(x) for x in row] for row in rows if isinstance(row, tuple)]
    flat = [x for row in numbers for x in row]
    if not flat or len(numbers) != len(rows) or any(x is None for x in flat):
        known = "ring(1 / 3), complete, star, or rows like ((0.5, 0.5), (0.5, 0.5))"
        ctx.error("E316", "these are no mixing weights", span, f"weights are {known}")
    matrix = tuple(tuple(float(x or 0) for x in row) for row in numbers)
    if wrong := unfit(matrix):
        ctx.error("E316", f"the mixing matrix {wrong}", span)
    return Mixing(("matrix", matrix))


def _among(ctx: Context, what: str, span: Span) -> None:
    if not ctx.graph.workers:
        ctx.error("E312", f"`{what}` is of rules that say `over workers`", span)


@builtin("mix", "x weights own?")
def mix(ctx: Context, scope: Scope, span: Span, x: Any, weights: Any, own: Any = None) -> Node:
    """The weighted mean of x among the workers; `own` stands in for a worker's own x."""
    _among(ctx, "mix", span)
    given = [as_node(ctx, v, span) for v in (x, own) if v is not None]
    type = replace(ctx.map("add", *(given * 2)[:2], span=span).type, logical=False)
    given = [ctx.expand(v, type, span) for v in given]
    return ctx.graph.add(
        "mix", *given, type=type, span=span, weights=_matrix(ctx, weights, span).weights
    )
