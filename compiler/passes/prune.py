"""State that nothing reads, except its own next version, is not kept."""

from __future__ import annotations

from dataclasses import replace

from ..ir import Graph, Node, postorder


def prune(graph: Graph) -> Graph:
    """The graph without slots that no target, metric, outcome or evaluation depends on."""
    needed = {s for s, spec in graph.slots.items() if spec.kind == "target"}
    reads = {s: _slots(n) for s, n in graph.writes.items()}
    endings = [n for e in graph.outcomes for n in (e.when, e.count) if n is not None]
    for node in (*endings, *graph.metrics.values(), *graph.evals.values()):
        needed |= _slots(node)
    # what evaluation holds lives in a slot even where nothing else reads it
    needed |= {s for s, n in graph.writes.items() if n in graph.evals.values()}
    todo = list(needed)
    while todo:
        slot = todo.pop()
        more = reads.get(slot, set()) - needed
        init = graph.slots[slot].init
        more |= (_slots(init) if init is not None else set()) - needed
        needed |= more
        todo += more
    return replace(
        graph,
        slots={s: spec for s, spec in graph.slots.items() if s in needed},
        writes={s: n for s, n in graph.writes.items() if s in needed},
        unread=(*graph.unread, *(s for s in graph.slots if s not in needed)),
    )


def _slots(node: Node) -> set[str]:
    return {n["slot"] for n in postorder([node]) if n.op == "read"}
