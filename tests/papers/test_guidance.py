"""Guided diffusion where everything is Gaussian: variances of samplers, and what they skip."""

from __future__ import annotations

import math
from pathlib import Path

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


NAS = Path(__file__).parents[2] / "examples" / "guidance_nas.opt"
LEVELS = torch.linspace(1.35, 0.02, 9, dtype=torch.float64).cos()


def noise(x: torch.Tensor, at: torch.Tensor, conditional: bool) -> torch.Tensor:
    """The noise in x at sqrt(abar) = at, of one Gaussian, or of two with opposite means."""
    mean, spread = 1.5 * at, 1 - at**2 + 0.09 * at**2
    side = 1.0 if conditional else torch.tanh((x * mean).sum(-1, keepdim=True) / spread)
    return (1 - at**2).sqrt() * (x - side * mean) / spread


def sampled(weights: torch.Tensor, x: torch.Tensor, scale: float = 3.0) -> torch.Tensor:
    """Deterministic steps with mixtures of the conditional and the guided prediction."""
    for k in range(len(LEVELS) - 1):
        at, next = LEVELS[k], LEVELS[k + 1]
        c, u = noise(x, at, True), noise(x, at, False)
        e = weights[k, 0] * c + weights[k, 1] * (u + scale * (c - u))
        x = next * (x - (1 - at**2).sqrt() * e) / at + (1 - next**2).sqrt() * e
    return x


def test_late_steps_need_no_guidance() -> None:
    torch.manual_seed(0)
    steps = len(LEVELS) - 1
    start = torch.randn(64, 8, dtype=torch.float64)
    guided = sampled(torch.tensor([[0.0, 1.0]]).double().repeat(steps, 1), start)
    logits = torch.nn.Parameter(torch.zeros(steps, 2, dtype=torch.float64))
    opt = optc.load(NAS)([logits], cost_weight=0.01)
    opt.supply(cost=[torch.tensor([1.0, 2.0]).double().repeat(steps, 1)])

    def distance() -> torch.Tensor:
        return (sampled(logits.softmax(1), start) - guided).square().sum(1).mean()

    opt.bind(distance=distance)
    before = float(distance().detach())
    for _ in range(60):
        opt.step()
    opt.eval()
    weights = logits.detach().softmax(1)
    assert weights.unique().tolist() == [0, 1]
    assert weights[0].tolist() == [0, 1] and weights[-1].tolist() == [1, 0]
    assert float(distance()) < before / 10
