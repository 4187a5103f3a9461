"""What the emitted code moves: bytes a parameter, counted from the phases themselves."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from ..program import Compute, Loop, Plan, Program


@dataclass(frozen=True)
class Traffic:
    """Reads and writes of whole columns in one step, by phase; `size` bytes an element."""

    phases: tuple[tuple[str, int, int], ...]
    size: int

    @property
    def bytes(self) -> int:
        return self.size * sum(reads + writes for _, reads, writes in self.phases)


def traffic(plan: Plan, domain: str = "w", size: int = 4) -> Traffic:
    """Columns that the element-wise phases over a domain read and write.

    Slots that wait for the end of the step are read and written once more.
    """
    rows = [
        _phase(p) for p in _all(plan.phases) if isinstance(p, Compute) and _within(p.space, domain)
    ]
    late = [s for s, v in plan.deferred.items() if plan.reaches.get(v) == "element"]
    rows += [(f"commit {slot}", 1, 1) for slot in late]
    return Traffic(tuple(rows), size)


def by_leaf(program: Program, plan: Plan, size: int = 4) -> dict[str, int]:
    """What a step moves for a cell of each domain that no block divides further."""
    parents = {d.parent for d in program.domains.values()}
    return {
        leaf: traffic(_concerning(program, plan, leaf), leaf.partition("|")[0], size).bytes
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


def _all(phases: list[Any]) -> list[Any]:
    result = []
    for phase in phases:
        result.append(phase)
        if isinstance(phase, Loop):
            result += _all(phase.body)
    return result


def _phase(phase: Compute) -> tuple[str, int, int]:
    reads = sum(p.how == "cell" for p in phase.inputs)
    writes = sum(o.how == "cell" and not o.combine for o in phase.outputs)
    return phase.name, reads, writes
