"""Random walks on the sphere: their means are those of Brownian motion and of Langevin dynamics."""

from __future__ import annotations

import math

import pytest
import torch

import optc

WALK = """rule walk(dt = 0.01, pull = 0.0):
    mu = grad(w)
    project geodesic_random_walk(drift = pull / 2 * sphere.tangent(w, mu), dt = dt)
"""
CHAINS = 4000


def walked(start: list[float], steps: int, pull: float) -> torch.Tensor:
    """The last coordinate of each chain; the gradient that the loop gives is the mean direction."""
    w = torch.nn.Parameter(torch.tensor(start, dtype=torch.float64).repeat(CHAINS, 1))
    w.grad = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64).repeat(CHAINS, 1)
    opt = optc.loads(WALK)([w], pull=pull)
    for _ in range(steps):
        opt.step()
    assert float((w.detach().norm(dim=1) - 1).abs().max()) < 1e-12
    return w.detach()[:, 2]


def test_brownian_motion_forgets_its_start() -> None:
    """E[x . x0] = exp(-1) at time 1; the mean of 4000 chains is off by about 0.008."""
    found = walked([0.0, 0.0, 1.0], 100, 0.0).mean()
    assert float(found) == pytest.approx(math.exp(-1), abs=0.035)


def test_langevin_dynamics_tend_to_von_mises_and_fisher() -> None:
    """With the pull kappa mu the mean of x . mu is coth(kappa) - 1 / kappa."""
    found = walked([1.0, 0.0, 0.0], 400, 4.0).mean()
    assert float(found) == pytest.approx(1 / math.tanh(4) - 1 / 4, abs=0.015)
