"""The passes in order. Each takes a legal graph and gives a legal graph of the same meaning."""

from __future__ import annotations

from collections.abc import Callable

from .ir import Graph
from .passes.fold import fold
from .passes.inline import inline
from .passes.prune import prune
from .passes.share import share
from .verify import verify

PIPELINE: tuple[tuple[str, Callable[[Graph], Graph]], ...] = (
    ("inline", inline),
    ("fold", fold),
    ("share", share),
    ("prune", prune),
)
"""What happens to every graph. Variants (`specialise`), the split into phases and their order
(`emit.lower`, `emit.plan`) follow for each variant."""

PASSES = tuple(name for name, _ in PIPELINE)


def run(graph: Graph, after: str = "") -> Graph:
    """The graph after all passes, or after the one that is named (`check`: before the first)."""
    verify(graph)
    if after == "check":
        return graph
    for name, change in PIPELINE:
        graph = change(graph)
        verify(graph, name)
        if name == after:
            break
    return graph
