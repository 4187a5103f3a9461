"""The guard against non-finite gradients: a step that meets one changes nothing.

It is a veto like any other: parameters, states and counters stay. Where the rule already sums the
squares of the gradient it costs nothing; elsewhere the gradient is read once more.
"""

from __future__ import annotations

from dataclasses import replace

from ..ir import Ending, Graph, Node, postorder
from ..types import LOGICAL, MODEL


def guard(graph: Graph) -> Graph:
    """The same rule with a veto on every gradient, sum of squares by sum of squares."""
    nodes = list(postorder(graph.roots()))
    condition: Node | None = None
    for gradient in [n for n in nodes if n.op == "gradient" and not n.type.axes]:
        square = graph.add("mul", gradient, gradient, type=gradient.type)
        total = graph.add("reduce", square, type=MODEL, how="sum", over="model")
        fine = graph.add("isfinite", total, type=LOGICAL)
        bad = graph.add("not", fine, type=LOGICAL)
        condition = bad if condition is None else graph.add("or", condition, bad, type=LOGICAL)
    if condition is None:
        return graph
    return replace(graph, outcomes=[Ending("veto", condition), *graph.outcomes])


def is_free(graph: Graph) -> bool:
    """Whether the rule sums the squares of its gradients anyway."""
    nodes = set(postorder(graph.roots()))
    sums = {
        n.inputs[0]
        for n in nodes
        if n.op == "reduce" and n["over"] == "model" and n["how"] == "sum"
    }
    gradients = [n for n in nodes if n.op == "gradient" and not n.type.axes]
    return all(any(s.op in ("mul", "pow") and s.inputs[0] is g for s in sums) for g in gradients)
