"""Patterns over nodes, and tables of rewrites: equations as data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
        return value == pattern.value and str(float(value)) == str(float(pattern.value))
    if node.op != pattern.name or len(node.inputs) != len(pattern.inputs):
        return False
    return all(match(p, i, bound) for p, i in zip(pattern.inputs, node.inputs, strict=True))


def rewrite(graph: Graph, rules: Sequence[Rule], last: Build | None = None) -> Graph:
    """Apply the rules everywhere until none matches; `last` gets what no rule changed."""
    done: dict[Node, Node] = {}

    def settle(node: Node) -> Node:
        for _ in range(50):
            new = _once(graph, rules, last, node)
            if new is node:
                return node
            node = new
        return node

    def walk(roots: list[Node]) -> None:
        for node in postorder(roots):
            if node in done:
                continue
            inputs = tuple(done[i] for i in node.inputs)
            if node.op == "loop":
                done[node] = _loop(graph, node, inputs, done)
            else:
                done[node] = settle(graph.rebuild(node, inputs))

    starts = [s.init for s in graph.slots.values() if s.init is not None]
    walk([*graph.roots(), *starts])
    return graph.with_roots(lambda n: done[n])


def _once(graph: Graph, rules: Sequence[Rule], last: Build | None, node: Node) -> Node:
    for rule in rules:
        bound: dict[str, Any] = {}
        if match(rule.pattern, node, bound):
            new = rule.build(graph, node, **bound)
            if new is not node:
                return new if new.type == node.type else graph.add("expand", new, type=node.type)
    return last(graph, node) if last is not None else node


def _loop(graph: Graph, node: Node, inputs: tuple[Node, ...], done: dict[Node, Node]) -> Node:
    """A loop over rewritten values; its body is rewritten with the rest."""
    region: Region = node["body"]
    for p in (*region.parameters, region.index):
        done.setdefault(p, p)
    ends = [*region.outputs, *([region.until] if region.until is not None else [])]
    for inner in postorder(ends):
        if inner not in done:
            done[inner] = graph.rebuild(inner, tuple(done[i] for i in inner.inputs))
    body = Region(
        region.parameters,
        region.index,
        tuple(done[o] for o in region.outputs),
        done[region.until] if region.until is not None else None,
    )
    if body.outputs == region.outputs and body.until is region.until and inputs == node.inputs:
        return node
    return graph.add("loop", *inputs, type=node.type, span=node.span, body=body)
