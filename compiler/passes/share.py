"""Equal state is kept once: two steps that keep the same moving average share one slot.

Two slots are equal if they begin equally and if their next versions are the same expression once
each reads itself under one name. Equal expressions need no pass: equal nodes are one node from the
start.
"""

from __future__ import annotations

from dataclasses import replace

from ..ir import Graph, Node, substitute


def share(graph: Graph) -> Graph:
    """The graph with equal states merged, until none is left; the first name stays."""
    while True:
        pair = _equal_pair(graph)
        if pair is None:
            return graph
        graph = _merge(graph, *pair)


def _equal_pair(graph: Graph) -> tuple[str, str] | None:
    states = [s for s, spec in graph.slots.items() if spec.kind == "state" and s in graph.writes]
    for at, kept in enumerate(states):
        for other in states[at + 1 :]:
            if _equal(graph, kept, other):
                return kept, other
    return None


def _equal(graph: Graph, kept: str, other: str) -> bool:
    a, b = graph.slots[kept], graph.slots[other]
    if (
        a.type != b.type
        or a.init is not b.init
        or (kept in graph.always) != (other in graph.always)
    ):
        return False
    renamed = substitute(graph, [graph.writes[other]], _rename(graph, kept, other))
    return renamed[graph.writes[other]] is graph.writes[kept]


def _rename(graph: Graph, kept: str, other: str) -> dict[Node, Node]:
    type = graph.slots[kept].type
    new = graph.add("read", type=type, known=2, slot=kept)
    return {n: new for n in list(graph.nodes.values()) if n.op == "read" and n["slot"] == other}


def _merge(graph: Graph, kept: str, other: str) -> Graph:
    table = _rename(graph, kept, other)
    done = substitute(graph, graph.roots(), table)
    merged = graph.with_roots(lambda n: done[n])
    return replace(
        merged,
        slots={s: spec for s, spec in merged.slots.items() if s != other},
        writes={s: n for s, n in merged.writes.items() if s != other},
    )
