"""Differential privacy, read off the graph: what a step may tell of a single example, and where.

A step is private where all that it leaves (slots, metrics, evaluation points, its outcome) depends
on the data through releases only. A release is a sum over `examples` of gradients whose norm over
the model is bounded, plus Gaussian noise that nothing else reads: the Gaussian mechanism [Dwork and
Roth 2014, appendix A]. The bound is proven from the form of the expression; what is not understood
counts as a leak. The number of examples and all options count as public.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from .ir import Graph, Node, Region, body_nodes, inputs_of, postorder, users
from .products import AXIS, Product, axes, coarse, counts, product
from .source import CompileError, Diagnostic, Span
from .types import COARSE

POSITIVE = ("positive", "nonnegative", "unit", "fraction", "count")
FORMS = (
    "`sum(g * min(1, C // norm(g, over = model)), over = examples) + s * normal(w)` is understood, "
    "or `combine dp_mean(..)`"
)


# The analysis ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Release:
    """A noisy sum: how far one example moves it at most, and the deviation of its noise."""

    at: Node
    sensitivity: Product
    deviation: Product
    averaged: str

    @property
    def multiplier(self) -> Product:
        """The deviation in units of the sensitivity: what an accountant asks for."""
        return self.deviation.times(self.sensitivity, -1)


@dataclass(frozen=True)
class Leak:
    """Something that depends on the data and is left by the step all the same."""

    sink: str
    at: Node
    why: str


@dataclass
class Privacy:
    """What the analysis found; `noisy` where noise is added to a sum over examples at all."""

    releases: list[Release] = field(default_factory=list)
    leaks: list[Leak] = field(default_factory=list)
    noisy: bool = False

    @property
    def private(self) -> bool:
        return bool(self.releases) and not self.leaks


def privacy(graph: Graph) -> Privacy:
    """The releases of a rule, and what reaches its results around them."""
    return _Analysis(graph).run()


def require(graph: Graph) -> Privacy:
    """The same of a rule that is meant to be private; every leak is an error at its place."""
    found = privacy(graph)
    places: dict[tuple[Span, str], list[str]] = {}
    for leak in found.leaks:
        places.setdefault((leak.at.span, leak.why), []).append(leak.sink)
    wrong = [
        Diagnostic("E601", f"{why}, and it reaches {_several(sinks)}", span, FORMS)
        for (span, why), sinks in places.items()
    ]
    if not wrong and not found.releases:
        span = next(iter(graph.writes.values())).span
        what = "nothing of the data enters this step with noise: it has no release"
        wrong = [Diagnostic("E601", what, span, FORMS)]
    if wrong:
        raise CompileError(wrong)
    return found


def _several(names: list[str]) -> str:
    return names[0] + (f" and {len(names) - 1} more" if names[1:] else "")


class _Analysis:
    def __init__(self, graph: Graph):
        self.graph = graph
        self.begun = [s.init for s in graph.slots.values() if s.init is not None]
        self.ends = {*graph.roots(), *self.begun}
        self.users = users([*graph.roots(), *self.begun])
        self.raw: dict[Node, bool] = {}
        self.found = Privacy()

    def run(self) -> Privacy:
        for node in postorder([*self.graph.roots(), *self.begun]):
            self.raw[node] = self._is_raw(node)
        for what, root in self._sinks():
            if self.raw[root]:
                at, why = self._culprit(root)
                self.found.leaks.append(Leak(what, at, why))
        return self.found

    def _sinks(self) -> Iterator[tuple[str, Node]]:
        graph = self.graph
        yield from ((f"`{slot}`", node) for slot, node in graph.writes.items())
        begun = ((slot, s.init) for slot, s in graph.slots.items())
        yield from ((f"the first `{slot}`", init) for slot, init in begun if init is not None)
        yield from ((f"the metric `{name}`", node) for name, node in graph.metrics.items())
        yield from ((f"the evaluation point of `{t}`", node) for t, node in graph.evals.items())
        for e in graph.outcomes:
            yield from ((f"the {e.kind} of the step", n) for n in (e.when, e.count) if n)

    def _is_raw(self, node: Node) -> bool:
        """Whether a value depends on the data, and not through releases alone."""
        if node.kind in ("data", "oracle"):
            return True
        if node.op == "loop":
            region: Region = node["body"]
            if any(n.kind in ("data", "oracle") for n in body_nodes(region)):
                return True
        if not any(self.raw[i] for i in inputs_of(node)):
            return False
        released = self._release(node)
        if released is not None:
            self.found.releases.append(released)
        return released is None

    # Releases -----------------------------------------------------------------------------

    def _release(self, node: Node) -> Release | None:
        if node.op not in ("add", "sub"):
            return None
        for total, noise in (node.inputs, node.inputs[::-1]):
            deviation = self._noise(noise)
            if deviation is None or not self.raw[total]:
                continue
            self.found.noisy = self.found.noisy or _summed(total) is not None
            bound = self._moved(total)
            if bound is not None and bound.number and deviation.number:
                return Release(node, bound, deviation, self._averaged(node, total))
        return None

    def _noise(self, node: Node) -> Product | None:
        """The deviation of pure noise in every cell, drawn once and read by this sum alone."""
        if len(self.users[node]) != 1 or node in self.ends:
            return None
        if node.op == "random":
            fresh = node["how"] == "normal" and node.type.reach == "element"
            return Product() if fresh and not node.type.axes else None
        if node.op in ("neg", "expand"):
            return self._noise(node.inputs[0])
        return self._scaled(node, self._noise)

    def _scaled(self, node: Node, of: object) -> Product | None:
        """What is known of a value, of a public multiple of it."""
        assert callable(of)
        if node.op == "mul":
            pairs = (node.inputs, node.inputs[::-1])
        elif node.op == "div":
            pairs = (node.inputs,)  # type: ignore[assignment]
        else:
            return None
        for value, scale in pairs:
            if coarse(scale) and not self.raw[scale]:
                inner: Product | None = of(value)
                if inner is not None:
                    return inner.times(product(scale), 1 if node.op == "mul" else -1)
        return None

    def _moved(self, node: Node) -> Product | None:
        """How far one example moves a sum, as a norm over the model."""
        if node.op == "reduce" and node.get("how") == "sum" and axes(node) == (AXIS,):
            return self._bounded(node.inputs[0])
        if node.op in ("neg", "expand", "restrict"):
            return self._moved(node.inputs[0])
        if node.op in ("add", "sub"):
            a, b = node.inputs
            if self.raw[a] != self.raw[b]:  # a public part moves with nobody
                return self._moved(a if self.raw[a] else b)
            return None
        return self._scaled(node, self._moved)

    # Bounds -------------------------------------------------------------------------------

    def _bounded(self, node: Node) -> Product | None:
        """A bound on the norm of each example's part."""
        if node.op in ("neg", "expand", "restrict"):
            return self._bounded(node.inputs[0])
        if node.op == "mul":
            for value, factor in (node.inputs, node.inputs[::-1]):
                most = self._most(factor, value) if _of_examples(factor) else None
                if most is not None:
                    return most
        if node.op in ("div", "ratio"):
            value, divisor = node.inputs
            least = self._least(divisor, value) if _of_examples(divisor) else None
            if least is not None:
                return Product().times(least, -1)
            whole = self._quotient(value, divisor) if value.op == "mul" else None
            if whole is not None:
                return whole
        return self._scaled(node, self._bounded)

    def _quotient(self, above: Node, divisor: Node) -> Product | None:
        """(g * C) / max(norm(g), ..)."""
        for value, scale in (above.inputs, above.inputs[::-1]):
            if coarse(scale) and not self.raw[scale]:
                least = self._least(divisor, value)
                if least is not None:
                    return product(scale).times(least, -1)
        return None

    def _most(self, factor: Node, value: Node) -> Product | None:
        """m where |factor| <= m / |value|."""
        a, b = (*factor.inputs, None, None)[:2]
        if factor.op == "expand" and a is not None:
            return self._most(a, value)
        if a is None or b is None:
            return None
        if factor.op in ("div", "ratio") and coarse(a) and not self.raw[a]:
            least = self._least(b, value)
            return None if least is None else product(a).times(least, -1)
        if factor.op == "min":
            if self._positive(a) or self._positive(b):
                return self._most(b if self._positive(a) else a, value)
        return None

    def _least(self, divisor: Node, value: Node) -> Product | None:
        """k where divisor >= k |value|, the norm over the model."""
        if _is_norm(divisor, value):
            return Product()
        if divisor.op == "expand":
            return self._least(divisor.inputs[0], value)
        if len(divisor.inputs) != 2:
            return None
        a, b = divisor.inputs
        if divisor.op == "max":
            return self._least(a, value) or self._least(b, value)
        if divisor.op == "add":
            if self._positive(b) or self._positive(a):
                return self._least(a if self._positive(b) else b, value)
        if divisor.op in ("mul", "div"):
            pairs = ((a, b), (b, a)) if divisor.op == "mul" else ((a, b),)
            for inner, scale in pairs:
                if self._positive(scale):
                    least = self._least(inner, value)
                    if least is not None:
                        return least.times(product(scale), 1 if divisor.op == "mul" else -1)
        return None

    def _positive(self, node: Node) -> bool:
        """Whether a public number is known to be no less than zero."""
        if node.op == "const":
            return float(node["value"]) >= 0
        if node.op == "option":
            return self.graph.options[node["name"]].bound in POSITIVE
        if node.op in ("mul", "div", "expand", "add"):
            return coarse(node) and all(map(self._positive, node.inputs))
        return False

    # What is said -------------------------------------------------------------------------

    def _averaged(self, node: Node, total: Node) -> str:
        """Whether the release is a sum or a mean."""
        divisors = [u.inputs[1] for u in self.users[node] if u.op == "div"]
        divided = any(map(counts, postorder(divisors)))
        within = any(n.op == "div" and counts(n.inputs[1]) for n in postorder([total]))
        return "mean" if divided or within else "sum"

    def _culprit(self, node: Node) -> tuple[Node, str]:
        """The last place on the way from the data where a value is no mere map of others."""
        noisy = False
        while node.kind in ("map", "view") or node.op == "out":
            raw = [i for i in inputs_of(node) if self.raw[i]]
            if not raw:
                break
            noisy = noisy or node.op in ("add", "sub") and any(map(self._noise, node.inputs))
            node = raw[0]
        if node.op == "reduce" and AXIS in axes(node):
            if self._bounded(node.inputs[0]) is None:
                why = "the norm over the model of each example's part is not bounded"
                return node, why + (" before noise is added" if noisy else "")
            return node, "no noise of its own is added to this sum over examples"
        what = {"gradient": "a raw gradient", "value": "a raw loss"}.get(node.op, "raw data")
        return node, f"{what} is read without clip and noise"


