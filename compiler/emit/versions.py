"""Who reads and who holds the version of a slot that a step began with.

A matrix phase may give a view of what it reads, a route and a loop what they were given: such a
value is the old version itself, in the same memory.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..program import Compute, Evaluate, Loop, Plan, Rest, Route


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


def aliases(phases: Iterable[Any]) -> dict[str, set[str]]:
    """The slots, as they are read, in whose memory a value may lie."""
    found: dict[str, set[str]] = {}
    for phase in phases:
        if not isinstance(phase, Loop | Route) and getattr(phase, "mode", "") != "torch":
            continue
        lies = within(reads(phase), found)
        kept = {o.value for o in getattr(phase, "outputs", ()) if getattr(o, "combine", "")}
        if lies:
            found.update(dict.fromkeys(gives(phase) - kept, lies))
    return found


def within(names: Iterable[str], known: dict[str, set[str]]) -> set[str]:
    """The slots in whose memory any of the values may lie; `known` is what `aliases` found."""
    return {s for x in names for s in ({x} if x.startswith("slot:") else known.get(x, ()))}


def last_reader(phases: list[Any], slot: str) -> int:
    """The last phase that reads a slot's old version; a rest reads what is not written yet."""
    known = aliases(phases)
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
