"""Nodes that begin a computation: constants, options, inputs, clocks, facts, random numbers."""

from __future__ import annotations

from typing import Any

import torch

from ..cells import extent
from ..ir import Node
from ..types import COARSE
from .metadata import option_in
from .state import Cells
from .values import Values


def _tensor(value: Any, node: Node) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.bool if node.type.logical else torch.float64)


def const(values: Values, node: Node) -> Cells:
    return _tensor(node["value"], node)


def option(values: Values, node: Node) -> Cells:
    found = [option_in(group, node) for group in values.state.options]
    if node.type.reach != "model":
        return [_tensor(x, node) for x in found]
    if len(set(found)) > 1:
        raise ValueError(
            f"the groups must agree on `{node['name']}`: the rule needs one for the model"
        )
    return _tensor(found[0], node)


def input(values: Values, node: Node) -> Cells:
    name, state = node["name"], values.state
    if name in ("epoch", "new_epoch", "progress") and name not in state.inputs:
        per = state.inputs.get("steps_per_epoch")
        if per is not None:
            done = (state.call - 1) // int(per)
            fresh = float((state.call - 1) % int(per) == 0)
            return torch.tensor(float(done) if name == "epoch" else fresh, dtype=torch.float64)
    if name not in state.inputs:
        raise ValueError(f"the rule reads the input `{name}`, and the loop does not supply it")
    value = state.inputs[name]
    if node.type.reach in COARSE:
        return torch.as_tensor(value, dtype=torch.float64)
    return [torch.as_tensor(v, dtype=torch.float64) for v in value]


def clock(values: Values, node: Node) -> Cells:
    which, state = node["which"], values.state
    if which == "t":
        members = state.members[node.type.domain]
        return [torch.tensor(float(state.t[i]), dtype=torch.float64) for i in members]
    if which == "coin":
        assert state.coins is not None
        return state.coins("uniform", node["stream"], state.call, 1)[0]
    return torch.tensor(float(state.call if which == "call" else state.steps), dtype=torch.float64)


def meta(values: Values, node: Node) -> Cells:
    state = values.state
    if node["what"] == "total":
        return _tensor(sum(state.shapes[i].numel() for i in state.members[node["cells"]]), node)
    return [_tensor(state.meta(node, i), node) for i in state.members[node.type.domain]]


def random(values: Values, node: Node) -> Cells:
    state, draw = values.state, values.state.draw
    assert draw is not None, "the rule draws numbers"
    stream = node["stream"]
    for x in node.inputs:  # turns of a loop draw different numbers
        stream = stream * 1_000_003 + 1 + int(values.memo[x])
    axes = node.type.axes
    if node.type.reach in COARSE:
        lead = [values.size(a) for a in axes]
        count = torch.Size(lead).numel()
        return draw(node["how"], stream, state.call, count).reshape(lead)
    members = state.members[node.type.domain]
    shapes = [
        torch.Size([*map(values.sizes(i), axes), *extent(state.shapes[i], node.type.reach)])
        for i in members
    ]
    numbers = draw(node["how"], stream, state.call, sum(s.numel() for s in shapes))
    parts = torch.split(numbers, [s.numel() for s in shapes])
    return [p.reshape(s) for p, s in zip(parts, shapes, strict=True)]
