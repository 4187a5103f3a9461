"""What the emitted code moves: bytes a parameter, counted from the phases themselves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from ..program import Compute, Evaluate, Plan, Program, every_phase

Width = Callable[[str], float]
"""The bytes of one cell of a column, by its name."""


@dataclass(frozen=True)
class Traffic:
    """Bytes of a cell that each phase reads and writes."""

    phases: tuple[tuple[str, float, float], ...]

    @property
    def bytes(self) -> float:
        whole = sum(reads + writes for _, reads, writes in self.phases)
        return int(whole) if whole == int(whole) else whole


def traffic(plan: Plan, width: Width, domain: str = "w") -> Traffic:
    """What the element-wise phases over a domain read and write.

    Slots that wait for the end of the step are read and written once more.
    """
    rows = [
        _phase(p, width)
        for p in every_phase(plan.phases)
        if isinstance(p, Compute) and _within(p.space, domain)
    ]
    late = [(s, v) for s, v in plan.deferred.items() if plan.reaches.get(v) == "element"]
    rows += [(f"commit {slot}", width(value), width(f"slot:{slot}")) for slot, value in late]
    return Traffic(tuple(rows))


def widths(program: Program, plan: Plan, size: int = 4) -> Width:
    """Slots have the width of their format, gradients that of their target, what is rounded to
    bfloat16 two bytes, others `size`."""
    known = {f"slot:{p}": x.format.bytes(size) for p, x in program.slots.items()}
    for phase in every_phase(plan.phases):
        low = [o.value for o in phase.outputs if o.low] if isinstance(phase, Compute) else []
        known.update(dict.fromkeys(low, min(size, 2)))
        for read in phase.reads if isinstance(phase, Evaluate) else ():
            if read.what == "gradient":
                known[read.value] = program.slots[read.wrt].format.bytes(size)
    return lambda name: known.get(name.partition("@")[0], size)


def by_leaf(program: Program, plan: Plan, size: int = 4) -> dict[str, float]:
    """What a step moves for a cell of each domain that no block divides further."""
    parents, width = {d.parent for d in program.domains.values()}, widths(program, plan, size)
    return {
        leaf: traffic(_concerning(program, plan, leaf), width, leaf.partition("|")[0]).bytes
        for leaf in program.domains
        if leaf not in parents
    }


def _concerning(program: Program, plan: Plan, leaf: str) -> Plan:
    """The phases that run over the cells of a leaf."""

    def concerns(space: str) -> bool:
        return bool(space) and (leaf == space or leaf.startswith(f"{space}|"))

    return replace(
        plan,
        phases=[p for p in plan.phases if concerns(getattr(p, "space", "")) or hasattr(p, "body")],
        deferred={s: v for s, v in plan.deferred.items() if concerns(program.slots[s].domain)},
    )


def _within(space: str, domain: str) -> bool:
    return space == domain or space.startswith(domain + "|")


def _phase(phase: Compute, width: Width) -> tuple[str, float, float]:
    reads = sum(width(p.source) for p in phase.inputs if p.how == "cell")
    writes = sum(
        width(f"slot:{o.slot}" if o.slot else o.value)
        for o in phase.outputs
        if o.how == "cell" and not o.combine
    )
    return phase.name, reads, writes
