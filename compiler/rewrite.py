"""Patterns over nodes, and tables of rewrites: equations as data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from .ir import Graph, Node, Region, postorder


@dataclass(frozen=True)
class Var:
    """Matches any node; the same name twice must be the same node."""

    name: str


@dataclass(frozen=True)
class Const:
    """Matches a constant: a certain number (not its negative zero), or any under a name."""

    value: float | bool | None = None
    name: str = ""


@dataclass(frozen=True)
class Op:
    """Matches an operation on inputs that match."""

    name: str
    inputs: tuple[Any, ...]


def op(name: str, *inputs: Any) -> Op:
    return Op(name, inputs)


Pattern = Var | Const | Op
Build = Callable[..., Node]


@dataclass(frozen=True)
class Rule:
    """One equation: where the pattern matches, `build(graph, node, **bound)` says the same."""

    name: str
    pattern: Op
    build: Build


def match(pattern: Pattern, node: Node, bound: dict[str, Any]) -> bool:
    """Whether a node has the form of a pattern; fills `bound`."""
    if isinstance(pattern, Var):
        return bound.setdefault(pattern.name, node) is node
    if isinstance(pattern, Const):
        while node.op == "expand":
            node = node.inputs[0]
        if node.op != "const":
            return False
        value = node["value"]
        if pattern.value is None:
            bound[pattern.name] = value
            return True
        if isinstance(value, bool) != isinstance(pattern.value, bool):
            return False  # 1 is a number, and true is none
        return value == pattern.value and str(float(value)) == str(float(pattern.value))
    if node.op != pattern.name or len(node.inputs) != len(pattern.inputs):
        return False
    return all(match(p, i, bound) for p, i in zip(pattern.inputs, node.inputs, strict=True))


def rewrite(graph: Graph, rules: Sequence[Rule], last: Build | None = None) -> Graph:
    """Apply the rules everywhere until none matches; `last` gets what no rule changed."""
    work = _Rewriter(graph, rules, last)
    inits = [s.init for s in graph.slots.values() if s.init is not None]
    work.walk([*graph.roots(), *inits])
    slots = {
        path: replace(slot, init=work.done[slot.init]) if slot.init is not None else slot
        for path, slot in graph.slots.items()
    }
    return replace(graph.with_roots(lambda n: work.done[n]), slots=slots)


@dataclass
class _Rewriter:
    """One run over a graph: what each node has become."""

    graph: Graph
    rules: Sequence[Rule]
    last: Build | None
    done: dict[Node, Node] = field(default_factory=dict)

    def walk(self, roots: Iterable[Node]) -> None:
        for node in postorder(roots):
            if node in self.done:
                continue
            inputs = tuple(self.done[i] for i in node.inputs)
            if node.op == "loop":
                self.done[node] = self.loop(node, inputs)
            else:
                self.done[node] = self.settled(self.graph.rebuild(node, inputs))

    def settled(self, node: Node) -> Node:
        for _ in range(50):
            new = self.once(node)
            if new is node:
                return node
            node = new
        return node

    def once(self, node: Node) -> Node:
        """The node after the first rule that says something, at its own type."""
        for rule in self.rules:
            bound: dict[str, Any] = {}
            if match(rule.pattern, node, bound):
                new = self.typed(node, rule.build(self.graph, node, **bound))
                if new is not node:
                    return new
        return self.typed(node, self.last(self.graph, node)) if self.last is not None else node

    def typed(self, node: Node, new: Node) -> Node:
        """The new form broadcast to the old type; a truth value does not stand for a number."""
        if new.type == node.type:
            return new
        if new.type.logical != node.type.logical:
            return node
        return self.graph.add("expand", new, type=node.type, span=node.span)

    def loop(self, node: Node, inputs: tuple[Node, ...]) -> Node:
        """A loop over rewritten values, its body rewritten."""
        region: Region = node["body"]
        for p in (*region.parameters, region.index):
            self.done.setdefault(p, p)
        self.walk([*region.outputs, *([region.until] if region.until is not None else [])])
        body = Region(
            region.parameters,
            region.index,
            tuple(self.done[o] for o in region.outputs),
            self.done[region.until] if region.until is not None else None,
        )
        same = body.outputs == region.outputs and body.until is region.until
        if same and inputs == node.inputs:
            return node
        return self.graph.add("loop", *inputs, type=node.type, span=node.span, body=body)
