"""How derivatives pass through views, matrix products and decompositions.

Each rule takes the node and the adjoint of its result (at the result's full type, axes of a mapped
seed in front) and gives the adjoints of its inputs. What is linear goes forward by being done again
to the tangent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from .builtins.reductions import reduce
from .ir import Node
from .scope import Context
from .source import Span
from .types import SINGULAR, Axis, Type

Parts = list[tuple[Node, Node]]
Rule = Callable[[Context, Node, Node, dict[Node, bool]], Parts]


def extra(value: Type, own: Type) -> tuple[Axis, ...]:
    """The axes of a value that another one does not have."""
    return tuple(a for a in value.axes if not any(a.same(b) for b in own.axes))


def full(ctx: Context, value: Node, like: Type, span: Span) -> Node:
    """A value at all cells and axes of `like`, in its order, behind the axes that are mapped."""
    type = replace(like, axes=(*extra(value.type, like), *like.axes), logical=False)
    return ctx.expand(value, type, span)


def again(ctx: Context, node: Node, value: Node, type: Type | None = None) -> Node:
    """The same view of another value, which may have more axes."""
    type = type or node.type
    more = extra(value.type, node.inputs[0].type)
    attrs: dict[str, Any] = dict(node.attrs)
    type = replace(type, axes=(*more, *type.axes), logical=False)
    return ctx.graph.add(node.op, value, *node.inputs[1:], type=type, span=node.span, **attrs)


def _view(op: str, ctx: Context, node: Node, adjoint: Node, **attrs: object) -> Parts:
    source = node.inputs[0]
    adjoint = full(ctx, adjoint, node.type, node.span)
    type = replace(source.type, axes=(*extra(adjoint.type, node.type), *source.type.axes))
    back = ctx.graph.add(op, adjoint, type=type, span=node.span, **attrs)  # type: ignore[arg-type]
    return [(source, back)]


def _matrix(ctx: Context, node: Node, adjoint: Node, active: dict[Node, bool]) -> Parts:
    return _view("back", ctx, node, adjoint)


def _flat(ctx: Context, node: Node, adjoint: Node, active: dict[Node, bool]) -> Parts:
    return _view("back", ctx, node, adjoint)


def _back(ctx: Context, node: Node, adjoint: Node, active: dict[Node, bool]) -> Parts:
    source = node.inputs[0].type
    wide = source.axes[-1].side == "long"
    op = "flat" if source.reach == "model" else "wide" if wide else "matrix"
    return _view(op, ctx, node, adjoint)


def _transpose(ctx: Context, node: Node, adjoint: Node, active: dict[Node, bool]) -> Parts:
    return _view("transpose", ctx, node, adjoint)


def _renamed(ctx: Context, node: Node, adjoint: Node, active: dict[Node, bool]) -> Parts:
    return _view("rename", ctx, node, adjoint)


def _order(ctx: Context, node: Node, adjoint: Node, active: dict[Node, bool]) -> Parts:
    """flip is its own transpose; a running sum, or a roll, has that of one from the end."""
    if node["how"] not in ("flip", "cumsum", "roll"):
        ctx.error("E307", f"`{node['how']}` has no derivative here", node.span)
    value = full(ctx, adjoint, node.type, node.span)
    ways = ("flip",) if node["how"] == "flip" else ("flip", node["how"], "flip")
    for how in ways:
        value = ctx.graph.add(
            "order", value, type=value.type, span=node.span, how=how, over=node["over"]
        )
    return [(node.inputs[0], value)]


def _first(ctx: Context, node: Node, adjoint: Node, active: dict[Node, bool]) -> Parts:
    """As many places as there were: those that were left out get 0."""
    old, new = node.inputs[0].type.axes, node.type.axes
    over = next(b.label for a, b in zip(old, new, strict=True) if a.label == node["over"])
    return _view("first", ctx, node, adjoint, over=over)


def _index(ctx: Context, node: Node, adjoint: Node, active: dict[Node, bool]) -> Parts:
    source, at = node.inputs
    if at.type.axes:
        ctx.error("E307", "several places of an axis have no derivative here", node.span)
    adjoint = full(ctx, adjoint, node.type, node.span)
    more = extra(adjoint.type, node.type)
    type = replace(source.type, axes=(*more, *source.type.axes))
    zero = ctx.expand(ctx.graph.const(0.0), type, node.span)
    put = ctx.graph.add(
        "set_index", zero, at, adjoint, type=type, span=node.span, axis=node["axis"]
    )
    return [(source, put)]


def _restrict(ctx: Context, node: Node, adjoint: Node, active: dict[Node, bool]) -> Parts:
    source = node.inputs[0]
    adjoint = full(ctx, adjoint, node.type, node.span)
    type = replace(source.type, axes=adjoint.type.axes)
    zero = ctx.expand(ctx.graph.const(0.0), type, node.span)
    return [(source, ctx.merge(zero, {node.type.domain: adjoint}, node.span))]


# Matrices -------------------------------------------------------------------------------------


def transposed(ctx: Context, x: Node, span: Span) -> Node:
    *rest, a, b = x.type.axes
    last = (a, b) if a.name == b.name else (b, a)
    return ctx.graph.add("transpose", x, type=replace(x.type, axes=(*rest, *last)), span=span)


def product(ctx: Context, a: Node, b: Node, axes: tuple[Axis, ...], span: Span) -> Node:
    """`a @ b` with the names of its last two axes given."""
    lead = tuple(x for x in (*a.type.axes[:-2], *b.type.axes[:-2]) if x not in axes)
    lead = tuple(dict.fromkeys(lead))
    reach = a.type.reach if b.type.reach == "model" else b.type.reach
    type = Type(reach, (*lead, *axes), a.type.domain or b.type.domain)
    return ctx.graph.add("matmul", a, b, type=type, span=span, vector=False)


def _as(ctx: Context, x: Node, axes: tuple[Axis, ...], span: Span) -> Node:
    """A value with its last axes called otherwise."""
    kept = x.type.axes[: len(x.type.axes) - len(axes)]
    type = replace(x.type, axes=(*kept, *axes))
    return x if type == x.type else ctx.graph.add("rename", x, type=type, span=span)


def _matmul(ctx: Context, node: Node, adjoint: Node, active: dict[Node, bool]) -> Parts:
    a, b = node.inputs
    span = node.span
    adjoint = full(ctx, adjoint, node.type, span)
    m, k = a.type.axes[-2:]
    parts: Parts = []
    if node["vector"]:
        column = _as(ctx, adjoint, (m,), span)
        if active[a]:
            parts.append((a, ctx.map("mul", column, _as(ctx, b, (k,), span), span=span)))
        if active[b]:
            weighted = ctx.map("mul", a, column, span=span)
            total = reduce(ctx, "sum", weighted, (m,), span)
            last = full(ctx, total, replace(total.type, axes=(k,)), span)
            parts.append((b, _as(ctx, last, b.type.axes[-1:], span)))
        return parts
    k2, n = b.type.axes[-2:]
    if active[a]:
        parts.append((a, product(ctx, adjoint, transposed(ctx, b, span), (m, k), span)))
    if active[b]:
        parts.append((b, product(ctx, transposed(ctx, a, span), adjoint, (k2, n), span)))
    return parts


def _solve(ctx: Context, node: Node, adjoint: Node, active: dict[Node, bool]) -> Parts:
    """x = A^-1 b: the adjoint of b is z = A^-T x', that of A is -z x^T."""
    a, b = node.inputs
    span = node.span
    adjoint = full(ctx, adjoint, node.type, span)
    z = ctx.graph.add(
        "solve",
        transposed(ctx, a, span),
        adjoint,
        type=adjoint.type,
        span=span,
        vector=node["vector"],
    )
    parts: Parts = []
    if active[b]:
        parts.append((b, _as(ctx, z, b.type.axes[-1 if node["vector"] else -2 :], span)))
    if active[a]:
        rows, cols = a.type.axes[-2:]
        if node["vector"]:
            outer = ctx.map(
                "mul", _as(ctx, z, (rows,), span), _as(ctx, node, (cols,), span), span=span
            )
        else:
            outer = product(ctx, z, transposed(ctx, node, span), (rows, cols), span)
        parts.append((a, ctx.map("neg", outer, span=span)))
    return parts


