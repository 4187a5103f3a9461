"""Nodes that are arithmetic: torch on the cells of each tensor, and reductions over them."""

from __future__ import annotations

from typing import Any

import torch

from .. import cells, torch_ops
from ..ir import Node
from ..types import COARSE, FINE
from .state import Cells
from .values import Values


def cellwise(values: Values, node: Node) -> Cells:
    places = values.places(node)
    if places is None and any(x.type.reach not in COARSE for x in node.inputs):
        raise AssertionError(f"{node.op} makes {node.type} of finer values")
    if places is None:
        # groups that meet the model agree: the first stands for all
        inputs = [
            values.memo[x][0] if x.type.reach == "group" else values.memo[x] for x in node.inputs
        ]
        return torch_ops.apply(node, inputs, None, values.size)
    result: list[Any] = []
    for k, i in enumerate(places):
        inputs = [values.at(x, k, i, node.type.reach) for x in node.inputs]
        if any(x is None for x in inputs):
            result.append(None)
            continue
        group = node.type.reach == "group"
        like, sizes = (None, values.size) if group else (values.like(i), values.sizes(i))
        if node.op == "back" and node.inputs[0].type.reach == "model":
            inputs = [_slice(values, node, k, inputs[0])]
        result.append(torch_ops.apply(node, inputs, like, sizes))
    return result


def _slice(values: Values, node: Node, k: int, flat: torch.Tensor) -> torch.Tensor:
    sizes = [values.state.shapes[i].numel() for i in values.state.members[node.type.domain]]
    start = sum(sizes[:k])
    return flat[..., start : start + sizes[k]]


def where(values: Values, node: Node) -> Cells:
    """A choice; of one over the whole step only the side taken is there."""
    if not values.lazy(node):
        return cellwise(values, node)
    chosen = node.inputs[1] if bool(values.memo[node.inputs[0]]) else node.inputs[2]
    return _spread(values, node, chosen)


def _spread(values: Values, node: Node, chosen: Node) -> Cells:
    """The chosen side at the type of the `where`."""
    places = values.places(node)
    if places is None:
        return torch_ops.align(values.memo[chosen], chosen.type, node.type, None)
    result: list[Any] = []
    for k, i in enumerate(places):
        x = values.at(chosen, k, i, node.type.reach)
        like = values.like(i) if node.type.reach != "group" else None
        x = x if x is None else torch_ops.align(x, chosen.type, node.type, like)
        plain = chosen.type.reach not in FINE and not node.type.axes  # it counts in every cell
        if x is not None and like is not None and node.type.reach in FINE and plain:
            x = cells.spread(x, (), node.type.reach, like)
        result.append(x)
    return result


def flat(values: Values, node: Node) -> Cells:
    """All cells in one axis; of an absent tensor they are zero."""
    type = node.inputs[0].type
    members = values.state.members[type.domain]
    parts = [
        None if v is None else torch_ops.apply(node, [v], values.like(i), values.sizes(i))
        for i, v in zip(members, values.memo[node.inputs[0]], strict=True)
    ]
    lead = next((p.shape[:-1] for p in parts if p is not None), ())
    sizes = [values.state.shapes[i].numel() for i in members]
    whole = [
        torch.zeros(*lead, n, dtype=torch.float64) if p is None else p
        for n, p in zip(sizes, parts, strict=True)
    ]
    return torch.cat(whole, dim=-1) if whole else torch.zeros(0, dtype=torch.float64)


def reduce(values: Values, node: Node) -> Cells:
    """A reduction, or a product summed: over axes it is like any operation on a tensor's cells."""
    if node["over"] in ("tensor", "group", "model"):
        return _of_cells(values, node)
    return cellwise(values, node)


def _of_cells(values: Values, node: Node) -> Cells:
    """Reduce over the cells of each tensor, then over tensors, in order."""
    source = next((x for x in node.inputs if x.type.reach not in COARSE), node.inputs[0])
    over = node["over"]
    if source.type.reach in COARSE:
        value = values.memo[node.inputs[0]]
        return _combine(values, node, value) if isinstance(value, list) else value
    parts = []
    members = values.state.members[source.type.domain]
    for k, i in enumerate(members):
        inputs = [values.at(x, k, i, "tensor") for x in node.inputs]
        absent = any(x is None for x in inputs)
        parts.append(
            None if absent else torch_ops.apply(node, inputs, values.like(i), values.sizes(i))
        )
    if over == "tensor":
        return parts
    if over == "model":
        return _combine(values, node, parts)
    return [
        _combine(
            values,
            node,
            [p for p, i in zip(parts, members, strict=True) if values.state.groups[i] == g],
        )
        for g in range(len(values.state.options))
    ]


def _combine(values: Values, node: Node, parts: list[Any]) -> torch.Tensor:
    present = [p for p in parts if p is not None]
    if not present:
        shape = [values.size(a) for a in node.type.axes]
        empty = cells.EMPTY.get(node.get("how", "sum"), 0.0)
        full = torch.full(shape, empty, dtype=torch.float64)
        return full.bool() if node.type.logical else full
    return cells.combine(node.get("how", "sum"), present, node.span.quoted())
