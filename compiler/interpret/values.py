"""The values of one step's nodes, computed when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from .. import cells
from ..bounds import whole
from ..ir import Node, body_nodes, inputs_of, postorder
from ..types import Axis
from .state import Cells, State


class Values:
    """The values of nodes in one step; `compute` gives that of one whose inputs have theirs."""

    def __init__(self, state: State, batch: Any, compute: Callable[[Values, Node], Cells]):
        self.state, self.batch, self.compute = state, batch, compute
        self.memo: dict[Node, Cells] = {}

    def value(self, root: Node) -> Cells:
        """The value of a node. Of `where` over the whole step only the side taken is computed."""
        stack = [root]
        while stack:
            node = stack[-1]
            if node in self.memo:
                stack.pop()
                continue
            needs = self._needs(node)
            missing = [n for n in needs if n not in self.memo]
            if missing:
                stack.extend(missing)
            else:
                self.memo[node] = self.compute(self, node)
                stack.pop()
        return self.memo[root]

    def _needs(self, node: Node) -> Sequence[Node]:
        if self.lazy(node):
            condition = node.inputs[0]
            if condition not in self.memo:
                return (condition,)
            return (node.inputs[1] if bool(self.memo[condition]) else node.inputs[2],)
        return inputs_of(node) if node.op == "loop" else node.inputs

    @staticmethod
    def lazy(node: Node) -> bool:
        """Whether a node is a choice between two sides that is made once for the whole step."""
        condition = node.inputs[0].type if node.op == "where" else None
        return condition is not None and condition.reach == "model" and not condition.axes

    def meet(self, roots: Sequence[Node | None]) -> None:
        """Compute all that workers exchange, in the same order at each of them."""
        for node in list(postorder([r for r in roots if r is not None])):
            body = body_nodes(node["body"]) if node.op == "loop" else [node]
            if any(n.kind == "comm" for n in body):
                self.value(node)

    def initial(self, slot: str) -> Cells:
        """A slot's first version: its declared beginning."""
        spec = self.state.graph.slots[slot]
        assert spec.init is not None
        return self.value(spec.init)

    def held(self, slot: str) -> Cells:
        """What a slot holds; where its first value was absent it begins when there is one."""
        kept = self.state.slots.get(slot)
        if kept is None:
            return self.initial(slot)
        if not isinstance(kept, list) or all(x is not None for x in kept):
            return kept
        return [
            first if x is None else x for x, first in zip(kept, self.initial(slot), strict=True)
        ]

    # Places -------------------------------------------------------------------------------

    def places(self, node: Node) -> list[int] | None:
        """The places that a value has: tensors, groups, or None for the model."""
        if node.type.reach == "model":
            return None
        if node.type.reach == "group":
            return list(range(len(self.state.options)))
        return self.state.members[node.type.domain]

    def at(self, node: Node, k: int, i: int, reach: str) -> Any:
        """The part of a value that concerns place k (tensor i, or group i)."""
        value = self.memo[node]
        if node.type.reach == "model":
            return value
        if node.type.reach == "group":
            return value[i if reach == "group" else self.state.groups[i]]
        return value[k]

    def like(self, i: int) -> torch.Tensor:
        """A tensor of the shape of tensor i."""
        return torch.empty(self.state.shapes[i], dtype=torch.float64)

    def sizes(self, i: int) -> Callable[[Axis], int]:
        """The numbers of places of axes, as tensor i has them."""
        like = self.like(i)
        return lambda axis: cells.SIDES[axis.side](like) if axis.side else self.size(axis)

    def size(self, axis: Axis) -> int:
        """How many places an axis has: constant, computed, or read off a value that has it."""
        if isinstance(axis.size, int):
            return axis.size
        if isinstance(axis.size, Node):
            value = float(self.value(axis.size))
            return int(value) if axis.size.op == "meta" else whole(value, "size of an axis")
        for node, value in self.memo.items():
            for at, a in enumerate(node.type.axes):
                cells = value if isinstance(value, list) else [value]
                first = next((x for x in cells if x is not None), None)
                if a.name == axis.name and isinstance(first, torch.Tensor) and first.dim() > at:
                    return int(first.shape[at])
        bearer = self._bearer(axis.name)
        if bearer is None or bearer in self.memo:
            raise AssertionError(f"nothing says how many places the axis {axis.name} has")
        self.value(bearer)
        return self.size(axis)

    def _bearer(self, axis: str) -> Node | None:
        """A value that comes with an axis: what is asked of the loop, or an input."""
        for node in postorder(self.state.graph.roots()):
            if node.type.axis(axis) and (node.op == "input" or node.op in ("value", "gradient")):
                return node
        return None