def _inverse(ctx: Context, node: Node, adjoint: Node, active: dict[Node, bool]) -> Parts:
    """-X^T G X^T for X the inverse."""
    span, axes = node.span, node.inputs[0].type.axes[-2:]
    turned = transposed(ctx, node, span)
    adjoint = full(ctx, adjoint, node.type, span)
    inner = product(ctx, product(ctx, turned, adjoint, axes, span), turned, axes, span)
    return [(node.inputs[0], ctx.map("neg", inner, span=span))]


def _eigenvalues(ctx: Context, node: Node, adjoint: Node, active: dict[Node, bool]) -> Parts:
    """Of a symmetric matrix: V diag(G) V^T; the vectors have no derivative here."""
    if node["part"] != 0:
        ctx.error("E307", "the vectors of `eigh` have no derivative here", node.span)
    source, span = node.inputs[0], node.span
    a, b = source.type.axes[-2:]
    vectors = ctx.graph.add("eigh", source, type=source.type, span=span, part=1)
    weight = _as(ctx, full(ctx, adjoint, node.type, span), (b,), span)
    scaled = full(ctx, ctx.map("mul", vectors, weight, span=span), source.type, span)
    return [(source, product(ctx, scaled, transposed(ctx, vectors, span), (a, b), span))]


def _singular_values(ctx: Context, node: Node, adjoint: Node, active: dict[Node, bool]) -> Parts:
    """U diag(G) V^T; the vectors have no derivative here."""
    if node["part"] != 1:
        ctx.error("E307", "the vectors of `svd` have no derivative here", node.span)
    source, span = node.inputs[0], node.span
    a, b = source.type.axes[-2:]
    s = Axis(SINGULAR)
    u = ctx.graph.add("svd", source, type=replace(source.type, axes=(a, s)), span=span, part=0)
    v = ctx.graph.add("svd", source, type=replace(source.type, axes=(s, b)), span=span, part=2)
    scaled = ctx.map("mul", u, full(ctx, adjoint, node.type, span), span=span)
    return [(source, product(ctx, full(ctx, scaled, u.type, span), v, (a, b), span))]


