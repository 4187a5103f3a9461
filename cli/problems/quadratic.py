"""A noisy quadratic bowl: the smallest problem on which rates, noise and curvature all matter."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from .problem import Batch, Problem, device_of, seeded


class Quadratic:
    """f(w) = sum(c * w^2) / 2 with curvatures c from 0.01 to 1; a batch moves the minimum a bit."""

    name = "quadratic"

    def __init__(self, size: int = 32, steps: int = 50, noise: float = 0.1):
        self.size, self.steps, self.noise = size, steps, noise
        self.curvature = torch.logspace(-2, 0, size)

    def model(self, seed: int) -> nn.Module:
        point = nn.Module()
        point.w = nn.Parameter(torch.randn(self.size, generator=seeded(seed)))
        return point

    def batches(self, seed: int) -> Iterator[Batch]:
        generator = seeded(seed)
        for _ in range(self.steps):
            yield (self.noise * torch.randn(self.size, generator=generator),)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        (shift,) = batch
        return (self.curvature.to(shift.device) * (model.get_parameter("w") - shift) ** 2).sum() / 2

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        with torch.no_grad():
            nowhere = torch.zeros(self.size, device=device_of(model))
            return {"loss": self.loss(model, (nowhere,)).item()}


def problem() -> Problem:
    return Quadratic()
