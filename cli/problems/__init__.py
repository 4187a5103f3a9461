"""Small real trainings for `optc train`, `optc bench` and the tests; loading one loads torch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .problem import Problem

# What each is; the module of that name holds a `problem()` that builds it.
PROBLEMS = {
    "digits": "handwritten digits (8x8, scikit-learn), a small convolutional network",
    "chars": "the next character of Python's own documentation, a small transformer",
    "quadratic": "a noisy quadratic bowl, curvatures from 0.01 to 1 (a toy)",
    "rosenbrock": "the curved valley of Rosenbrock, no noise (a toy)",
}


def load(name: str) -> Problem:
    """The problem of that name."""
    problem: Problem = import_module(f".{name}", __name__).problem()
    return problem
