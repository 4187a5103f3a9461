"""What a rule may ask of a training loop: values, gradients, derivatives, batches, functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .points import Answer, Params, Points


@dataclass(frozen=True)
class Question:
    """What is asked of an objective at a point: its value, its gradients by targets.

    Along an axis `data` is a list of batches, and the points of the targets in `over` have it too.
    """

    objective: str
    points: Points
    data: Any
    value: bool = False
    gradients: tuple[str, ...] = ()
    over: tuple[str, ...] = ()

    @property
    def held(self) -> bool:
        """Whether it is asked where the parameters stand."""
        return all(p is None for p in self.points.values())


class Loop:
    """What a training loop can be asked for in a step; each level answers more than the one before.

    Values are detached and in the type that the loss has. A point is a list of tensors like the
    parameters of its target, or None where the parameters stand; gradients are None where absent.
    """

    level = ""
    first_value: Any = None
    """The value of the step's first evaluation, where there was one."""
    found_inf: Tensor | None = None
    """With a GradScaler: 1 where a gradient of this step was not finite."""
    turn: int = 0
    """The call that the step is: draws depend on it, so that a resumed run draws the same."""
    once: bool = False
    last: bool = False
    """Whether the step has one evaluation: its gradients need no copy."""
    again: bool = False
    """Whether a Hessian-vector product follows where a loss or a product is asked for."""

    def __init__(self, params: Params):
        self.params = params

    def missing(self, what: str) -> RuntimeError:
        """The error that says what to pass."""
        return RuntimeError(f"the rule needs {what}: {self.remedy()}")

    def remedy(self) -> str:
        return (
            "give the loss as a function of the batch, which only runs the model forward: "
            "optimizer.bind(model=model, objective=lambda batch: ...), then "
            "optimizer.step(batch=batch)"
        )

    def evaluate(self, asked: Question) -> tuple[Any, Answer]:
        """The value of an objective at a point, and its gradients by the targets asked for."""
        raise NotImplementedError

    def evaluate_many(self, asked: Question) -> tuple[Any, Answer]:
        """The same along an axis."""
        return along(asked, [self.evaluate(one) for one in places(asked)])

    def hvp(
        self, objective: str, points: Points, data: Any, wrt: str, of: str, vector: list[Any]
    ) -> list[Any]:
        """The derivative by `wrt` of the product of the gradient by `of` with a vector."""
        raise self.missing(f"Hessian-vector products of `{objective}`")

    def jvp(self, objective: str, points: Points, data: Any, wrt: str, vector: list[Any]) -> Tensor:
        """The derivative of an objective along a vector."""
        raise self.missing(f"the derivative of `{objective}` along a vector")

    def vjp(
        self, objective: str, points: Points, data: Any, wrt: str, weights: Tensor
    ) -> list[Any]:
        """The gradient of an objective's values, each times its weight."""
        raise self.missing(f"the transposed derivative of `{objective}`")

    def call(self, name: str, arguments: list[Any]) -> Any:
        """A function that the user supplies under this name."""
        raise self.missing(f"the function `{name}`")

    def data(self, op: str, arguments: list[Any], attributes: dict[str, Any]) -> Any:
        """A batch drawn, or made of another one."""
        raise self.missing(f"data of its own (`{op}`)")

    def finish(self) -> None:
        """The step ends: nothing of it stays."""


def along(asked: Question, answers: list[tuple[Any, Answer]]) -> tuple[Any, Answer]:
    """The answers at the places of an axis as one."""
    values = torch.stack([a[0] for a in answers]) if asked.value else None
    columns = {t: zip(*(a[1][t] for a in answers), strict=True) for t in asked.gradients}
    return values, {t: [stack(g) for g in gs] for t, gs in columns.items()}


def places(asked: Question) -> list[Question]:
    """What is asked at each place of an axis."""
    points, data, over = asked.points, asked.data, asked.over
    mapped: list[list[Any]] = [points[t] for t in over]  # type: ignore[misc]
    sizes = [len(x) for p in mapped for x in p if x is not None][:1]
    count = sizes[0] if sizes else len(data)
    batches = data if isinstance(data, list) else [data] * count
    at = [
        {
            t: [None if x is None else x[k] for x in p] if t in over and p is not None else p
            for t, p in points.items()
        }
        for k in range(count)
    ]
    return [replace(asked, points=at[k], data=batches[k], over=()) for k in range(count)]


def stack(tensors: Sequence[Any]) -> Any:
    """One tensor of those at all places; None is zero, and absent where it is so at each."""
    there = next((t for t in tensors if t is not None), None)
    if there is None:
        return None
    return torch.stack([torch.zeros_like(there) if t is None else t for t in tensors])
