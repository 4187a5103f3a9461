"""A denoiser's constant error grows along the chain; a discrepancy that a step can lower."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import optc

DEMO = Path(__file__).parents[2] / "examples" / "cumulative_error_demo.opt"


def divergences(delta: float) -> list[float]:
    abar = (1 - torch.linspace(1e-3, 0.2, 50, dtype=torch.float64)).cumprod(0).tolist()
    torch.manual_seed(0)
    start = (0.25 * abar[-1] + 1 - abar[-1]) ** 0.5
    x = torch.nn.Parameter(start * torch.randn(100_000, dtype=torch.float64))
    x.grad = torch.zeros_like(x)
    opt = optc.load(DEMO)([("x", x)], delta=delta)
    found = []
    for t in range(49, 0, -1):
        opt.supply(abar=abar[t], next=abar[t - 1])
        opt.step()
        found.append(float(opt.metrics["divergence"]))
    return found


def test_a_constant_error_adds_up() -> None:
    """0.10545 by the recurrence of the variance; the card's 200000 samples gave 0.1064."""
    wrong = divergences(0.1)
    assert wrong[48] == pytest.approx(0.10545, rel=0.02)
    assert wrong[48] > 100 * wrong[24]
    assert max(divergences(0.0)) < 1e-4
