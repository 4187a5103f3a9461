"""Who reads and who holds the version of a slot that a step began with.

A matrix phase may give a view of what it reads, a route and a loop what they were given: such a
value is the old version itself, in the same memory.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import fx

from .. import cells, matrices
from ..program import Compute, Evaluate, Loop, Plan, Rest, Route
from .sides import chosen_by

FRESH = {
    *(operator.add, operator.sub, operator.mul, operator.truediv, operator.mod, operator.neg),
    *(cells.ratio, cells.maximum, cells.minimum, cells.contract, cells.eye, cells.put),
    *(matrices.matmul, matrices.matvec, matrices.add_product, matrices.gram, matrices.add_gram),
    *(matrices.solve, matrices.solve_triangular, matrices.polar, matrices.sqrtm),
    *(matrices.decompose, matrices.factors),
    *(torch.where, torch.sqrt, torch.triu, torch.linalg.cholesky, torch.linalg.inv),
}
"""What always gives memory of its own; what isn't named here may give a view."""

Lies = Mapping[str, bool]
"""The slots, as they are read, in whose memory a value may lie, and whether it then is what lies
there as it is: not a view."""


def reads(phase: Any) -> set[str]:
    """The values that a phase reads."""
    if isinstance(phase, Compute):
        return {p.source for p in phase.inputs if p.how not in ("host", "like", "draw")}
    if isinstance(phase, Evaluate):
        held = {f"slot:{t}" for t in phase.points}
        held |= {phase.when[0]} if phase.when is not None else set()
        return held | set(phase.points.values()) | {r.vector for r in phase.reads} | {phase.data}
    if isinstance(phase, Loop):
        inner = {x for p in phase.body for x in reads(p)} | {phase.until}
        return inner | {a for a, _ in phase.carried} | set(phase.outputs)
    if isinstance(phase, Rest):
        return {x for part in phase.parts for x in reads(part.phase)}
    return set(phase.inputs)


def gives(phase: Any) -> set[str]:
    """The values that a phase makes."""
    if isinstance(phase, Compute):
        return {o.value for o in phase.outputs}
    if isinstance(phase, Evaluate):
        return {r.value for r in phase.reads}
    if isinstance(phase, Loop):
        return {x for x in phase.results if x}
    if isinstance(phase, Rest):
        return {part.phase.outputs[0].value for part in phase.parts}
    return {phase.output}


def touches(read: str, slot: str) -> bool:
    """Whether a value that is read holds cells of a slot (or of a routed part of it)."""
    if not read.startswith("slot:"):
        return False
    (a, _, one), (b, _, two) = read[5:].partition("@"), slot.partition("@")
    within = (
        not one or not two or one == two or one.startswith(two + "|") or two.startswith(one + "|")
    )
    return a == b and within


def aliases(phases: Iterable[Any]) -> dict[str, Lies]:
    """Where the values of the phases may lie."""
    found: dict[str, Lies] = {}
    for phase in phases:
        if getattr(phase, "mode", "") == "torch":
            found.update(_outputs(phase, found))
        elif isinstance(phase, Loop | Route):
            lies = within(reads(phase), found)
            found.update(dict.fromkeys(gives(phase), dict.fromkeys(lies, False)))
    return {value: lies for value, lies in found.items() if lies}


def within(names: Iterable[str], known: Mapping[str, Lies]) -> Lies:
    """The slots in whose memory any of the values may lie; `known` is what `aliases` found."""
    return _any({x: True} if x.startswith("slot:") else known.get(x, {}) for x in names)


def _any(several: Iterable[Lies]) -> Lies:
    """Where a value may lie that is one of several: as it is there only if each of them is."""
    found: dict[str, bool] = {}
    for lies in several:
        for slot, whole in lies.items():
            found[slot] = whole and found.get(slot, True)
    return found


def _outputs(phase: Compute, known: Mapping[str, Lies]) -> dict[str, Lies]:
    """Where the outputs of a matrix phase may lie, whichever of its sides is taken."""
    assert isinstance(phase.module, fx.GraphModule)
    lies = _nodes(phase.module.graph, phase, known)
    results: Any = phase.module.graph.output_node().args[0]
    pairs = zip(phase.outputs, results, strict=True)
    return {o.value: {} if o.combine else lies.get(x, {}) for o, x in pairs}


def _nodes(graph: fx.Graph, phase: Compute, known: Mapping[str, Lies]) -> dict[fx.Node, Lies]:
    """The same of the nodes of a graph."""
    ports, lies = iter(phase.inputs), dict[fx.Node, Lies]()
    holders = [n for n in graph.nodes if n.op == "placeholder"]
    choices = {x for at in phase.tests for x in chosen_by(holders[at])}
    for node in graph.nodes:
        if node.op == "placeholder":
            port = next(ports)
            lies[node] = {} if port.how in ("host", "like") else within([port.source], known)
        elif node in choices:
            lies[node] = _any(lies.get(x, {}) for x in node.args[1:])
        elif node.op == "call_function" and node.target not in FRESH:
            inner = {s for x in node.all_input_nodes for s in lies.get(x, ())}
            lies[node] = dict.fromkeys(inner, False)
    return lies


def lent(plan: Plan) -> frozenset[str]:
    """The slots whose new value may lie in the memory of an old one, but for what stays there."""
    known = aliases(plan.phases)
    return frozenset(
        s
        for s, value in plan.deferred.items()
        if any(not whole or held != f"slot:{s}" for held, whole in within([value], known).items())
    )


def last_reader(phases: list[Any], slot: str, known: Mapping[str, Lies]) -> int:
    """The last phase that reads a slot's old version; a rest reads what is not written yet."""
    return max(
        (
            i
            for i, p in enumerate(phases)
            if not isinstance(p, Rest) and any(touches(r, slot) for r in within(reads(p), known))
        ),
        default=-1,
    )


def idle(plan: Plan) -> frozenset[int]:
    """The phases that write what a step that is taken back does not, or read what these give."""
    made: set[str] = set()
    found = set()
    for at, phase in enumerate(plan.phases):
        if getattr(phase, "in_place", set()) - plan.always or reads(phase) & made:
            made |= gives(phase)
            found.add(at)
    return frozenset(found)


def late(plan: Plan) -> bool:
    """Whether a step that is taken back needs what its idle phases give.

    A GradScaler may take a step back that has no outcome of its own.
    """
    made = {x for at in plan.idle for x in gives(plan.phases[at])}
    always = {v for s, v in plan.deferred.items() if s in plan.always}
    own = any(reads(p) & made and getattr(p, "in_place", set()) & plan.always for p in plan.phases)
    return own or bool(made & (always | set(plan.metrics.values())))
