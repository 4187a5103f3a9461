"""The torch.fx graph of one phase: from its anchors back to what is in memory."""

from __future__ import annotations

import operator
import re
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from torch import fx

from .. import cells, matrices, torch_ops
from ..ir import Node
from ..ops import OPS
from ..program import Port
from ..types import FINE, Axis
from .low import low
from .symmetric import symmetric

LIKE = object()


class Builder:
    """Builds one phase. `mode`: c (kernel), t (torch on one tensor), m (the model)."""

    def __init__(self, low: Any, level: int, mode: str, anchors: list[Node]):
        self.low, self.level, self.mode, self.anchors = low, level, mode, anchors
        self.graph = fx.Graph()
        self.ports: list[Port] = []
        self.holders: dict[Any, fx.Node] = {}
        self.values: dict[Node, Any] = {}
        self.again: set[Node] = set()

    def build(self) -> tuple[fx.GraphModule, list[Port]]:
        body = self._body()
        while self.mode == "c" and (again := self._computable(body)):
            self.again |= again
            body = self._body()
        for node in body:
            if self._boundary(node):
                self.values[node] = self._input(node)
        for node in body:
            if node in self.values:
                continue
            if node.op == "random":
                self.values[node] = self._holder(
                    node, node["how"], f"{node['how']}:{node['stream']}", "draw"
                )
                continue
            inputs = [self._value(i, node) for i in node.inputs]
            cells_wanted = node.inputs and node.op not in (*OPS, "expand")
            if cells_wanted and self.low.cls[node.inputs[0]] == "host":
                inputs[0] = self._do(node)(cells.number, inputs[0])
            self.values[node] = torch_ops.apply(node, inputs, LIKE, self._sizes, self._do(node))
            if node.op == "size":  # torch's functions take tensors
                self.values[node] = self._do(node)(cells.number, self.values[node])
        self.graph.output(tuple(self.values[a] for a in self.anchors))
        self._decompose_once()
        if self.mode == "t":
            low(self.graph)
            symmetric(self.graph)
        self.graph.lint()
        return fx.GraphModule({}, self.graph), self.ports

    def _decompose_once(self) -> None:
        """Factors of one matrix come from one decomposition; its values alone cost less."""
        whole: dict[Any, fx.Node] = {}
        found = [n for n in self.graph.nodes if n.target is matrices.decompose]
        parts = Counter(n.args[:2] for n in found)
        for node in found:
            x, how, part = node.args
            if parts[x, how] == 1 and (how, part) in matrices.VALUES:
                continue
            with self.graph.inserting_before(node):
                if (x, how) not in whole:
                    whole[x, how] = self.graph.call_function(matrices.factors, (x, how))
                one = self.graph.call_function(operator.getitem, (whole[x, how], part))
            one.meta.update(node.meta)
            node.replace_all_uses_with(one)
            self.graph.erase_node(node)

    def _body(self) -> list[Node]:
        """The nodes of the phase and its boundary, inputs before users."""
        seen: set[Node] = set()
        stack = list(self.anchors)
        while stack:
            node = stack.pop()
            if node in seen:
                continue
            seen.add(node)
            if not self._boundary(node):
                stack.extend(node.inputs)
        return _sizes_first(sorted(seen, key=lambda n: n.number))

    def _computable(self, body: list[Node]) -> set[Node]:
        """Stored values whose columns the phase reads anyway: computed again, not read.

        A drawn value is read: its arithmetic costs more than its bytes.
        """
        low = self.low
        edge = [n for n in body if self._boundary(n) and n.type.reach in FINE]
        for node in edge:
            if low.cls[node] != "c" or node in low.write_level or low.draws(node):
                continue
            others = {low.name(n).removeprefix("slot:") for n in edge if n is not node}
            if low.columns(node, set()) <= others:
                return {node}
        return set()

    def _boundary(self, node: Node) -> bool:
        """Whether a node's value is there before the phase begins."""
        if node in self.anchors and node not in self.low.bound:
            return False
        cls = self.low.cls[node]
        if cls in (
            "leaf",
            "host",
            "data",
            "ask",
            "call",
            "loop",
            "out",
            "route",
            "draw",
            "comm",
            "r",
        ):
            return True
        ready = self.low.ready.get(node)
        if ready is not None and ready < self.level and node not in self.again:
            return True
        if cls in ("t", "m"):
            return self.low.level[node] < self.level or (cls == "t") != (self.mode == "t")
        return False

    def _input(self, node: Node) -> Any:
        """A placeholder for a value that is there; a constant is a number."""
        if node.op == "const":
            return node["value"]
        if self.low.cls[node] == "host":
            return self._holder(("host", node), _friendly(node), str(self.low.host(node)), "host")
        reach = node.type.reach
        how = "cell" if reach in FINE else reach
        rounded = self.mode == "t" and self.low.low(node)
        value = self._holder(node, _friendly(node), self.low.name(node), how, rounded)
        if rounded:
            return self._do(node)(cells.low, value)
        # a kernel keeps a truth value as a number
        kept = self.mode != "c" and how == "cell" and node.type.logical
        return self.graph.call_function(cells.truth, (value,)) if kept else value

    def _holder(self, key: Any, name: str, source: str, how: str, low: bool = False) -> fx.Node:
        if key not in self.holders:
            taken = {p.name.lower() for p in self.ports}  # torch.fx takes `V` and `v` for one
            fresh, n = name, 1
            while fresh.lower() in taken:
                n += 1
                fresh = f"{name}_{n}"
            # placeholders stand before everything else
            first = next((x for x in self.graph.nodes if x.op != "placeholder"), None)
            with self.graph.inserting_before(first) if first is not None else nullcontext():
                holder = self.graph.placeholder(fresh)
            holder.meta.update(reach=how, port=len(self.ports))
            if isinstance(key, Node):
                holder.meta["node"] = key
            self.ports.append(Port(fresh, source, how, low))
            self.holders[key] = holder
        return self.holders[key]

    def _value(self, node: Node, user: Node) -> Any:
        value = self.values[node]
        if user.op == "back" and node.type.reach == "model" and isinstance(value, fx.Node):
            return self._holder(
                ("slice", node), _friendly(node) + "_part", self.low.name(node), "slice"
            )
        return value

    def _like(self) -> Any:
        if self.mode == "m":
            return None
        return self._holder("like", "like", "", "like")

    def _do(self, node: Node) -> Callable[..., Any]:
        def do(function: Callable[..., Any], *arguments: Any) -> Any:
            arguments = tuple(self._like() if a is LIKE else a for a in arguments)
            made = self.graph.call_function(function, arguments)
            made.meta.update(op=node.op, reach=node.type.reach, node=node)
            return made

        return do

    def _sizes(self, axis: Axis) -> Any:
        """The number of places of an axis, as a number or as a value of the phase."""
        if isinstance(axis.size, int):
            return axis.size
        if isinstance(axis.size, Node):
            if axis.size.op == "const":
                return int(axis.size["value"])
            return self._holder(
                ("host", axis.size), _friendly(axis.size), str(self.low.host(axis.size)), "host"
            )
        if axis.side:
            return self.graph.call_function(cells.SIDES[axis.side], (self._like(),))
        if self.low.supplied(axis):
            source = self.low.axes[axis.name]
            return self._holder(("size", source), f"places_{axis.name}", source, "size")
        for node, value in self.values.items():
            for place, other in enumerate(node.type.axes):
                if other.name == axis.name and isinstance(value, fx.Node) and self._counts(node):
                    return self.graph.call_function(cells.length, (value, place))
        raise AssertionError(f"nothing in this phase says how many places the axis {axis.name} has")

    def _counts(self, node: Node) -> bool:
        """Whether a value surely has all places of its axes: one that is still to be broadcast has
        not."""
        return self._boundary(node) or node.op in ("matmul", "svd")


def _friendly(node: Node) -> str:
    """A name that a reader of the phase recognises."""
    raw = {
        "read": lambda: node["slot"].split(".")[-1],
        "gradient": lambda: "grad",
        "option": lambda: (
            node["name"] + (f"_{node['place']}" if node.get("place", -1) >= 0 else "")
        ),
        "clock": lambda: node["which"],
        "meta": lambda: node["what"],
        "input": lambda: node["name"],
    }.get(node.op, lambda: f"{node.op}_{node.number}")()
    name = re.sub(r"\W", "_", raw)
    return name if name.isidentifier() and not name[0].isdigit() else f"x_{name}"


def _sizes_first(nodes: list[Node]) -> list[Node]:
    """What is made of places alone, and what depends on it, after the values that say how many."""
    late: set[Node] = set()
    for node in nodes:
        if node.op in ("eye", "iota", "size") or any(i in late for i in node.inputs):
            late.add(node)
    return [n for n in nodes if n not in late] + [n for n in nodes if n in late]
