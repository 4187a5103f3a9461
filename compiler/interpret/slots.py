"""Slots as the step found them, and their parts: what `for` blocks route and bring together."""

from __future__ import annotations

from ..ir import Node
from .state import Cells
from .values import Values


def read(values: Values, node: Node) -> Cells:
    return values.held(node["slot"])


def restrict(values: Values, node: Node) -> Cells:
    source = values.memo[node.inputs[0]]
    places = values.state.members[node.inputs[0].type.domain]
    return [source[places.index(i)] for i in values.state.members[node.type.domain]]


def merge(values: Values, node: Node) -> Cells:
    result = list(values.memo[node.inputs[0]])
    places = values.state.members[node.type.domain]
    for domain, part in zip(node["domains"], node.inputs[1:], strict=True):
        for i, value in zip(values.state.members[domain], values.memo[part], strict=True):
            result[places.index(i)] = value
    return result
