"""What a rule works on: tensors and options, and the slots that it keeps between steps."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from .. import scalars
from ..ir import Graph, Node
from .metadata import describe, option_in
from .oracles import Oracles

Cells = Any
"""One tensor (reach model), or a list with one entry a tensor or a group; None where absent."""

Draw = Callable[[str, int, int, int], torch.Tensor]
"""Draw `count` numbers: (how, stream, call, count) -> float64."""


@dataclass
class Tensors:
    """The tensors of a target by name, in order, and the group of each."""

    names: list[str]
    values: list[torch.Tensor]
    groups: list[int] = field(default_factory=list)
    modules: list[str] = field(default_factory=list)
    dtypes: list[str] = field(default_factory=list)


class State:
    """All that a run of a rule has between two steps."""

    def __init__(
        self,
        graph: Graph,
        tensors: Tensors,
        options: Sequence[dict[str, Any]] | None = None,
        oracles: Oracles | None = None,
        draw: Draw | None = None,
        inputs: dict[str, Any] | None = None,
        maximize: bool = False,
    ):
        self.graph, self.oracles, self.draw, self.inputs = graph, oracles, draw, dict(inputs or {})
        self.maximize = maximize
        self.worker: Any = None
        self.coins = draw
        self.names = list(tensors.names)
        self.groups = list(tensors.groups) or [0] * len(self.names)
        self.modules = list(tensors.modules) or [""] * len(self.names)
        self.dtypes = list(tensors.dtypes) or ["float64"] * len(self.names)
        defaults = {o.name: o.default for o in graph.options.values()}
        self.options = [{**defaults, **o} for o in (options or [{}])]
        self.shapes = [v.shape for v in tensors.values]
        self.members = self._members()
        self.slots: dict[str, Cells] = {}
        self.t = [1] * len(self.names)
        self.call, self.steps = 1, 1
        self.snapshots: deque[tuple[dict[str, Cells], list[int], int]] = deque(
            maxlen=graph.snapshots
        )
        for name, slot in graph.slots.items():
            if slot.kind == "target":
                self.slots[name] = [
                    tensors.values[i].double().clone() for i in self.members[slot.type.domain]
                ]
        self.metrics: dict[str, Any] = {}
        self.evals: dict[str, list[torch.Tensor]] = {}

    def _members(self) -> dict[str, list[int]]:
        """The places of the tensors that belong to each domain."""
        result: dict[str, list[int]] = {}
        for name, domain in self.graph.domains.items():
            places = result[domain.parent] if domain.parent else list(range(len(self.names)))
            taken = {i for s in domain.siblings for i in result[s]}
            places = [i for i in places if i not in taken]
            if domain.where is not None:
                where = domain.where
                places = [i for i in places if bool(self.meta(where, i))]
            result[name] = places
        return result

    def meta(self, node: Node, i: int) -> Any:
        """What the host knows of tensor i: its name, shape, type; and functions of it."""
        if node.op == "meta" and node["what"] == "place":
            return float(i)
        if node.op == "meta":
            return describe(node, self.names[i], self.shapes[i], self.modules[i], self.dtypes[i])
        if node.op == "const":
            return node["value"]
        if node.op == "option":
            return option_in(self.options[self.groups[i]], node)
        return scalars.HOST[node.op](*(self.meta(x, i) for x in node.inputs))

    def tensors(self) -> list[torch.Tensor]:
        """The current values of all tensors, in their order."""
        result: list[Any] = [None] * len(self.names)
        for name, slot in self.graph.slots.items():
            if slot.kind == "target":
                for i, value in zip(self.members[slot.type.domain], self.slots[name], strict=True):
                    result[i] = value
        return result
