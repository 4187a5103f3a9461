"""A graph becomes a plan of phases: nodes fuse while their space is the same and no cut lies
between.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from .. import cells, matrices
from ..ir import Graph, Node, Region, captured
from ..program import Call, Compute, Evaluate, Loop, Output, Read, Rest, Route
from ..types import FINE, HOST, Axis
from .axis_sizes import OWN
from .build import Builder
from .placement import PhaseKey, Placement, source_of
from .presence import NOTHING, Needs, of_loop, parts
from .sides import sides

ALONE = (cells.top, cells.quantile, matrices.lstsq)
"""What takes one tensor at a time: torch.func.vmap cannot map it over a stack."""


class Lowering(Placement):
    """Lowers the roots of a graph (or a loop's body) to phases."""

    def __init__(
        self,
        graph: Graph,
        roots: list[Node],
        bound: Iterable[Node] = (),
        hosts: list[Node] | None = None,
        axes: dict[str, str] | None = None,
        presence: Mapping[Node, Needs] | None = None,
    ):
        super().__init__(graph, roots, bound, axes, presence)
        self.hosts: list[Node] = hosts if hosts is not None else []

    def phases(self) -> list[Any]:
        """All phases in an order in which each finds its inputs."""
        anchors = self.anchors()
        groups: dict[PhaseKey, list[Node]] = {}
        for node, level in anchors.items():
            groups.setdefault(self.phase_of(node, level), []).append(node)
        self.ready = anchors
        placed: list[tuple[tuple[int, int, int], Any]] = []
        for key, nodes in groups.items():
            placed += [((key.level, key.rank, 0), phase) for phase in self._fused(key, nodes)]
        for index, node in enumerate(self.order):
            if node in self.bound:
                continue
            phase = self._other(node)
            if phase is not None:
                placed.append(((self.level[node], 3, index), phase))
        placed.sort(key=lambda p: p[0])
        return [p for _, p in placed]

    def _fused(self, key: PhaseKey, nodes: list[Node]) -> list[Compute | Rest]:
        """The phases of anchors that share their cells: one pass, whatever has a gradient.

        Where a tensor lacks one, what does not need it is done by the rest of the phase. A sum that
        counts such tensors too does not share a pass with what passes them over.
        """
        here = [n for n in nodes if not self.partial(n)]
        if key.mode == "c" and len(here) < len(nodes) and any(self.cls[n] == "r" for n in here):
            apart = [n for n in nodes if self.partial(n)]
            return [self._compute(key, here), *self._with_rest(key, apart)]
        return self._with_rest(key, nodes)

    def _with_rest(self, key: PhaseKey, nodes: list[Node]) -> list[Compute | Rest]:
        whole = self._compute(key, nodes)
        found = parts(whole, self.presence) if key.space else []
        rest = [Rest(f"rest_{nodes[0].number}", whole.name, found)] if found else []
        return [whole, *rest]

    def _compute(self, key: PhaseKey, nodes: list[Node]) -> Compute:
        mode = key.mode
        builder = Builder(self, key.level, mode, nodes)
        module, inputs = builder.build()
        outputs = [self._output(n) for n in nodes]
        name = {"c": "elementwise", "t": "matrix", "m": "scalar"}[mode]
        return Compute(
            f"{name}_{nodes[0].number}",
            "kernel" if mode == "c" else "torch",
            key.space,
            inputs,
            outputs,
            module,
            mode == "t" and all(x.target not in ALONE for x in module.graph.nodes),
            *(sides(module, inputs) if mode == "t" else ()),
        )

    def _output(self, n: Node) -> Output:
        if self.cls[n] == "r":
            how = "cat" if n.op == "flat" else n.get("how", "sum")
            places = self._places(n)
            known = not any(size is None or isinstance(size, str) for _, size in places)
            own = any(a.side or a.name in OWN for a in n.type.axes) and n.op != "flat"
            return Output(
                f"v{n.number}",
                n.type.reach,
                how,
                axes=tuple(places) if known else (),
                place=n.span.quoted() if own else "",
            )
        reach = n.type.reach
        return Output(f"v{n.number}", "cell" if reach in FINE else reach, low=self.low(n))

    def _other(self, n: Node) -> Any:
        cls = self.cls[n]
        if cls == "ask":
            return self._ask(n)
        if cls in ("call", "data", "draw", "comm"):
            attributes: dict[str, Any] = dict(n.attrs)
            attributes["axes"] = self._places(n)
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
                self._places(n) if n.op == "merge" else [],
            )
        if cls == "loop":
            return self._loop(n)
        return None

    # Names and scalars of the host ---------------------------------------------------------

    def _size(self, axis: Axis) -> Any:
        """A constant size, or the place of the host's scalar that says it."""
        return ("host", self.host(axis.size)) if isinstance(axis.size, Node) else axis.size

    def _places(self, n: Node) -> list[tuple[str, Any]]:
        """The axes of a value, and what says how many places each has."""
        return [(a.label, self._size(a) or self._source(a)) for a in n.type.axes]

    def _source(self, axis: Axis) -> Any:
        """An input of the loop that says how many places an axis has, by its present name."""
        source = self.axes.get(axis.name, "")
        return ("places", source) if source.startswith("input:") else None

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

    # Evaluations and loops -----------------------------------------------------------------

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
        known = {f: self.presence.get(f, NOTHING) for f in free}
        first = [self.presence.get(i, NOTHING) for i in n.inputs[1:]]
        inner = Lowering(
            self.graph,
            roots,
            [*region.parameters, region.index, *(f for f in free if self.cls.get(f) != "host")],
            self.hosts,
            self.axes,
            {**known, **of_loop(region, first, known)},
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
