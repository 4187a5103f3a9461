"""Evaluations whose graph serves again: a Hessian-vector product at the same point follows.

Equal arguments are one evaluation, so a gradient and the products at its point share a forward
pass and the graph of the gradient; each product is one backward pass through it.
"""

from __future__ import annotations

from collections.abc import Iterable, Set
from typing import Any

from ..program import Evaluate, Loop
from .versions import gives

Place = tuple[Any, ...]
"""An objective, its point and its data, by the names of the values."""


def mark_again(phases: Iterable[Any], after: Set[Place] = frozenset()) -> None:
    """Mark the evaluations among the phases; products at the places `after` are asked for later.

    What is asked only under a condition of the device is not counted on.
    """
    coming = set(after)
    for phase in reversed(list(phases)):
        if isinstance(phase, Evaluate) and not phase.axes:
            phase.again = _place(phase) in coming
        coming |= _products([phase])
        if isinstance(phase, Loop):
            mark_again(phase.body, coming)


def _products(phases: Iterable[Any]) -> set[Place]:
    """Where Hessian-vector products are asked for; of a loop, what is the same in all turns."""
    found = set()
    for phase in phases:
        if isinstance(phase, Loop):
            found |= {p for p in _products(phase.body) if not _varies(p, phase)}
        elif isinstance(phase, Evaluate) and phase.reads[0].what == "hvp":
            found |= set() if phase.axes or phase.when else {_place(phase)}
    return found


def _place(phase: Evaluate) -> Place:
    return phase.objective, tuple(phase.points.items()), phase.data


def _varies(place: Place, loop: Loop) -> bool:
    _, points, data = place
    made = {x for p in loop.body for x in gives(p)} | {p for _, p in loop.carried} | {loop.index}
    return data in made or any(value in made for _, value in points)
