"""The step under a GradScaler: gradients arrive multiplied by its scale, and stay so in `.grad`.

Every gradient that the loop gives is multiplied by the inverse where it is read, so that clipping
and all else see what the loss without a scale would give, and no pass over the gradients is added.
"""

from __future__ import annotations

from dataclasses import replace

from ..ir import Graph, postorder, substitute
from ..program import UNSCALE
from ..types import MODEL


def unscale(graph: Graph) -> Graph:
    """The same rule over gradients that a scale multiplied."""
    begins = [slot.init for slot in graph.slots.values() if slot.init is not None]
    roots = [*graph.roots(), *begins]
    factor = graph.add("input", type=MODEL, known=2, name=UNSCALE)
    table = {
        n: graph.add("mul", n, factor, type=n.type) for n in postorder(roots) if n.op == "gradient"
    }
    done = substitute(graph, roots, table)
    slots = {
        path: slot if slot.init is None else replace(slot, init=done[slot.init])
        for path, slot in graph.slots.items()
    }
    return replace(graph.with_roots(lambda n: done[n]), slots=slots)
