"""What workers exchange."""

from __future__ import annotations

import torch

from .. import workers
from ..ir import Node
from .state import Cells
from .values import Values


def mix(values: Values, node: Node) -> Cells:
    if values.state.worker is None:
        raise ValueError("the rule is over workers: run it by `interpret.together`")
    places = values.places(node)
    likes = [torch.empty((), dtype=torch.float64)] * (1 if places is None else len(places))
    if node.type.reach == "element":
        likes = [values.like(i) for i in places or ()]
    first, *own = (_doubles(values.memo[x]) for x in node.inputs)
    return workers.mix(values.state.worker, first, node["weights"], likes, *own)


def _doubles(value: Cells) -> Cells:
    if isinstance(value, list):
        return [None if x is None else x.double() for x in value]
    return value.double()
