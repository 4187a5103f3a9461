"""Sums modulo p with wrong labels: some neurons generalize, others memorize, and can be told apart.

The card's small run: p = 47, 256 neurons, half of the pairs, 30 % of their labels drawn anew.
"""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import optc

EXAMPLE = Path(__file__).parents[2] / "examples" / "corrupted_modular_training.opt"
P, WIDTH, STEPS = 47, 256, 600


class Sums(torch.nn.Module):
    """All pairs and their sums, some labels wrong, and the network."""

    def __init__(self, first: Tensor, second: Tensor) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Parameter(first), torch.nn.Parameter(second)

    def forward(self, x: Tensor) -> Tensor:
        return (x @ self.first.T) ** 2 @ self.second.T


def hot(numbers: Tensor) -> Tensor:
    return torch.nn.functional.one_hot(numbers, P).float()


class Data:
    def __init__(self) -> None:
        self.make = torch.Generator().manual_seed(0)
        m, n = (t.reshape(-1) for t in torch.meshgrid(*[torch.arange(P)] * 2, indexing="ij"))
        order = torch.randperm(P * P, generator=self.make)
        half = P * P // 2
        self.x, self.truth = torch.cat([hot(m), hot(n)], 1), (m + n) % P
        self.train, self.unseen = order[:half], order[half:]
        self.labels = self.truth.clone()
        drawn = self.train[: int(0.3 * half)]
        self.labels[drawn] = torch.randint(P, drawn.shape, generator=self.make)
        self.wrong = drawn[self.labels[drawn] != self.truth[drawn]]

    def share(self, net: Sums, where: Tensor, labels: Tensor) -> float:
        with torch.no_grad():
            return float((net(self.x[where]).argmax(1) == labels[where]).float().mean())


def optimizer(net: Sums, data: Data, **options: Any) -> Any:
    x, y = data.x[data.train], hot(data.labels[data.train])
    opt = optc.load(EXAMPLE)(net.named_parameters(), **options)
    opt.bind(model=net, objective={"train": lambda: ((net(x) - y) ** 2).mean()})
    return opt


@pytest.fixture(scope="module")
def trained() -> tuple[Data, Sums, Any]:
    data = Data()
    scale = 0.5 / (2 * WIDTH) ** (1 / 3)
    first = scale * torch.randn(WIDTH, 2 * P, generator=data.make)
    net = Sums(first, scale * torch.randn(P, WIDTH, generator=data.make))
    opt = optimizer(net, data)
    for _ in range(STEPS):
        opt.step()
    return data, net, opt


def cut(data: Data, net: Sums, share: float, highest: bool) -> tuple[float, float, float]:
    """After a cut: right on unseen pairs; of the wrong labels, those still given, and the truth."""
    net = deepcopy(net)
    optimizer(net, data, lr=0.0, share=share, highest=highest).step()
    gone = (net.first == 0).all(1)
    assert int(gone.sum()) == share * WIDTH and torch.equal(gone, (net.second == 0).all(0))
    return (
        data.share(net, data.unseen, data.truth),
        data.share(net, data.wrong, data.labels),
        data.share(net, data.wrong, data.truth),
    )


def test_it_memorizes_and_generalizes_at_once(trained: tuple[Data, Sums, Any]) -> None:
    data, net, opt = trained
    assert data.share(net, data.train, data.labels) == 1.0
    assert data.share(net, data.unseen, data.truth) > 0.8
    ipr = opt.metrics["ipr"]
    assert ipr.shape == (WIDTH,) and 0.3 < float(ipr.mean()) < 0.4


def test_what_is_memorized_is_cut_with_the_lowest(trained: tuple[Data, Sums, Any]) -> None:
    data, net, _ = trained
    before = data.share(net, data.unseen, data.truth)
    unseen, given, truth = cut(data, net, 0.5, highest=False)
    assert unseen > before and given < 0.6 and truth > 0.35


def test_what_is_general_is_cut_with_the_highest(trained: tuple[Data, Sums, Any]) -> None:
    data, net, _ = trained
    unseen, given, truth = cut(data, net, 0.5, highest=True)
    assert unseen < 0.1 and given > 0.95 and truth < 0.02
