"""Derivatives of functions that a rule writes: expanded into the graph, down to the oracles.

Reverse and forward mode share one table: the partials of `ops.OPS`, which are written in the
language. At an oracle the derivative is again an oracle: of a value its gradient (or vjp), of a
gradient the Hessian-vector product. Every captured name is a constant, because only the variable is
followed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NoReturn

from . import syntax as s
from .bounds import UNROLL_LIMIT
from .builtins.reductions import reduce
from .ir import Node, inputs_of, postorder
from .matrix_derivatives import REVERSE, extra, tangents
from .ops import OPS
from .scope import Context, Scope, agreed
from .source import NOWHERE, Span
from .types import Type, finer, union


@functools.cache
def _partials(op: str) -> tuple[s.Expr | None, ...]:
    from .parse import parse_expression

    return tuple(
        parse_expression(text, NOWHERE.source, NOWHERE) if text else None
        for text in OPS[op].partials
    )


def _partial(ctx: Context, node: Node, place: int) -> Node | None:
    from .expressions import node as as_value

    rows = _partials(node.op)
    expr = rows[place] if rows else None
    if expr is None:
        return None
    scope = Scope()
    scope.names.update(zip("abc", node.inputs, strict=False))
    scope.names["r"] = node
    return as_value(ctx, scope, expr)


def depends(root: Node, x: Node) -> dict[Node, bool]:
    """For each node under the root whether it depends on x, inputs first."""
    result: dict[Node, bool] = {}
    for node in postorder([root]):
        result[node] = node is x or any(result[i] for i in inputs_of(node))
    return result


def reverse(ctx: Context, result: Node, seed: Node | None, x: Node, span: Span) -> Node:
    """The transposed derivative of `result` by `x`, times `seed` (1 where `result` is a scalar).

    Axes that only the seed has are mapped: one product for each of their places. So are axes that
    the point has: the function is one of each place.
    """
    if seed is None:  # an option weighs the function: one number if the groups agree on it
        result = agreed(ctx, result, span)
    own = [a for a in result.type.axes if x.type.axis(a.name, a.primes) is None]
    if seed is None and (result.type.reach != "model" or own):
        ctx.error(
            "E306",
            f"a gradient is of a number over the model, and this is {result.type}",
            span,
            "sum it, or use `vjp` with a weight for each entry",
        )
    active = depends(result, x)
    adjoint: dict[Node, Node] = {result: seed or ctx.graph.const(1.0, span)}
    mapped = extra(seed.type, result.type) if seed is not None else ()
    for node in reversed([n for n in active if active[n] and n is not x]):
        if node not in adjoint:
            continue
        rule = _REVERSE.get(node.op, _map_reverse if node.op in OPS else None)
        if rule is None:
            _underived(ctx, node, span)
        for source, part in rule(ctx, node, adjoint[node], active):
            wanted = replace(source.type, axes=union(mapped, source.type.axes))
            part = fit(ctx, part, wanted, span)
            adjoint[source] = (
                ctx.map("add", adjoint[source], part, span=span) if source in adjoint else part
            )
    found = adjoint.get(x, ctx.graph.const(0.0))
    return ctx.expand(found, replace(x.type, axes=(*mapped, *x.type.axes)), span)


_ASKED = {
    "vjp": ("a loss with an axis has no second derivative here", "declare its sum as a loss: "
            "the loop gives second derivatives of losses that are numbers"),
    "jvp": ("the derivative along a vector has no derivative here", "of a loss that is a number "
            "`dot(grad(loss, p), v, over = model)` is the same, and has one"),
    "hvp": ("a loss has no third derivative here", ""),
    **dict.fromkeys(("loop", "out"), (
        "a derivative does not go through a loop that stays one: its count is an option or large, "
        "or it has an `until`",
        f"`repeat 8:` is written out, up to {UNROLL_LIMIT} turns, and has a derivative; what ends "
        "earlier is `a <- where(done, a, next)` in it")),
}  # fmt: skip
"""What is said of the derivatives that a training loop gives, where one more is asked for, and of
loops in the text."""


def _underived(ctx: Context, node: Node, span: Span) -> NoReturn:
    message, help = _ASKED.get(node.op, (f"`{node.op}` has no derivative here", ""))
    if node.span.source == span.source and node.span.row != span.row:
        message += f"; line {span.row} asks for it"
    ctx.error("E307", message, node.span, help)


def fit(ctx: Context, value: Node, type: Type, span: Span) -> Node:
    """Sum an adjoint over what its operand was broadcast over."""
    extra = tuple(a for a in value.type.axes if not any(a.same(b) for b in type.axes))
    if extra:
        value = reduce(ctx, "sum", value, extra, span)
    if finer(value.type.reach, type.reach) != type.reach:
        total = Type(type.reach, value.type.axes, type.domain)
        value = ctx.graph.add("reduce", value, type=total, span=span, how="sum", over=type.reach)
    return value


Parts = list[tuple[Node, Node]]


def _map_reverse(ctx: Context, node: Node, adjoint: Node, active: dict[Node, bool]) -> Parts:
    parts = []
    for place, source in enumerate(node.inputs):
        if not active[source]:
            continue
        partial = _partial(ctx, node, place)
        if partial is None:
            continue
        # the full cells of the result count, also where adjoint and partial are both coarser
        part = ctx.map("mul", adjoint, partial, span=node.span)
        parts.append((source, ctx.expand(part, _full(part.type, node.type), node.span)))
    return parts


def _full(part: Type, node: Type) -> Type:
    return replace(node, axes=union(part.axes, node.axes), logical=False)


def _reduce_reverse(ctx: Context, node: Node, adjoint: Node, active: dict[Node, bool]) -> Parts:
    source = node.inputs[0]
    if node["how"] == "sum":
        part = adjoint
    elif node["how"] == "prod":
        part = ctx.map("mul", adjoint, ctx.map("ratio", node, source, span=node.span),
                       span=node.span)  # fmt: skip
    elif node["how"] in ("max", "min"):
        hit = ctx.map("eq", source, node, span=node.span)
        part = ctx.map("where", hit, adjoint, ctx.graph.const(0.0), span=node.span)
    else:
        return []
    return [(source, ctx.expand(part, _full(part.type, source.type), node.span))]


def _contract_reverse(ctx: Context, node: Node, adjoint: Node, active: dict[Node, bool]) -> Parts:
    a, b = node.inputs
    return [
        (x, ctx.map("mul", adjoint, other, span=node.span))
        for x, other in ((a, b), (b, a))
        if active[x]
    ]


def _value_reverse(ctx: Context, node: Node, adjoint: Node, active: dict[Node, bool]) -> Parts:
    at = node.inputs[0]
    parts = []
    for target, point in zip(at["targets"], at.inputs, strict=False):
        if not active[point]:
            continue
        own = ctx.graph.objectives[at["objective"]].axes
        if own:
            axes = tuple(a for a in adjoint.type.axes if not any(a.same(b) for b in own))
            axes = union(at.type.axes, axes)
            g = ctx.graph.add(
                "vjp",
                at,
                ctx.expand(adjoint, node.type, node.span),
                type=replace(point.type, axes=axes),
                span=node.span,
                wrt=target,
            )
        else:
            g = ctx.graph.add(
                "gradient",
                at,
                type=replace(point.type, axes=at.type.axes),
                span=node.span,
                wrt=target,
            )
            g = ctx.map("mul", adjoint, g, span=node.span)
        parts.append((point, g))
    return parts


def _gradient_reverse(ctx: Context, node: Node, adjoint: Node, active: dict[Node, bool]) -> Parts:
    at = node.inputs[0]
    vector = ctx.expand(adjoint, replace(node.type, axes=adjoint.type.axes), node.span)
    return [
        (
            point,
            ctx.graph.add(
                "hvp",
                at,
                vector,
                type=replace(point.type, axes=adjoint.type.axes),
                span=node.span,
                wrt=target,
                of=node["wrt"],
            ),
        )
        for target, point in zip(at["targets"], at.inputs, strict=False)
        if active[point]
    ]


def _merge_reverse(ctx: Context, node: Node, adjoint: Node, active: dict[Node, bool]) -> Parts:
    zero = ctx.graph.const(0.0)
    whole = ctx.merge(
        adjoint,
        {
            d: ctx.expand(zero, p.type, node.span)
            for d, p in zip(node["domains"], node.inputs[1:], strict=True)
        },
        node.span,
    )
    parts = [(node.inputs[0], whole)] if active[node.inputs[0]] else []
    for domain, part in zip(node["domains"], node.inputs[1:], strict=True):
        if active[part]:
            parts.append((part, ctx.restrict(adjoint, domain)))
    return parts


def _oracle_reverse(ctx: Context, node: Node, adjoint: Node, active: dict[Node, bool]) -> Parts:
    """The criterion may be differentiated by the outputs; other oracles are constants of nature."""
    first = node.inputs[0]
    if node["name"] != "criterion" or any(active[x] for x in node.inputs[1:]):
        ctx.error("E307", f"the oracle `{node['name']}` has no derivative", node.span)
    weights = ctx.expand(adjoint, node.type, node.span)
    type = replace(first.type, axes=first.type.axes)
    part = ctx.graph.add(
        "oracle", *node.inputs, weights, type=type, span=node.span, name="criterion.vjp"
    )
    return [(first, part)]


def _same_cells(ctx: Context, node: Node, adjoint: Node, active: dict[Node, bool]) -> Parts:
    return [(node.inputs[0], adjoint)]


def _nothing(ctx: Context, node: Node, adjoint: Node, active: dict[Node, bool]) -> Parts:
    return []


_REVERSE: dict[str, Callable[[Context, Node, Node, dict[Node, bool]], Parts]] = {
    "reduce": _reduce_reverse,
    "contract": _contract_reverse,
    "expand": _same_cells,
    "value": _value_reverse,
    "gradient": _gradient_reverse,
    "merge": _merge_reverse,
    "evaluate": _nothing,
    "oracle": _oracle_reverse,
    **REVERSE,
}


def forward(ctx: Context, result: Node, x: Node, tangent: Node, span: Span) -> Node:
    """The derivative of `result` along a tangent of `x`."""
    active = depends(result, x)
    along: dict[Node, Node] = {x: tangent}
    for node, on in active.items():
        if not on or node is x or node.op == "evaluate":
            continue
        along[node] = _tangent(ctx, node, along, active, span)
    found = along.get(result, ctx.graph.const(0.0))
    axes = (*extra(found.type, result.type), *result.type.axes)
    return ctx.expand(found, replace(result.type, axes=axes), span)


def _tangent(
    ctx: Context, node: Node, along: dict[Node, Node], active: dict[Node, bool], span: Span
) -> Node:
    total: Node | None = None
    parts = []
    if node.op in OPS:
        for place, source in enumerate(node.inputs):
            partial = _partial(ctx, node, place) if active[source] else None
            if partial is not None:
                parts.append(ctx.map("mul", partial, along[source], span=span))
    elif node.op in ("value", "gradient"):
        at = node.inputs[0]
        for target, point in zip(at["targets"], at.inputs, strict=False):
            if active[point]:
                parts.append(_oracle_tangent(ctx, node, at, target, along[point], span))
    elif node.op in ("reduce", "expand", "merge", "restrict") and node.get("how", "sum") == "sum":
        zero = ctx.graph.const(0.0)
        inputs = [
            along[i] if active[i] else ctx.expand(zero, replace(i.type, logical=False), span)
            for i in node.inputs
        ]
        more = extra(_axes_of(inputs), _axes_of(node.inputs))
        type = replace(node.type, axes=(*more, *node.type.axes), logical=False)
        attrs: dict[str, Any] = dict(node.attrs)
        parts.append(ctx.graph.add(node.op, *inputs, type=type, span=node.span, **attrs))
    elif (found := tangents(ctx, node, along, active)) is not None:
        parts += found
    else:
        _underived(ctx, node, span)
    for part in parts:
        total = part if total is None else ctx.map("add", total, part, span=span)
    return total if total is not None else ctx.graph.const(0.0)


def _axes_of(nodes: Sequence[Node]) -> Type:
    """All axes of some values, which may be those of different tensors."""
    return Type(axes=functools.reduce(union, (n.type.axes for n in nodes)))


def _oracle_tangent(
    ctx: Context, node: Node, at: Node, target: str, tangent: Node, span: Span
) -> Node:
    if node.op == "gradient":
        return ctx.graph.add(
            "hvp", at, tangent, type=node.type, span=span, wrt=node["wrt"], of=target
        )
    axes = union(node.type.axes, tangent.type.axes)
    return ctx.graph.add(
        "jvp", at, tangent, type=replace(node.type, axes=axes), span=span, wrt=target
    )