def _summed(node: Node) -> Node | None:
    """The sum over examples in a value."""
    sums = (n for n in postorder([node]) if n.op == "reduce" and AXIS in axes(n))
    return next((n for n in sums if not counts(n)), None)


def _of_examples(node: Node) -> bool:
    """Whether a value is one number an example."""
    inner = node.inputs[0] if node.op == "expand" else node
    only = [a.name for a in inner.type.axes] == [AXIS]
    return only and inner.type.reach in COARSE


def _is_norm(node: Node, value: Node) -> bool:
    """Whether a value is the norm over the model of an example's gradient."""
    if node.op == "expand":
        return _is_norm(node.inputs[0], value)
    if node.op != "sqrt" or node.inputs[0].op != "reduce":
        return False
    total = node.inputs[0]
    squares = total.inputs[0]
    return (
        total["over"] == "model"
        and total["how"] == "sum"
        and squares.op == "mul"
        and squares.inputs == (value, value)
    )


def rows(graph: Graph) -> list[tuple[str, str]]:
    """The lines of the cost sheet; none for a rule that adds no noise to a sum over examples."""
    found = privacy(graph)
    if not found.noisy and not found.releases:
        return []
    made = [
        (
            f"private {r.averaged} over {AXIS}",
            f"sensitivity {r.sensitivity}, noise multiplier {r.multiplier}",
        )
        for r in found.releases
    ]
    leaks = [f"{x.why}, and it reaches {x.sink}" for x in found.leaks]
    verdict = "; ".join(dict.fromkeys(leaks)) or "what the step leaves depends on releases alone"
    return [*made, ("differential privacy", f"none: {verdict}" if leaks else f"yes: {verdict}")]
