"""The least that a step moves: bytes of a cell that are read and written, phase by phase.

A cut (a reduction over the model, an oracle, a matrix operation) ends a phase. A value that a later
phase needs is computed again from its columns, or stored and read: the smaller one, by minimum cut.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from .ir import Graph, Node, inputs_of

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
    written: dict[Node, float] = field(default_factory=dict)

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
                self.written[new] = max(width, self.written.get(new, 0))
                self.sink(new)
        others = [e.when for e in self.graph.outcomes] + list(self.graph.metrics.values())
        for n in self.below(others):
            self.place(n)

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
            self.level[node] = max((self.level[i] for i in inputs if plain(i)), default=-1)
            for point in filter(plain, inputs):
                self.written[point] = FLOAT32
                self.sink(point)
        elif self.ends(node):
            for i in filter(plain, inputs):
                self.sink(i)

    def ends(self, node: Node) -> bool:
        """Whether the use of a value begins a new phase."""
        if node.op in ("reduce", "contract"):
            return node.type.reach in ("group", "model") and any(
                i.type.reach not in ("group", "model") for i in node.inputs
            )
        if node.op == "evaluate":
            return True
        return node.kind in HEAVY and node.op not in ASKS or node.op in ("matrix", "wide", "flat")

    def sink(self, node: Node) -> None:
        self.sinks.setdefault(self.level[node], {})[node] = None

    def total(self) -> float:
        stored: dict[Node, int] = {n: self.level[n] for n in self.written}
        moved = sum(self.written.values())
        for level in sorted(self.sinks):
            for node in self.cut(level, stored):
                moved += self.width(node)
                if not self.column(node) and node not in stored:
                    moved += FLOAT32
                    stored[node] = self.level[node]
        return moved

    def width(self, node: Node) -> float:
        """Bytes of a cell of what is read: a gradient is as wide as its target."""
        slot = node["slot"] if node.op == "read" else node.get("wrt", "")
        return self.written.get(node, self.widths.get(slot, FLOAT32))

    def column(self, node: Node) -> bool:
        """Whether a value lies in memory before the step's phases touch it."""
        return node.op in ("read", "gradient", "hvp", "vjp", "back", "out", "input", *ASKS)

    def cut(self, level: int, stored: dict[Node, int]) -> list[Node]:
        """The values that a level reads, so that as few columns as possible move."""
        import networkx

        flow = networkx.DiGraph()
        todo, seen = list(self.sinks[level]), set(self.sinks[level])
        flow.add_nodes_from(("from", "to"))
        for node in todo:
            flow.add_edge((node, "out"), "to")
        while todo:
            node = todo.pop()
            earlier = stored.get(node, level) < level
            kept = self.column(node) or earlier
            price = self.width(node) * (1 if kept else 2)
            price = price if kept or self.level[node] < level else 0
            flow.add_edge((node, "in"), (node, "out"), **({"capacity": price} if price else {}))
            if self.column(node):
                flow.add_edge("from", (node, "in"))
                continue
            for i in filter(plain, self.inputs(node)):
                flow.add_edge((i, "out"), (node, "in"))
                if i not in seen:
                    seen.add(i)
                    todo.append(i)
        _, (near, _) = networkx.minimum_cut(flow, "from", "to")
        return [n for n in seen if (n, "in") in near and (n, "out") not in near]
