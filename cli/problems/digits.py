"""Handwritten digits: 1437 images of 8x8 to learn from, 360 to be tested on."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..terminal import UsageError
from .problem import Batch, Problem, device_of, seeded


class Digits:
    """scikit-learn's digits; two convolutions and two matrices, 38 thousand weights."""

    name = "digits"

    def __init__(self, batch_size: int = 64):
        self.batch_size = batch_size
        images, labels = _images()
        order = torch.randperm(len(labels), generator=seeded(0))
        cut = len(labels) * 4 // 5
        self.images, self.labels = images[order[:cut]], labels[order[:cut]]
        self.test = images[order[cut:]], labels[order[cut:]]

    def model(self, seed: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return nn.Sequential(
                nn.Conv2d(1, 16, 3, padding=1),
                nn.ReLU(),
                nn.Conv2d(16, 32, 3, stride=2, padding=1),
                nn.ReLU(),
                nn.Flatten(),
                nn.Linear(512, 64),
                nn.ReLU(),
                nn.Linear(64, 10),
            )

    def batches(self, seed: int) -> Iterator[Batch]:
        order = torch.randperm(len(self.labels), generator=seeded(seed))
        # The last batch, smaller than the others, is left out: it would be a different problem.
        for rows in order.split(self.batch_size)[: len(order) // self.batch_size]:
            yield self.images[rows], self.labels[rows]

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        images, labels = batch
        return functional.cross_entropy(model(images), labels)

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        images, labels = (part.to(device_of(model)) for part in self.test)
        with torch.no_grad():
            scores = model(images)
        right = (scores.argmax(1) == labels).double().mean()
        return {
            "loss": functional.cross_entropy(scores, labels).item(),
            "accuracy": right.item(),
        }


def _images() -> tuple[Tensor, Tensor]:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise UsageError("the digits come with scikit-learn: pip install scikit-learn") from error
    data = load_digits()
    images = torch.from_numpy(data.images).float().unsqueeze(1) / 8 - 1
    return images, torch.from_numpy(data.target).long()


def problem() -> Problem:
    return Digits()
