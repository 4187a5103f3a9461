"""The least that a step moves: bytes of a cell that are read and written, phase by phase.

A cut (a reduction over the model, an oracle, a matrix operation) ends a phase. A value that a later
phase needs is computed again from its columns, or stored and read: the smaller one, by minimum cut.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from math import inf
from typing import Any

from .cut import side_of_end
from .ir import Graph, Node, asks, inputs_of, postorder
from .types import FINE

FLOAT32 = 4
"""Bytes of one cell."""

ASKS = ("gradient", "hvp", "vjp", "jvp", "value", "oracle", "extern")
HEAVY = ("contract", "linalg", "loop", "comm", "extern", "oracle")
"""Kinds that read and write columns of their own."""


def leaves(graph: Graph) -> list[str]:
    """The domains that no block divides further."""
    parents = {d.parent for d in graph.domains.values()}
    return [name for name in graph.domains if name not in parents]


def within(graph: Graph, leaf: str, domain: str) -> bool:
    """Whether the cells of a leaf are cells of a domain."""
    while leaf:
        if leaf == domain:
            return True
        leaf = graph.domains[leaf].parent
    return False


def least_bytes(graph: Graph, leaf: str, widths: Mapping[str, float]) -> float:
    """What a step reads and writes at least for a cell of a leaf; `widths` by slot, or FLOAT32."""
    sheet = _Sheet(graph, leaf, widths)
    sheet.fill()
    return whole(sheet.total())


def whole(number: float) -> float:
    """A whole number as an int."""
    return int(number) if number == int(number) else number


def company(
    writes: Mapping[str, Node],
    level: dict[Node, int],
    others: Sequence[tuple[int, Node]],
    columns: Callable[[Node, Set[Node]], set[object]],
) -> dict[Node, int]:
    """The pass of each write: its own, or a later one where it then moves fewer columns.

    `level` is the first pass that a write can happen in, `others` are the values that passes end
    with besides. A write waits only where no version that it reads is written before.
    """
    nodes = list(dict.fromkeys(writes.values()))

    def read(at: int, without: Node, known: Set[Node]) -> set[object]:
        ends = [n for n in nodes if level[n] == at] + [n for where, n in others if where == at]
        return {c for n in ends if n is not without for c in columns(n, known)}

    for node in nodes:
        own = level[node]
        needs = columns(node, set())
        before = [n for slot, n in writes.items() if n is not node and slot in needs]
        gains: dict[int, int] = {}
        for later in {level[n] for n in nodes if level[n] > own}:
            if any(level[n] < later for n in before):
                continue
            first, second = ({n for n in nodes if level[n] < at} for at in (own, later))
            here, there = read(own, node, first), read(later, node, second - {node})
            stays = len(here | columns(node, first)) + len(read(later, node, second | {node}))
            waits = len(here) + len(there | columns(node, second - {node}))
            gains[later] = stays - waits
        best = max(gains, key=lambda at: (gains[at], -at), default=own)
        level[node] = best if gains.get(best, 0) > 0 else own
    return level


def worth_storing(graph: Graph) -> set[Node]:
    """Values that a pass stores for a later one, since reading them again moves less."""
    found: set[Node] = set()
    for leaf in leaves(graph):
        sheet = _Sheet(graph, leaf, {})
        sheet.fill()
        sheet.total()
        found |= sheet.stored
    return found


def handed_over(graph: Graph) -> set[Node]:
    """Points and vectors that the loop is given; a slot that is to hold one gets a copy."""
    return {
        i
        for n in postorder(graph.roots())
        if n.op == "evaluate" or n.op in ASKS
        for i in n.inputs
        if plain(i) and i.kind == "map"
    }


def plain(node: Node) -> bool:
    """Whether a value is one number a cell."""
    return node.type.kind == "array" and node.type.reach == "element" and not node.type.axes


@dataclass
class _Sheet:
    """What is read, stored and written for the cells of one leaf."""

    graph: Graph
    leaf: str
    widths: Mapping[str, float]
    level: dict[Node, int] = field(default_factory=dict)
    sinks: dict[int, dict[Node, None]] = field(default_factory=dict)
    written: dict[Node, int] = field(default_factory=dict)
    wide: dict[Node, float] = field(default_factory=dict)
    ends_in: dict[str, Node] = field(default_factory=dict)
    reads: dict[int, set[Node]] = field(default_factory=dict)
    stored: set[Node] = field(default_factory=set)

    def fill(self) -> None:
        """The level of every node that the leaf's cells take part in, and what each level makes."""
        for slot, node in self.graph.writes.items():
            new = self.resolve(node)
            if new.op == "read" and new["slot"] == slot or not self.concerns(node):
                continue
            for n in self.below([new]):
                self.place(n)
            if plain(new):
                width = self.widths.get(slot, FLOAT32)
                self.wide[new] = max(width, self.wide.get(new, 0))
                self.ends_in[slot] = new
        given = handed_over(self.graph)
        for slot, node in list(self.ends_in.items()):
            if node in given:
                copied = self.graph.add("copy", node, type=node.type)
                self.place(copied)
                self.wide[copied] = self.widths.get(slot, FLOAT32)
                self.ends_in[slot] = copied
        others = [e.when for e in self.graph.outcomes] + list(self.graph.metrics.values())
        for n in self.below(others):
            self.place(n)
        reported = [n for n in self.graph.metrics.values() if plain(n) and self.concerns(n)]
        for n in map(self.resolve, reported):
            if plain(n) and not self.column(n):
                self.written.setdefault(n, self.level[n])
                self.sink(n)
        self.keep_company()

    def keep_company(self) -> None:
        """The pass that each write happens in; none comes before the last evaluation.

        A loss that raises must find everything as it was.
        """
        others = [(level, n) for level, nodes in self.sinks.items() for n in nodes]
        first = dict(self.level)
        asked = max((at + (n.op == "evaluate") for n, at in first.items() if asks(n)), default=0)
        for node in self.ends_in.values():
            first[node] = max(first[node], asked)
        at = company(self.ends_in, first, others, self.columns)
        for node in self.ends_in.values():
            self.sinks.setdefault(at[node], {})[node] = None
            self.written.setdefault(node, at[node])

    def columns(self, node: Node, known: Set[Node]) -> set[object]:
        """The columns that a value is computed from where the values `known` are in memory too."""
        found: set[object] = set()
        todo, seen = [node], {node}
        while todo:
            n = todo.pop()
            if self.column(n) or (n in known and n is not node):
                found.add(n["slot"] if n.op == "read" else n)
                continue
            more = [i for i in filter(plain, self.inputs(n)) if i not in seen]
            seen.update(more)
            todo += more
        return found

    def concerns(self, node: Node) -> bool:
        return not node.type.domain or within(self.graph, self.leaf, node.type.domain)

    def resolve(self, node: Node) -> Node:
        """The part of a merged value that the leaf's cells have; restricted values are the same."""
        while node.op in ("merge", "restrict"):
            chosen = node.inputs[0]
            if node.op == "merge":
                for domain, part in zip(node["domains"], node.inputs[1:], strict=True):
                    chosen = part if within(self.graph, self.leaf, domain) else chosen
            node = chosen
        return node

    def inputs(self, node: Node) -> list[Node]:
        """What a node needs of the leaf's cells; a loss at the held point needs nothing."""
        found = [self.resolve(i) for i in inputs_of(node)]
        if node.op == "evaluate":
            found = [i for i in found if not self.held(i)]
        return [i for i in found if self.concerns(i)]

    def held(self, node: Node) -> bool:
        return node.op == "read" and self.graph.slots[node["slot"]].kind == "target"

    def below(self, roots: list[Node]) -> Iterator[Node]:
        """The nodes under the roots that have no level yet, inputs first."""
        stack = [(self.resolve(n), False) for n in reversed(roots)]
        while stack:
            node, ready = stack.pop()
            if node in self.level or not self.concerns(node):
                continue
            if ready:
                yield node
            else:
                stack.append((node, True))
                stack += [(i, False) for i in self.inputs(node) if i not in self.level]

    def place(self, node: Node) -> None:
        inputs = self.inputs(node)
        self.level[node] = max((self.level[i] + self.ends(i) for i in inputs), default=0)
        if node.op == "evaluate":
            self.level[node] = max((self.level[i] for i in inputs if plain(i)), default=0)
        if node.op == "evaluate" or node.op in ASKS:
            for given in filter(plain, inputs):
                self.hand_over(node, given)
        elif self.ends(node):
            for i in filter(plain, inputs):
                self.sink(i)

    def hand_over(self, node: Node, given: Node) -> None:
        """A point or a vector that the loop is given must be in memory before it is asked."""
        if node.op != "evaluate":
            self.level[node] = max(self.level[node], self.level[given] + 1)
        if not self.column(given):
            self.written[given] = self.level[given]
            self.sink(given)

    def ends(self, node: Node) -> bool:
        """Whether the use of a value begins a new phase."""
        if node.op in ("reduce", "contract"):
            # a tensor is larger than what a pass holds at a time
            fine = any(i.type.reach in FINE for i in node.inputs)
            return fine and node.type.reach not in FINE
        if node.op == "evaluate":
            return True
        return node.kind in HEAVY and node.op not in ASKS or node.op in ("matrix", "wide", "flat")

    def sink(self, node: Node) -> None:
        self.sinks.setdefault(self.level[node], {})[node] = None

    def total(self) -> float:
        stored = dict(self.written)
        moved = sum(self.wide.get(n, FLOAT32) for n in self.written)
        for level in sorted(self.sinks):
            reads = self.cut(level, stored)
            self.reads[level] = set(reads)
            for node in reads:
                moved += self.width(node)
                if not self.column(node) and node not in stored:
                    moved += FLOAT32
                    stored[node] = self.level[node]
        self.stored = {n for n in stored if n not in self.written}
        return moved

    def width(self, node: Node) -> float:
        """Bytes of a cell of what is read: a gradient is as wide as its target."""
        slot = node["slot"] if node.op == "read" else node.get("wrt", "")
        return self.wide.get(node, self.widths.get(slot, FLOAT32))

    def at_hand(self, node: Node) -> bool:
        """Whether the pass of its level reads all that a value needs, so that it costs a write."""
        read, todo, seen = self.reads.get(self.level[node], set()), [node], {node}
        while todo:
            for i in filter(plain, self.inputs(todo.pop())):
                if i in read or i in seen:
                    continue
                if self.column(i):
                    return False
                seen.add(i)
                todo.append(i)
        return True

    def column(self, node: Node) -> bool:
        """Whether a value lies in memory before the step's phases touch it."""
        return node.op in ("read", "gradient", "hvp", "vjp", "back", "out", "input", *ASKS)

    def cut(self, level: int, stored: dict[Node, int]) -> list[Node]:
        """The values that a level reads, so that as few columns as possible move."""
        sources: dict[Any, float] = {}
        network: dict[Any, dict[Any, float]] = {"from": sources}
        network |= {(node, "out"): {"to": inf} for node in self.sinks[level]}
        todo, seen = list(self.sinks[level]), set(self.sinks[level])
        while todo:
            node = todo.pop()
            earlier = stored.get(node, level) < level
            kept = self.column(node) or earlier
            storable = self.level[node] < level and self.at_hand(node)
            price = self.width(node) * (1 if kept else 2) if kept or storable else 0
            network[node, "in"] = {(node, "out"): price or inf}
            if self.column(node) or (earlier and node.op == "random"):  # dearer than its bytes
                sources[node, "in"] = inf
                continue
            for i in filter(plain, self.inputs(node)):
                network.setdefault((i, "out"), {})[node, "in"] = inf
                if i not in seen:
                    seen.add(i)
                    todo.append(i)
        behind = side_of_end(network, "from", "to")
        return [n for n in seen if (n, "in") not in behind and (n, "out") in behind]
