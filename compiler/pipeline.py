"""The passes, in order."""

from __future__ import annotations

from .ir import Graph


def run(graph: Graph, after: str = "") -> Graph:
    """The graph after all passes."""
    return graph
