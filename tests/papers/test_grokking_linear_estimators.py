"""Linear regression groks: the accuracy on unseen data jumps late, its loss falls smoothly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import optc

EXAMPLE = Path(__file__).parents[2] / "examples" / "linear_grokking_example.opt"


def marchenko_pastur(ratio: float, n: int) -> torch.Tensor:
    """n quantiles of the eigenvalues of a sample covariance."""
    low, high = (1 - ratio**0.5) ** 2, (1 + ratio**0.5) ** 2
    turn = np.linspace(0, np.pi, 200001)
    nu = (low + high) / 2 - (high - low) / 2 * np.cos(turn)
    mass = np.cumsum(np.sin(turn) ** 2 / nu)
    return torch.tensor(np.interp((np.arange(n) + 0.5) / n, mass / mass[-1], nu))


@pytest.mark.parametrize(
    ("ratio", "reached", "held"), [(0.5, 717.7, 1147.5), (0.8, 1749.6, 6590.0)]
)
def test_the_gap_in_time(ratio: float, reached: float, held: float) -> None:
    n = 2000
    nu = marchenko_pastur(ratio, n)
    D = torch.nn.Parameter(torch.full((n,), n**-0.5, dtype=torch.float64))
    opt = optc.load(EXAMPLE)([D], lr=0.05, eps=1e-3, goal=0.95)
    opt.bind(objective={"train": lambda: (nu * D**2).sum(), "held": lambda: (D**2).sum()})
    losses = []
    for _ in range(int(held / 5 * 1.05)):
        opt.step()
        losses.append(float((D.detach() ** 2).sum()))
    assert float(opt.metrics["gap"]) == pytest.approx((held - reached) / 5, rel=0.06)
    assert all(b < a for a, b in zip(losses, losses[1:], strict=False))
