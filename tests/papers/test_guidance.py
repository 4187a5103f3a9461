"""Guided diffusion where everything is Gaussian: variances of samplers, and what they skip."""

from __future__ import annotations

import math

import pytest
import torch

import optc

PREDICTOR_CORRECTOR = """
rule tried(gamma = 3.0):
    input abar: model, next: model, delta: model
    cond = p -> sqrt(1 - abar) * p
    after = p -> sqrt(1 - next) * p
    null = p -> sqrt(1 - next) * p / (1 + next)
    w <- predictor_corrector_guidance(w, cond, after, null, abar, next, delta, gamma, 1)
"""


def variance_after(gamma: float, n: int, particles: int = 40_000) -> float:
    """Of N(0, 1), with N(0, 2) as the unconditional distribution, at n steps of 8 / n."""
    torch.manual_seed(0)
    dt = 8 / n
    w = torch.nn.Parameter(torch.randn(particles, dtype=torch.float64))
    w.grad = torch.zeros_like(w)
    opt = optc.loads(PREDICTOR_CORRECTOR)([w], gamma=gamma)
    for i in range(n - 1, -1, -1):
        at, next = math.exp(-2 * dt * (i + 1)), math.exp(-2 * dt * i)
        opt.supply(abar=at, next=next, delta=2 * dt if i else 0.0)
        opt.step()
    return float(w.detach().var())


@pytest.mark.parametrize(("gamma", "card"), [(3.0, 0.37841)])
def test_a_corrector_sharpens_as_the_stochastic_sampler_does(gamma: float, card: float) -> None:
    """The card's numbers at 500 steps, within Monte Carlo error (the limit is 31/80)."""
    assert variance_after(2 * gamma - 1, 500) == pytest.approx(card, rel=0.02)


def test_without_guidance_the_distribution_nearly_stays() -> None:
    """The last jump of the predictor shrinks it by the cosine of sqrt(2 dt), about."""
    last = math.exp(-2 * 8 / 200)
    assert variance_after(1.0, 200) == pytest.approx(last, rel=0.02)
