"""The complexity of a network of layers A relu(W z + b): weight decay lowers it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import pad

import optc

RULE = """rule watched(lr = 0.05, decay: nonnegative = 0.0):
    input A: model[layers, outs, units], W: model[layers, units, dims], b: model[layers, units]
    input widths: model[layers]
    monitor f1_complexity(A, W, b, widths) as complexity
    step lr
    w <- (1 - decay) * w
"""


def filled(x: Tensor, *size: int) -> Tensor:
    """A tensor with zeros behind, up to a size that is given from the last dimension on."""
    return pad(x, [a for n, m in zip(size, reversed(x.shape), strict=True) for a in (0, n - m)])


class Network(nn.Module):
    """From 3 to 2 to 1 numbers, over 8 and 6 units."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.ModuleList([nn.Linear(3, 8), nn.Linear(2, 6)]).double()
        self.outer = nn.ModuleList([nn.Linear(8, 2, False), nn.Linear(6, 1, False)]).double()

    def forward(self, z: Tensor) -> Tensor:
        for inner, outer in zip(self.inner, self.outer, strict=True):
            z = outer(torch.relu(inner(z)))
        return z[:, 0]

    def stacked(self) -> dict[str, Tensor]:
        """Both layers at the size of the larger, filled up with zeros."""
        return {
            "A": torch.stack([filled(x.weight.detach(), 8, 2) for x in self.outer]),
            "W": torch.stack([filled(x.weight.detach(), 3, 8) for x in self.inner]),
            "b": torch.stack([filled(x.bias.detach(), 8) for x in self.inner]),
            "widths": torch.tensor([5.0, 3.0], dtype=torch.float64),
        }

    def complexity(self) -> float:
        """The same of the layers as they are."""
        slopes, shares = [], []
        for inner, outer in zip(self.inner, self.outer, strict=True):
            a, w, b = outer.weight.detach(), inner.weight.detach(), inner.bias.detach()
            f1 = float((a.norm(dim=0) * (w.square().sum(1) + b**2).sqrt()).sum())
            slopes.append(float(torch.linalg.matrix_norm(a, 2) * torch.linalg.matrix_norm(w, 2)))
            shares.append(f1 / slopes[-1] * math.sqrt(w.shape[1] + a.shape[0]))
        return math.prod(slopes) * sum(shares)


def trained(decay: float, steps: int = 300) -> float:
    model = Network()
    x = torch.randn(32, 3, generator=torch.Generator().manual_seed(1)).double()
    y = torch.sin(x.sum(1))
    opt = optc.loads(RULE)(model.named_parameters(), decay=decay)
    for _ in range(steps):
        opt.zero_grad()
        (model(x) - y).square().mean().backward()
        opt.supply(**model.stacked())
        expected = model.complexity()
        opt.step()
        assert float(opt.metrics["complexity"]) == pytest.approx(expected, rel=1e-10)
    return model.complexity()


def test_weight_decay_lowers_it() -> None:
    assert trained(2e-3) < 0.8 * trained(0.0)
