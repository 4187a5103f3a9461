"""What a name may stand for besides a node: functions, bundles, axes, slots, mixing weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .source import Span
from .types import Axis


@dataclass(frozen=True)
class Function:
    """A value that can be called: a lambda, an objective, a gradient field, a primitive, a builtin.

    `apply(arguments, span)` gets the evaluated arguments. `what` is how errors call it.
    `objective` is set for the objectives that the training loop supplies.
    """

    what: str
    apply: Callable[[Arguments, Span], Any]
    objective: str = ""


@dataclass
class Arguments:
    """Evaluated arguments: positional ones and named ones, with the spans for errors."""

    positional: list[Any]
    named: dict[str, Any]
    spans: dict[int | str, Span] = field(default_factory=dict)
    wrt: str = ""


@dataclass(frozen=True)
class SlotRef:
    """A name that stands for the current version of a slot; `key` is its place in the flow."""

    key: str


@dataclass(frozen=True)
class Mixing:
    """Mixing weights among workers: `ring(1 / 3)`, `complete`, `star`, or a matrix."""

    weights: tuple[Any, ...]


@dataclass(frozen=True)
class AxisName:
    """A bare name of an axis: `over = losses`, `eye(losses)`."""

    axis: Axis


@dataclass(frozen=True)
class Members:
    """A bundle of functions, or the slots of an instance (`sgd.m`)."""

    what: str
    values: dict[str, Any]


POISON = object()
"""The value of a name whose statement was wrong: using it stops without a second message."""
