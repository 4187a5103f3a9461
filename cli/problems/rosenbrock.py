"""Rosenbrock's valley: easy to enter, slow to follow; no data and no noise."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from .problem import Batch, Problem, seeded


class Rosenbrock:
    """f(x, y) = (1 - x)^2 + 100 * (y - x^2)^2, from near (-1.2, 1); the minimum is 0 at (1, 1)."""

    name = "rosenbrock"

    def __init__(self, steps: int = 200):
        self.steps = steps

    def model(self, seed: int) -> nn.Module:
        point = nn.Module()
        start = torch.tensor([-1.2, 1.0])
        point.w = nn.Parameter(start + 0.1 * torch.randn(2, generator=seeded(seed)))
        return point

    def batches(self, seed: int) -> Iterator[Batch]:
        return iter([()] * self.steps)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        x, y = model.get_parameter("w").unbind()
        height: Tensor = (1 - x) ** 2 + 100 * (y - x**2) ** 2
        return height

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        with torch.no_grad():
            loss = self.loss(model, ()).item()
            return {"loss": loss, "distance": (model.get_parameter("w") - 1).norm().item()}


def problem() -> Problem:
    return Rosenbrock()
