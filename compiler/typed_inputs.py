"""Inputs that are typed with axes: what they need, and the names under which a body knows them."""

from __future__ import annotations

from dataclasses import replace

from . import syntax as s
from .meanings import Function
from .primitive import Declaration
from .scope import Context, Scope, as_node
from .source import Span
from .types import Axis, Type

BRINGS = {
    "examples": "`batch = each(batch)` above it: one for each example",
    "micro": "`batch = split(batch, 4)` above it: one for each part",
}
"""How the input of a primitive gets an axis."""


def name_axes(
    ctx: Context, inner: Scope, item: s.Input, declaration: Declaration, span: Span
) -> None:
    """The axes of a typed input get their names from the value."""
    value = inner.names.get(item.name)
    if item.type is None or value is None or not item.type.axes or isinstance(value, Function):
        return
    node = as_node(ctx, value, span)
    if len(node.type.axes) != len(item.type.axes):
        axes = ", ".join(a.name for a in item.type.axes)
        ctx.error(
            "E305",
            f"`{declaration.name}` needs `{item.name}` with the axes [{axes}], and it has the "
            f"type {node.type}",
            span,
            BRINGS.get(axes, "declare what the loop supplies, such as `loss parts: model[losses]`"),
        )
    names = _names(node.type.axes, item.type.axes)
    if names != node.type.axes:
        type = Type(node.type.reach, names, node.type.domain)
        node = ctx.graph.add("rename", node, type=type)
    places = [
        next((k for k, a in enumerate(names) if a.name == w.name), -1) for w in item.type.axes
    ]
    if sorted(places) == list(range(len(names))) != places:  # `@` takes them in this order
        ordered = replace(node.type, axes=tuple(names[k] for k in places))
        node = ctx.graph.add("expand", node, type=ordered, span=span)
    inner.names[item.name] = node


def _names(have: tuple[Axis, ...], want: tuple[s.AxisType, ...]) -> tuple[Axis, ...]:
    """The axes of a value under the names that a typed input gives them.

    Those that have one of the names already keep it, in whatever order they come; the others get
    the names that are left, in order. Where a name stands twice (`J, J'`) all are taken in order.
    """
    names, wanted = [a.name for a in have], [w.name for w in want]
    distinct = len({*names}) == len({*wanted}) == len(want)
    if names == wanted or distinct and sorted(names) == sorted(wanted):
        return have
    own = {w.name: w for w in want if distinct and w.name in names}
    left = iter([w for w in want if w.name not in own])
    new = [own.get(a.name) or next(left) for a in have]
    return tuple(a.renamed(w.name, w.primes) for a, w in zip(have, new, strict=True))
