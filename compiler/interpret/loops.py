"""Loops: a body run again and again on what it carries."""

from __future__ import annotations

import torch

from .. import torch_ops
from ..bounds import whole
from ..ir import Node, Region, body_nodes
from .state import Cells
from .values import Values


def loop(values: Values, node: Node) -> Cells:
    region: Region = node["body"]
    count = whole(float(values.memo[node.inputs[0]]), "number of turns")
    carried = [values.memo[x] for x in node.inputs[1:]]
    inside = body_nodes(region)
    for turn in range(count):
        for n in inside:
            values.memo.pop(n, None)
        values.memo.update(zip(region.parameters, carried, strict=True))
        values.memo[region.index] = torch.tensor(float(turn), dtype=torch.float64)
        for n in inside:
            if n.kind == "comm":
                values.value(n)
        frozen = None
        if region.until is not None:
            frozen = values.value(region.until)
            if _everywhere(frozen):
                break
        new = [values.value(n) for n in region.outputs]
        if (
            frozen is not None
            and region.until is not None
            and (region.until.type.axes or isinstance(frozen, list))
        ):
            new = [
                _freeze(values, region.until, frozen, p, old, value)
                for p, old, value in zip(region.parameters, carried, new, strict=True)
            ]
        carried = new
    return carried


def _freeze(values: Values, until: Node, frozen: Cells, p: Node, old: Cells, new: Cells) -> Cells:
    """Cells whose condition is reached keep their value."""
    if not isinstance(new, list):
        return torch.where(torch_ops.align(frozen, until.type, p.type, None), old, new)
    members = values.state.members.get(p.type.domain, [])
    return [
        n
        if n is None or isinstance(frozen, list) and frozen[k] is None
        else torch.where(
            torch_ops.align(
                frozen[k] if isinstance(frozen, list) else frozen,
                until.type,
                p.type,
                values.like(i),
            ),
            o,
            n,
        )
        for k, (i, o, n) in enumerate(zip(members, old, new, strict=True))
    ]


def _everywhere(c: Cells) -> bool:
    return all(bool(x.all()) for x in c if x is not None) if isinstance(c, list) else bool(c.all())


def out(values: Values, node: Node) -> Cells:
    source = values.memo[node.inputs[0]]
    return source[node["index"]]
