"""Equal state is kept once: two steps that keep the same moving average share one slot.

Slots are equal if they begin equally and if their next versions are the same expression once equal
slots have one name. So classes of slots that may be equal are split until no write tells their
members apart; slots that read each other (two numbers of one complex momentum) are found too. Equal
expressions need no pass: equal nodes are one node from the start.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace

from ..ir import Graph, Node, substitute


def share(graph: Graph) -> Graph:
    """The graph with equal states merged; the first name stays."""
    kept = _classes(graph)
    if all(slot == first for slot, first in kept.items()):
        return graph
    table = _renaming(graph, kept)
    inits = [s.init for s in graph.slots.values() if s.init is not None]
    done = substitute(graph, [*graph.roots(), *inits], table)
    merged = graph.with_roots(lambda n: done[n])
    gone = {slot for slot, first in kept.items() if slot != first}
    return replace(
        merged,
        slots={
            s: replace(spec, init=done[spec.init]) if spec.init is not None else spec
            for s, spec in merged.slots.items()
            if s not in gone
        },
        writes={s: n for s, n in merged.writes.items() if s not in gone},
    )


def _classes(graph: Graph) -> dict[str, str]:
    """Each written state and the first state that is equal to it."""
    states = [s for s, spec in graph.slots.items() if spec.kind == "state" and s in graph.writes]
    kept = _grouped(states, {s: _beginning(graph, s) for s in states})
    while True:
        done = substitute(graph, [graph.writes[s] for s in states], _renaming(graph, kept))
        finer = _grouped(states, {s: (kept[s], done[graph.writes[s]]) for s in states})
        if finer == kept:
            return kept
        kept = finer


def _beginning(graph: Graph, slot: str) -> Hashable:
    spec = graph.slots[slot]
    return spec.type, spec.init, slot in graph.always


def _grouped(states: list[str], keys: dict[str, Hashable]) -> dict[str, str]:
    first: dict[Hashable, str] = {}
    return {s: first.setdefault(keys[s], s) for s in states}


def _renaming(graph: Graph, kept: dict[str, str]) -> dict[Node, Node]:
    """Every read of a slot as a read of the first that is equal."""
    table = {}
    for node in list(graph.nodes.values()):
        if node.op == "read" and kept.get(node["slot"], node["slot"]) != node["slot"]:
            table[node] = graph.add("read", type=node.type, known=2, slot=kept[node["slot"]])
    return table
