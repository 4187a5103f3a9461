"""What a training problem is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor, nn

Batch = tuple[Tensor, ...]


class Problem(Protocol):
    """A model, its data and its loss. All of it follows from the seeds, and lives on the CPU."""

    name: str

    def model(self, seed: int) -> nn.Module:
        """A new model; the same seed gives the same numbers."""
        ...

    def batches(self, seed: int) -> Iterator[Batch]:
        """One epoch of batches, in an order drawn from the seed."""
        ...

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The scalar to be made small."""
        ...

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """How good the model is on data that it was not trained on; `loss` is always among it."""
        ...


def seeded(seed: int) -> torch.Generator:
    """A generator of its own, so that a problem never draws from the global one."""
    return torch.Generator().manual_seed(seed)


def device_of(model: nn.Module) -> torch.device:
    """Where the model lives."""
    return next(model.parameters()).device
