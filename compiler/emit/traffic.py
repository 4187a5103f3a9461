"""What the emitted code moves: bytes a parameter, counted from the phases themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..program import Compute, Loop, Plan


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
