"""A graph becomes a plan of phases: nodes fuse while their space is the same and no cut lies
between.

Element-wise nodes float: they belong to no phase by themselves but are computed where their results
are needed, from what is in memory there. What must be in memory are the anchors: writes,
reductions, points of evaluations, inputs of matrix phases. An anchor's level is the largest number
of cuts on a path to it; anchors of one level, domain and presence make one phase.
"""

from __future__ import annotations

from collections.abc import Iterable, Set
from typing import Any

from .. import cells
from ..ir import Graph, Node, Region, captured, inputs_of, postorder
from ..ops import OPS
from ..program import Call, Compute, Evaluate, Loop, Output, Read, Rest, Route
from ..types import HOST, Axis, Type, union
from .build import Builder
from .need import needs
from .sides import sides

FLOATING = ("c", "s")
FINE = ("element", "row", "column")
PLACES = ("eye", "iota", "expand", "random")
OWN = ("all", "rows", "cols")
"""Axes whose places the tensors say, not the answers of a loop."""


def source_of(node: Node) -> str:
    """The name of a value between phases; a routed part of a slot is `slot:PATH@DOMAIN`."""
    if node.op == "read":
        return f"slot:{node['slot']}"
    if node.op == "input":
        return f"input:{node['name']}"
    if routed_read(node):
        return f"slot:{node.inputs[0]['slot']}@{node.type.domain}"
    return f"v{node.number}"


def routed_read(node: Node) -> bool:
    """Whether a node is the part of a slot that a `for` block routes."""
    return node.op == "restrict" and node.inputs[0].op == "read"


def _of_inputs(graph: Graph) -> dict[str, str]:
    """The axes that arrays of the loop bring, and where a step finds their sizes."""
    given = [(name, type) for name, type in graph.inputs.items() if type.reach == "model"]
    return {a.name: f"input:{name}:{k}" for name, type in given for k, a in enumerate(type.axes)}


