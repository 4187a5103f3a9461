"""What can be read off a graph."""

from __future__ import annotations

from .ir import Graph, postorder


def loop_level(graph: Graph) -> str:
    """What the training loop must offer: gradients, a closure, or an objective."""
    nodes = list(postorder(graph.roots()))
    evaluations = [n for n in nodes if n.op == "evaluate"]
    data = any(n.op in ("draw", "split", "each", "subset") for n in nodes)
    curved = any(n.op in ("hvp", "jvp", "vjp", "oracle", "extern") for n in nodes)
    if data or curved or any(e["objective"] != "loss" for e in evaluations):
        return "objective"
    held = all(x.op == "read" for e in evaluations for x in e.inputs[: len(e["targets"])])
    valued = any(n.op == "value" for n in nodes)
    return "gradients" if held and not valued else "closure"
