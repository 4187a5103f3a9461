"""What a rule is given: the bounds of options (a name, a test, how it reads), and the inputs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any


def _each(test: Callable[[Any], bool], count: int) -> Callable[[Any], bool]:
    return lambda v: isinstance(v, tuple) and len(v) == count and all(test(x) for x in v)


def _real(test: Callable[[float], bool]) -> Callable[[Any], bool]:
    return lambda v: isinstance(v, int | float) and not isinstance(v, bool) and test(v)


BOUNDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "real": (_real(lambda v: v == v), "a number"),
    "positive": (_real(lambda v: 0 < v), "positive"),
    "nonnegative": (_real(lambda v: 0 <= v), "zero or positive"),
    "finite": (_real(math.isfinite), "finite"),
    "unit": (_real(lambda v: 0 <= v < 1), "in [0, 1)"),
    "fraction": (_real(lambda v: 0 <= v <= 1), "in [0, 1]"),
    "unit_pair": (_each(_real(lambda v: 0 <= v < 1), 2), "a pair of numbers in [0, 1)"),
    "pair": (_each(_real(lambda v: v == v), 2), "a pair of numbers"),
    "integer": (_real(lambda v: math.isfinite(v) and v == int(v)), "an integer"),
    "count": (
        _real(lambda v: math.isfinite(v) and v == int(v) and v >= 1),
        "an integer of at least 1",
    ),
    "boolean": (lambda v: isinstance(v, bool), "true or false"),
    "function": (lambda v: False, "a function"),
    "bundle": (lambda v: False, "a bundle"),
}


def complaint(bound: str, value: Any) -> str:
    """What is wrong with a value under a bound, or ""."""
    if not bound or bound not in BOUNDS or bound in ("function", "bundle"):
        return ""
    test, reads = BOUNDS[bound]
    return "" if test(value) else f"must be {reads}, and it is {value!r}"


PLACES = 2**20
"""How many places an axis may have."""
TURNS = 10**6
"""How often a loop may turn."""
UNROLL_LIMIT = 32
"""Loops that turn no oftener are unrolled."""
COUNTS = {
    "size of an axis": (1, PLACES),
    "number of turns": (0, TURNS),
    "number of snapshots": (1, PLACES),
}


def whole(value: float, what: str) -> int:
    """A count that only a run knows."""
    least, most = COUNTS[what]
    if not (least <= value <= most and value == int(value)):
        raise ValueError(f"Invalid {what}: a whole number from {least} to {most}, not {value:g}")
    return int(value)


INPUTS = ("epoch", "progress", "new_epoch", "steps_per_epoch")
"""The inputs that every rule may read."""