class Lowering:
    """Lowers the roots of a graph (or a loop's body) to phases."""

    def __init__(
        self,
        graph: Graph,
        roots: list[Node],
        bound: Iterable[Node] = (),
        hosts: list[Node] | None = None,
        axes: dict[str, str] | None = None,
    ):
        self.graph, self.roots = graph, [*roots, *_sizing(graph, roots)]
        self.axes = _of_inputs(graph) | (axes or {})  # of what the loop gives, and where
        self.bound = set(bound)  # values that are there already: a loop's parameters and captures
        self.hosts: list[Node] = hosts if hosts is not None else []
        self.after: dict[Node, list[Node]] = {}  # places -> the answers that say how many
        self.order = self._reachable()
        if self._wait_for_axes():
            self.order = self._reachable()
        self.cls: dict[Node, str] = {}
        self.level: dict[Node, int] = {}
        self.absent: dict[Node, bool] = {}
        for node in self.order:
            self.cls[node] = self._class(node)
            self.absent[node] = self._absent(node)
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

    def _wait_for_axes(self) -> bool:
        """Have what is made from nothing wait for the first answers of the loop with its axes."""
        first: dict[str, Node] = {}
        for n in self.order:
            if _CLASS.get(n.op) in ("ask", "data", "call") and n not in self.bound:
                for a in n.type.axes:
                    self.axes.setdefault(a.name, a.name)
                    first.setdefault(a.name, n)
            elif n.op == "rename":
                for a, b in zip(n.inputs[0].type.axes, n.type.axes, strict=True):
                    if a.name in self.axes:
                        self.axes.setdefault(b.name, self.axes[a.name])
        for n in self.order:
            axes = (n["axis"],) if n.op == "size" else n.type.axes if n.op in PLACES else ()
            asked = [a for a in axes if a.size is None and a.name not in OWN]
            known = [self.axes.get(a.name, "") for a in asked]
            found = [first[name] for name in known if name in first]
            if found:
                self.after[n] = found
        return bool(self.after)

    # Classes --------------------------------------------------------------------------------

    def _class(self, n: Node) -> str:
        """leaf, host, data, ask, call, loop, route, draw; or where it is computed: c (a kernel over
        elements), s (a scalar, floating), t (torch, tensor by tensor), m (torch, over the model),
        r (a reduction that ends a pass over cells)."""
        given = n.op == "input" and n.type.reach != "group"
        if n in self.bound or n.op in ("read", "parameter") or routed_read(n):
            return "leaf"
        if (
            n.known <= HOST
            and n.type.kind == "array"
            and n.type.reach not in FINE
            and not n.type.axes
        ):
            return "host"
        if n.op == "random" and n.type.reach == "element" and not n.type.axes and not n.inputs:
            return "c"  # drawn again wherever it is needed
        if given:
            return "leaf"
        constant = n.op == "expand" and n.type.axes and self.cls[n.inputs[0]] == "host"
        made = {self.cls[i] for i in n.inputs} if n.op in OPS and n.type.axes else set()
        if n.op in ("eye", "iota", "size") or constant or "k" in made <= {"k", "host"}:
            return "k"  # made anew wherever it is needed
        fixed = _CLASS.get(n.op)
        if fixed:
            return fixed
        reach, inputs = n.type.reach, n.inputs
        classes = {self.cls[i] for i in inputs}
        if (
            n.op in ("reduce", "contract", "flat")
            and reach in ("group", "model")
            and any(i.type.reach not in ("group", "model") for i in inputs)
        ):
            return "r"
        plain = not n.type.axes and not any(i.type.axes for i in inputs)
        if (
            n.op == "reduce"
            and n["over"] == "tensor"
            and plain
            and inputs[0].type.reach == "element"
        ):
            return "r" if self._c_able(inputs[0]) else "t"
        if plain and (n.op in OPS or n.op == "expand"):
            if reach == "element":
                return (
                    "c" if all(self._c_able(i) or i.type.reach not in FINE for i in inputs) else "t"
                )
            if reach in ("tensor", "group", "model"):
                return (
                    "t" if "t" in classes and reach == "tensor" else "m" if "m" in classes else "s"
                )
        return "m" if reach in ("group", "model") else "t"

    def supplied(self, axis: Axis) -> bool:
        """Whether an axis comes with the answers of the loop, or with an input."""
        return axis.name in self.axes

    def _c_able(self, n: Node) -> bool:
        return n.type.reach == "element" and not n.type.axes

    def _absent(self, n: Node) -> bool:
        """Whether the cells of a value are missing for a tensor without gradient."""
        if n.type.reach in ("group", "model") or self.cls[n] in ("host", "leaf"):
            return n in self.bound and n.type.reach not in ("group", "model")
        if n.op in ("gradient", "hvp", "vjp"):
            return True
        if n.op == "merge":
            return False
        return any(self.absent.get(i, False) for i in n.inputs)

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

    # Anchors --------------------------------------------------------------------------------

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
        for n in self.stored:
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

    def phase_key(self, n: Node, level: int) -> tuple[Any, ...]:
        """Anchors with equal keys are computed in one phase."""
        if self.cls[n] == "r":
            source = next(i for i in n.inputs if i.type.reach not in ("group", "model"))
            kernel = self.cls[source] in (
                "c",
                "leaf",
                "ask",
                "route",
                "draw",
                "t",
                "out",
            ) and self._kernel_sum(n, source)
            if kernel:
                return (level, 2, "c", source.type.domain, False)
            return (level, 1, "t", source.type.domain, self.absent[source])
        if self.cls[n] == "c":
            return (level, 2, "c", n.type.domain, False)
        if n.type.reach in ("group", "model"):
            return (level, 0, "m", "", False)
        return (level, 1, "t", n.type.domain, self.absent[n])

    def _kernel_sum(self, n: Node, source: Node) -> bool:
        return (
            n.op == "reduce"
            and self._c_able(source)
            and n["how"] in ("sum", "max", "min", "any", "all")
            and (self.cls[source] != "t")
        )

    # Phases ---------------------------------------------------------------------------------

    def phases(self) -> list[Any]:
        """All phases in an order in which each finds its inputs."""
        anchors = self.anchors()
        groups: dict[tuple[Any, ...], list[Node]] = {}
        for node, level in anchors.items():
            groups.setdefault(self.phase_key(node, level), []).append(node)
        self.ready = {n: self.phase_key(n, level)[0] for n, level in anchors.items()}
        placed: list[tuple[tuple[Any, ...], Any]] = []
        for key, nodes in groups.items():
            placed += [(key, phase) for phase in self._fused(key, nodes)]
        for index, node in enumerate(self.order):
            if node in self.bound:
                continue
            phase = self._other(node)
            if phase is not None:
                placed.append(((self.level[node], 3, "", "", False, index), phase))
        placed.sort(key=lambda p: (*p[0][:2], p[0][5] if len(p[0]) > 5 else 0))
        return [p for _, p in placed]

    def _fused(self, key: tuple[Any, ...], nodes: list[Node]) -> list[Compute | Rest]:
        """The phases of anchors that share their cells: one pass, whatever has a gradient.

        Where a tensor has none, what does not need it is done by the rest of the phase. A sum that
        counts such tensors too does not share a pass with what passes them over.
        """
        here = [n for n in nodes if not self._partial(n)]
        if key[2] != "c" or not here or len(here) == len(nodes):
            return [self._compute(key, nodes)]
        if any(self.cls[n] == "r" for n in here):
            apart = [n for n in nodes if self._partial(n)]
            return [self._compute(key, here), self._compute(key, apart)]
        whole = self._compute(key, nodes)
        rest = self._compute(key, here)
        return [whole, Rest(f"rest_{here[0].number}", whole.name, rest)]

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
                    found.add(self.name(i).removeprefix("slot:"))
        return found

    def draws(self, n: Node) -> bool:
        """Whether an element-wise value is computed from random numbers."""
        return n.op == "random" or any(self.draws(i) for i in n.inputs if self.cls[i] == "c")

    def space(self, n: Node) -> str:
        """The domain whose cells an anchor is computed over."""
        fine = next((i for i in n.inputs if i.type.reach not in ("group", "model")), n)
        return fine.type.domain

    def _partial(self, n: Node) -> bool:
        """Whether an anchor passes over tensors without a gradient."""
        return any(self.absent[i] for i in n.inputs) if self.cls[n] == "r" else self.absent[n]

    def _compute(self, key: tuple[Any, ...], nodes: list[Node]) -> Compute:
        level, _, mode, space, _ = key
        builder = Builder(self, level, mode, nodes)
        module, inputs = builder.build()
        outputs = [self._output(n) for n in nodes]
        name = {"c": "elementwise", "t": "matrix", "m": "scalar"}[mode]
        return Compute(
            f"{name}_{nodes[0].number}",
            "kernel" if mode == "c" else "torch",
            space,
            inputs,
            outputs,
            module,
            mode == "t" and all(x.target not in cells.ALONE for x in module.graph.nodes),
            *(sides(module, inputs) if mode == "t" else ()),
        )

    def _output(self, n: Node) -> Output:
        if self.cls[n] == "r":
            how = "cat" if n.op == "flat" else n.get("how", "sum")
            return Output(f"v{n.number}", n.type.reach, how)
        reach = n.type.reach
        return Output(f"v{n.number}", "cell" if reach in FINE else reach)

    def _other(self, n: Node) -> Any:
        cls = self.cls[n]
        if cls == "ask":
            return self._ask(n)
        if cls in ("call", "data", "draw", "comm"):
            attributes: dict[str, Any] = dict(n.attrs)
            attributes["axes"] = [(a.label, self._size(a)) for a in n.type.axes]
            attributes["reach"], attributes["domain"] = n.type.reach, n.type.domain
            return Call(
                f"{n.op}_{n.number}",
                n.op,
                [self.name(i) for i in n.inputs],
                f"v{n.number}",
                attributes,
            )
        if cls == "route":
            domains = n["domains"] if n.op == "merge" else (n.type.domain,)
            return Route(
                f"{n.op}_{n.number}",
                n.op,
                [self.name(i) for i in n.inputs],
                f"v{n.number}",
                n.inputs[0].type.domain,
                domains,
            )
        if cls == "loop":
            return self._loop(n)
        return None

    def _size(self, axis: Axis) -> Any:
        """A constant size, or the place of the host's scalar that says it."""
        if isinstance(axis.size, Node):
            return ("host", self.host(axis.size))
        return ("host", self.host(self.total())) if axis.name == "all" else axis.size

    def total(self) -> Node:
        """How many cells the model has: the places of the axis `all`."""
        return self.graph.add("meta", type=Type("group"), known=HOST, what="total")

    def host(self, n: Node) -> int:
        """The place of a host scalar in the row."""
        if n not in self.hosts:
            self.hosts.append(n)
        return self.hosts.index(n)

    def name(self, n: Node) -> str:
        if self.cls.get(n) == "host":
            where = {"tensor": f"@{n.type.domain}", "group": "#"}.get(n.type.reach, "")
            return f"host:{self.host(n)}{where}"
        return source_of(n)

    def _ask(self, n: Node) -> Evaluate | None:
        """One phase for all plain reads of an evaluation; products with vectors have their own."""
        at = n.inputs[0]
        plain = n.op in ("value", "gradient")
        reads = self._together(n)
        if reads[0] is not n:
            return None
        targets = at["targets"]
        points = {
            t: "" if x.op == "read" and x["slot"] == t else self.name(x)
            for t, x in zip(targets, at.inputs, strict=False)
        }
        own = self.graph.objectives[at["objective"]].axes
        axes: dict[str, Axis] = {a.label: a for a in at.type.axes}
        for x in () if plain else n.inputs[1:]:
            axes.update({a.label: a for a in x.type.axes if not any(a.same(o) for o in own)})
        layouts = {
            self.name(x): tuple(a.label for a in x.type.axes)
            for x in (*at.inputs, *n.inputs[1:])
            if x.type.axes
        }
        return Evaluate(
            f"evaluate_{n.number}",
            at["objective"],
            points,
            self.name(at.inputs[len(targets)]),
            [
                Read(
                    f"v{r.number}",
                    r.op,
                    r.get("wrt", ""),
                    r.get("of", ""),
                    self.name(r.inputs[1]) if len(r.inputs) > 1 else "",
                    tuple(a.label for a in r.type.axes),
                )
                for r in reads
            ],
            tuple(axes),
            layouts,
            {k: self._size(a) for k, a in axes.items()},
            self._condition(n),
        )

    def _condition(self, n: Node) -> tuple[str, bool] | None:
        literal = self._when(n)
        return None if literal is None else (self.name(literal[0]), literal[1])

    def _loop(self, n: Node) -> Loop:
        region: Region = n["body"]
        roots = [*region.outputs, *([region.until] if region.until else [])]
        free = captured(region)
        inner = Lowering(
            self.graph,
            roots,
            [*region.parameters, region.index, *(f for f in free if self.cls.get(f) != "host")],
            self.hosts,
            self.axes,
        )
        body = inner.phases()
        count = self._size(Axis("", n.inputs[0])) if n.inputs[0].known <= HOST else None
        outs = {
            o["index"]: f"v{o.number}" for o in self.order if o.op == "out" and o.inputs[0] is n
        }
        freeze = []
        if region.until is not None:
            u = region.until.type
            for p in region.parameters:
                places = tuple(
                    next((i for i, a in enumerate(u.axes) if a.same(b)), -1) for b in p.type.axes
                )
                freeze.append((places, len(u.axes), u.reach in FINE))
        return Loop(
            f"loop_{n.number}",
            count,
            [
                (self.name(i), f"v{p.number}")
                for i, p in zip(n.inputs[1:], region.parameters, strict=True)
            ],
            f"v{region.index.number}",
            body,
            [inner.name(o) for o in region.outputs],
            [outs.get(i, "") for i in range(len(region.outputs))],
            inner.name(region.until) if region.until is not None else "",
            freeze,
        )


_CLASS = {
    "evaluate": "none",
    **dict.fromkeys(("value", "gradient", "hvp", "jvp", "vjp"), "ask"),
    **dict.fromkeys(("oracle", "extern"), "call"),
    **dict.fromkeys(("batch", "draw", "split", "each", "subset"), "data"),
    **dict.fromkeys(("restrict", "merge"), "route"),
    "mix": "comm",
    "loop": "loop",
    "out": "out",
    "random": "draw",
}


def _sizing(graph: Graph, roots: list[Node]) -> list[Node]:
    """Values asked for only because they say how many places the weights of a product need."""
    order = postorder(roots)
    asked = [n for n in order if n.op in ("value", "gradient", "vjp")]
    known = {(a.name, a.primes) for n in asked for a in n.type.axes}
    result = []
    for n in asked:
        at, type = n.inputs[0], graph.objectives.get(n.inputs[0].get("objective", ""))
        if n.op != "vjp" or type is None:
            continue
        lacking = [a for a in type.axes if a.size is None and (a.name, a.primes) not in known]
        if lacking:
            known |= {(a.name, a.primes) for a in lacking}
            whole = Type(type.reach, union(at.type.axes, type.axes))
            result.append(graph.add("value", at, type=whole))
    return result
