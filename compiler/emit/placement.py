"""Where each value of a step is computed: its class, its level, its presence, its phase.

Element-wise nodes float: they belong to no phase by themselves but are computed where their results
are needed, from what is in memory there. What must be in memory are the anchors: writes,
reductions, points of evaluations, inputs of matrix phases. An anchor's level is the largest number
of cuts on a path to it; anchors of one level, domain and presence make one phase.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from typing import NamedTuple

from ..ir import Graph, Node, inputs_of
from ..types import COARSE, FINE, Axis
from .axis_sizes import answers, of_inputs, sizing
from .classes import FLOATING, cell_by_cell, classify, routed_read
from .need import needs
from .presence import Needs
from .presence import needs as present_with


def source_of(node: Node) -> str:
    """The name of a value between phases; a routed part of a slot is `slot:PATH@DOMAIN`."""
    if node.op == "read":
        return f"slot:{node['slot']}"
    if node.op == "input":
        return f"input:{node['name']}"
    if routed_read(node):
        return f"slot:{node.inputs[0]['slot']}@{node.type.domain}"
    return f"v{node.number}"


class PhaseKey(NamedTuple):
    """Anchors with equal keys are computed in one phase.

    Of a level come first what the model computes (rank 0), then torch (1), then kernels (2).
    """

    level: int
    rank: int
    mode: str
    space: str
    absent: bool = False


class Placement:
    """The places of all that the roots of a graph (or of a loop's body) need."""

    def __init__(
        self,
        graph: Graph,
        roots: list[Node],
        bound: Iterable[Node] = (),
        axes: dict[str, str] | None = None,
        presence: Mapping[Node, Needs] | None = None,
    ):
        self.graph, self.roots = graph, [*roots, *sizing(graph, roots)]
        self.axes = of_inputs(graph) | (axes or {})  # of what the loop gives, and where
        self.bound = set(bound)  # values that are there already: a loop's parameters and captures
        self.after: dict[Node, list[Node]] = {}  # places -> the answers that say how many
        self.order = self._reachable()
        self.after = answers(self.order, self.bound, self.axes)
        if self.after:
            self.order = self._reachable()
        self.cls: dict[Node, str] = {}
        self.level: dict[Node, int] = {}
        self.absent: dict[Node, bool] = {}
        self.presence: dict[Node, Needs] = dict(presence or {})
        for node in self.order:
            self.cls[node] = classify(node, self.bound, self.cls)
            self.absent[node] = self._absent(node)
            if node not in self.bound:
                self.presence[node] = present_with(node, self.presence)
        self.need = needs(self.order, self.roots)
        for node in self.order:
            self.level[node] = self._level(node)
        self._wait()
        self.write_level: dict[Node, int] = {}
        self.stored: set[Node] = set()

    def _reachable(self) -> list[Node]:
        result, seen = [], set(self.bound)
        stack = [(r, False) for r in reversed(self.roots)]
        done: set[Node] = set()
        while stack:
            node, ready = stack.pop()
            if ready:
                result.append(node)
            elif node not in done:
                done.add(node)
                stack.append((node, True))
                if node not in seen:
                    before = (*inputs_of(node), *self.after.get(node, ()))
                    stack.extend((i, False) for i in reversed(before))
        return result

    def supplied(self, axis: Axis) -> bool:
        """Whether an axis comes with the answers of the loop, or with an input."""
        return axis.name in self.axes

    def _absent(self, n: Node) -> bool:
        """Whether the cells of a value are missing for a tensor without gradient."""
        if n.type.reach in COARSE or self.cls[n] in ("host", "leaf"):
            return n in self.bound and n.type.reach not in COARSE
        if n.op in ("gradient", "hvp", "vjp"):
            return True
        if n.op == "merge":
            return False
        return any(self.absent.get(i, False) for i in n.inputs)

    # Levels --------------------------------------------------------------------------------

    def _level(self, n: Node) -> int:
        if self.cls[n] in ("leaf", "host"):
            return 0
        before = [self.level[i] + self._cut(i, n) for i in inputs_of(n) if i in self.level]
        before += [self.level[i] + 1 for i in self.after.get(n, ()) if i in self.level]
        literal = self._when(n)
        if literal is not None:  # the condition is known before the loop is asked
            before.append(self.level[literal[0]] + 1)
        return max(before, default=0)

    def _wait(self) -> None:
        """Matrices that are needed later only are computed there: a state's transpose, say."""
        users: dict[Node, list[Node]] = {}
        for n in self.order:
            for i in inputs_of(n):
                users.setdefault(i, []).append(n)
        for n in reversed(self.order):
            if self.cls[n] == "t" and n not in self.roots and n in users:
                self.level[n] = min(self.level[u] - self._cut(n, u) for u in users[n])

    def _cut(self, i: Node, n: Node) -> int:
        a, b = self.cls[i], self.cls[n]
        if a in ("leaf", "host", "data", "none", "k"):
            return 0
        if a in FLOATING and b in ("c", "s", "r"):
            return 0
        if a == "s" and b in ("t", "m") or a == b == "m":
            return 0
        if a == "t" and b in ("t", "r"):
            return 0
        return 0 if b == "out" else 1

    def _when(self, n: Node) -> tuple[Node, bool] | None:
        """The condition under which an evaluation is asked for: one for all that it gives."""
        if self.cls[n] != "ask" or n in self.bound:
            return None
        literals = {self.need[x] for x in self._together(n)}
        literal = literals.pop() if len(literals) == 1 else None
        return literal if literal is not None and literal[0] in self.level else None

    def _together(self, n: Node) -> list[Node]:
        """What one evaluation is read for at once; products with vectors stand alone."""
        if n.op not in ("value", "gradient"):
            return [n]
        at = n.inputs[0]
        plain = ("value", "gradient")
        return [
            x for x in self.order if x.op in plain and x.inputs[0] is at and x not in self.bound
        ]

    # Anchors -------------------------------------------------------------------------------

    def anchors(self) -> dict[Node, int]:
        """What must be in memory, and from which level on."""
        result: dict[Node, int] = {}
        for n in self.order:
            for i in inputs_of(n):
                if i in self.cls and self._materialised(i, n):
                    result[i] = self.level[i]
            literal = self._when(n)
            if literal is not None and self.cls[literal[0]] in ("s", "m"):
                result[literal[0]] = self.level[literal[0]]
        for n in sorted(self.stored, key=lambda n: n.number):
            if self.cls.get(n) == "c":
                result[n] = self.level[n]
        for n in self.roots:
            if self.cls[n] in ("c", "s", "t", "m", "r", "k"):
                # what a phase besides the kernels reads cannot wait for its write
                result.setdefault(n, max(self.level[n], self.write_level.get(n, 0)))
        return result

    def _materialised(self, i: Node, n: Node) -> bool:
        a, b = self.cls[i], self.cls[n]
        if a == "r":
            return True
        if a == "k":
            return b in ("ask", "call", "loop", "route", "comm")
        if a == "c":
            return b not in ("c", "r", "s")
        if a == "s":
            return b not in ("c", "s", "r", "t", "m")
        if a in ("t", "m"):
            same = b == a or (a == "t" and b == "r")
            return not same or self.level[i] != self.level[n]
        return False

    def phase_of(self, n: Node, level: int) -> PhaseKey:
        """The phase that computes an anchor which is in memory from a level on."""
        if self.cls[n] == "r":
            source = next(i for i in n.inputs if i.type.reach not in COARSE)
            if self._kernel_sum(n, source):
                return PhaseKey(level, 2, "c", source.type.domain)
            return PhaseKey(level, 1, "t", source.type.domain, self.absent[source])
        if self.cls[n] == "c":
            return PhaseKey(level, 2, "c", n.type.domain)
        if n.type.reach in COARSE:
            return PhaseKey(level, 0, "m", "")
        return PhaseKey(level, 1, "t", n.type.domain, self.absent[n])

    def _kernel_sum(self, n: Node, source: Node) -> bool:
        """Whether the pass of a kernel can end with a reduction."""
        return (
            n.op == "reduce"
            and n["how"] in ("sum", "max", "min", "any", "all")
            and cell_by_cell(source)
            and self.cls[source] in ("c", "leaf", "ask", "route", "draw", "out")
        )

    # What an anchor is computed from -------------------------------------------------------

    def columns(self, n: Node, known: Set[Node]) -> set[object]:
        """The columns of cells that an element-wise value is computed from; slots by their paths.

        The values `known` are in memory too.
        """
        found: set[object] = set()
        todo, seen = [n], {n}
        while todo:
            for i in inputs_of(todo.pop()):
                if i in seen or i not in self.cls:
                    continue
                seen.add(i)
                if self.cls[i] == "c" and i not in known:
                    todo.append(i)
                elif i.type.reach in FINE:
                    found.add(source_of(i).removeprefix("slot:"))
        return found

    def low(self, n: Node) -> bool:
        """Whether a value of a kernel is rounded to bfloat16, and read by phases alone."""
        return (
            n.op == "bf16"
            and self.cls[n] == "c"
            and n not in self.roots
            and all(self.cls[u] in ("c", "t", "r") for u in self.order if n in inputs_of(u))
        )

    def draws(self, n: Node) -> bool:
        """Whether an element-wise value is computed from random numbers."""
        return n.op == "random" or any(self.draws(i) for i in n.inputs if self.cls[i] == "c")

    def space(self, n: Node) -> str:
        """The domain whose cells an anchor is computed over."""
        fine = next((i for i in n.inputs if i.type.reach not in COARSE), n)
        return fine.type.domain

    def partial(self, n: Node) -> bool:
        """Whether an anchor passes over tensors without a gradient."""
        return any(self.absent[i] for i in n.inputs) if self.cls[n] == "r" else self.absent[n]
