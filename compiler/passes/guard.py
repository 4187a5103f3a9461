"""The guard against non-finite gradients: a step that meets one changes nothing.

It is a veto like any other: parameters, states and counters stay. Where the rule already sums the
squares of the gradient it costs nothing; elsewhere the gradient is read once more.
"""

from __future__ import annotations

from dataclasses import replace

from ..ir import Ending, Graph, Node, Region, body_nodes, may_fail, postorder, substitute
from ..types import COARSE, LOGICAL, MODEL

ASKED = ("gradient", "value", "hvp", "jvp", "vjp")


def guard(graph: Graph) -> Graph:
    """The same rule with a veto on every answer of the loop that it reads, by sums of squares.

    Answers inside a loop are guarded by what the loop leaves. torch refuses a matrix that is not
    finite before the step could be taken back: so decompositions are given ones for the answers of
    a step that is vetoed, those too from which a later point comes. What is told or written
    whatever the outcome reads the answers as they are.
    """
    bad: Node | None = None
    table: dict[Node, Node] = {}
    for answer in answers(graph):
        raw = _told(graph, [answer], table)[answer]
        found = _not_finite(graph, raw)
        bad = found if bad is None else graph.add("or", bad, found, type=LOGICAL)
        table[answer] = _spared(graph, raw, bad)
    if bad is None:
        return graph
    told = _told(graph, graph.roots(), table)
    guarded = graph.with_roots(lambda n: told[n])
    begins = [s.init for s in graph.slots.values() if s.init is not None]
    if any(map(may_fail, postorder([*graph.roots(), *begins]))):
        spared = substitute(graph, [*graph.roots(), *begins], table)
        late = {s: spared[n] for s, n in graph.writes.items() if s not in graph.always}
        written = {graph.writes[s]: n for s, n in late.items()}
        guarded = replace(
            guarded,
            slots={p: replace(s, init=s.init and spared[s.init]) for p, s in graph.slots.items()},
            writes={**guarded.writes, **late},
            evals={t: written.get(n, told[n]) for t, n in graph.evals.items()},
        )
    return replace(guarded, outcomes=[Ending("veto", bad), *guarded.outcomes])


def _not_finite(graph: Graph, answer: Node) -> Node:
    """Whether any number of an answer is not finite, by the sum of its squares."""
    total = answer
    if answer.type.reach != "model" or answer.type.axes:
        total = graph.add("mul", answer, answer, type=answer.type)
        if total.type.reach != "model":
            over = replace(total.type, reach="model", domain="")
            total = graph.add("reduce", total, type=over, how="sum", over="model")
        if total.type.axes:
            names = tuple(a.label for a in total.type.axes)
            total = graph.add("reduce", total, type=MODEL, how="sum", over=names)
    return graph.add("not", graph.add("isfinite", total, type=LOGICAL), type=LOGICAL)


def _spared(graph: Graph, answer: Node, bad: Node) -> Node:
    """Ones for an answer of a step that is vetoed; of each cell, so that the choice needs what the
    answer needs."""
    logical = replace(answer.type, logical=True)
    fine = graph.add("isfinite", answer, type=logical)
    wrong = graph.add("or", bad, graph.add("not", fine, type=logical), type=logical)
    return graph.add("where", wrong, graph.const(1.0), answer, type=answer.type)


def _told(graph: Graph, roots: list[Node], table: dict[Node, Node]) -> dict[Node, Node]:
    """The nodes under the roots with answers as they are, and decompositions of spared ones."""
    failing = [n for n in postorder(roots) if may_fail(n)]
    spared = substitute(graph, failing, table)
    return substitute(graph, roots, {n: spared[n] for n in failing})


def answers(graph: Graph) -> list[Node]:
    """What the loop gives and the step reads: gradients and values, curvature, loops of these."""
    nodes = list(postorder(graph.roots()))
    asking = {n for n in nodes if n.op == "loop" and _asks(n)}
    within = {x for n in asking for x in body_nodes(n["body"])}
    return [
        n
        for n in nodes
        if n not in within
        and (n.op in ASKED or n.op == "out" and n.inputs[0] in asking)
        and not n.type.logical
    ]


def _asks(loop: Node) -> bool:
    region: Region = loop["body"]
    return any(n.op in ASKED or n.op == "loop" and _asks(n) for n in body_nodes(region))


def unsummed(graph: Graph) -> list[Node]:
    """The answers whose squares the rule does not sum anyway; single numbers cost nothing."""
    nodes = set(postorder(graph.roots()))
    sums = {
        n.inputs[0]
        for n in nodes
        if n.op == "reduce" and n["over"] == "model" and n["how"] == "sum"
    }
    squared = {s.inputs[0] for s in sums if s.op in ("mul", "pow")}
    wide = [n for n in answers(graph) if n.type.reach not in COARSE]
    return [n for n in wide if n not in squared]


def price(graph: Graph) -> str:
    """What the guard costs, in words; a bound GradScaler's flag needs no guard at all."""
    if not answers(graph):
        return ""
    again = unsummed(graph)
    if not again:
        return "free: the squares are summed anyway"
    bytes_each = f"{4 * len(again)} more bytes a parameter"
    along = {a.name for n in again for a in n.type.axes}
    places = f" and place of {', '.join(sorted(along))}" if along else ""
    return f"{bytes_each}{places}; free under a GradScaler that is bound"
