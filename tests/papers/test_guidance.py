"""Guided diffusion where everything is Gaussian: variances of samplers, and what they skip."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
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


ADAPTIVE = """
rule adaptive(GAMMA):
    input at: model, next: model, u: element
    combine adaptive_guidance(u, scale = 3, gamma_bar = gamma) as guide
    metric off = guide.off
    w <- next * (w - sqrt(1 - at^2) * d) / at + sqrt(1 - next^2) * d
"""


@pytest.mark.parametrize(("seed", "change"), [(0, 5.0e-4), (1, 1.1e-3), (2, 2.1e-3)])
def test_guidance_stops_where_predictions_agree(seed: int, change: float) -> None:
    """20 steps of the card's mixture: 22 evaluations in place of 40, and nearly the same sample."""
    levels = torch.linspace(1.35, 0.02, 21, dtype=torch.float64).cos()
    start = torch.tensor(np.random.default_rng(seed).standard_normal((1, 8)))
    ends, evaluations = [], []
    for gamma in (0.991, 2.0):
        w = torch.nn.Parameter(start.clone())
        opt = optc.loads(ADAPTIVE.replace("GAMMA", f"gamma = {gamma}"))([w])
        asked, off = 0, False
        for at, next in zip(levels[:-1], levels[1:], strict=True):
            w.grad = noise(w.detach(), at, True)
            u = torch.full_like(w, float("nan")) if off else noise(w.detach(), at, False)
            asked += 1 if off else 2
            opt.supply(at=at, next=next, u=[u.detach()])
            opt.step()
            off = bool(opt.metrics["off"] > 0)
        ends.append(w.detach().clone())
        evaluations.append(asked)
    assert evaluations == [22, 40]
    assert float((ends[0] - ends[1]).abs().max()) == pytest.approx(change, rel=0.05)


LINEAR = """
rule linear():
    input u: element, a: model[window], b: model[window], skip: model
    combine linear_ag(u, a, b, skip; scale = 0, n = 4)
    metric off = sum((d - u)^2, over = model)
    w <- w * 1
"""


def test_an_unconditional_prediction_is_linear_in_those_before() -> None:
    """Fitted at step 3 on 200 guided trajectories of the card's mixture, tried on 50 others.

    Both shares hang on the few that start between the two modes; the card's are 0.9999999, 0.99958.
    """
    levels = torch.linspace(1.35, 0.02, 21, dtype=torch.float64).cos()
    x = torch.tensor(np.random.default_rng(3).standard_normal((250, 8)))
    c, u = [], []
    for at, next in zip(levels[:4], levels[1:5], strict=True):
        c.append(noise(x, at, True))
        u.append(noise(x, at, False))
        e = u[-1] + 3 * (c[-1] - u[-1])
        x = next * (x - (1 - at**2).sqrt() * e) / at + (1 - next**2).sqrt() * e
    columns = torch.stack([*c[::-1], *u[2::-1]], -1)
    # the predictions of one Gaussian lie in two dimensions: what rounding adds is no third
    before, wanted = columns[:200].flatten(0, 1), u[3][:200].flatten()
    fitted = torch.linalg.lstsq(before, wanted, rcond=1e-10, driver="gelsd").solution
    a, b = fitted[:4], torch.cat([fitted[4:], torch.zeros(1, dtype=torch.float64)])
    w = torch.nn.Parameter(torch.zeros(50, 8, dtype=torch.float64))
    opt = optc.loads(LINEAR)([w])
    for k in range(4):
        w.grad = c[k][200:].clone()
        opt.supply(u=[u[k][200:]], a=a, b=b, skip=float(k == 3))
        opt.step()
    unseen = u[3][200:]
    whole = float(((unseen - unseen.mean()) ** 2).sum())
    left = 1 - float(opt.metrics["off"]) / whole
    again = 1 - float(((unseen - u[2][200:]) ** 2).sum()) / whole
    assert 1 - left < 2e-7
    assert again == pytest.approx(0.99958, abs=1e-4)