REVERSE: dict[str, Rule] = {
    "matrix": _matrix,
    "flat": _flat,
    "back": _back,
    "transpose": _transpose,
    "rename": _renamed,
    "prime": _renamed,
    "order": _order,
    "first": _first,
    "index": _index,
    "restrict": _restrict,
    "matmul": _matmul,
    "solve": _solve,
    "inverse": _inverse,
    "eigh": _eigenvalues,
    "svd": _singular_values,
}


# Forward --------------------------------------------------------------------------------------

LINEAR = {
    *("matrix", "flat", "back", "transpose", "rename", "prime", "index", "restrict", "first"),
}


def tangents(
    ctx: Context, node: Node, along: dict[Node, Node], active: dict[Node, bool]
) -> list[Node] | None:
    """What the tangents of the inputs add to that of a node, or None where no rule is known."""
    first, span = node.inputs[0], node.span
    if node.op in LINEAR or (node.op == "order" and node["how"] in ("flip", "cumsum", "roll")):
        return [again(ctx, node, full(ctx, along[first], first.type, span))]
    if node.op in ("contract", "matmul"):
        a, b = node.inputs
        pairs = [(along[a], b)] if active[a] else []
        pairs += [(a, along[b])] if active[b] else []
        return [_bilinear(ctx, node, x, y) for x, y in pairs]
    if node.op == "solve":
        return _solve_tangent(ctx, node, along, active)
    return None


def _bilinear(ctx: Context, node: Node, a: Node, b: Node) -> Node:
    span, (left, right) = node.span, node.inputs
    a, b = full(ctx, a, left.type, span), full(ctx, b, right.type, span)
    more = tuple(dict.fromkeys((*extra(a.type, left.type), *extra(b.type, right.type))))
    type = replace(node.type, axes=(*more, *node.type.axes))
    attrs: dict[str, Any] = dict(node.attrs)
    return ctx.graph.add(node.op, a, b, type=type, span=span, **attrs)


def _solve_tangent(
    ctx: Context, node: Node, along: dict[Node, Node], active: dict[Node, bool]
) -> list[Node]:
    """A^-1 (b' - A' x)."""
    a, b = node.inputs
    span = node.span
    right: list[Node] = [full(ctx, along[b], b.type, span)] if active[b] else []
    if active[a]:
        axes = b.type.axes[-1 if node["vector"] else -2 :]
        turned = full(ctx, along[a], a.type, span)
        more = extra(turned.type, a.type)
        type = replace(b.type, axes=(*more, *axes))
        moved = ctx.graph.add("matmul", turned, node, type=type, span=span, vector=node["vector"])
        right.append(ctx.map("neg", moved, span=span))
    total = right[0]
    for part in right[1:]:
        total = ctx.map("add", total, part, span=span)
    total = full(ctx, total, b.type, span)
    type = replace(node.type, axes=(*extra(total.type, b.type), *node.type.axes))
    return [ctx.graph.add("solve", a, total, type=type, span=span, vector=node["vector"])]
