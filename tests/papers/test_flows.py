"""Closed forms of papers: kernels of critics, spectra of descent, thresholds of stability."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import optc

EXACT = torch.float64
FAKE = torch.tensor([[0.0, 0.0], [1.0, 0.5]], dtype=EXACT)
REAL = torch.tensor([[2.0, 0.0], [2.0, 1.0], [3.0, 1.0]], dtype=EXACT)
FLOW = """function of_matrix(x: tensor[rows, cols]):
    return x

rule flow():
    input side: model[points]
    w <- w - 0.5 * back(of_matrix(ntk_gan_flow(matrix(w), side)))
"""


def found(text: str, at: Tensor, steps: int = 1, **given: Any) -> tuple[Tensor, Any]:
    """The point after some steps of a rule without a loss, and the rule's metrics."""
    w = nn.Parameter(at.clone())
    w.grad = torch.zeros_like(w)
    opt = optc.loads(text)([w])
    opt.supply(**{k: torch.as_tensor(v, dtype=EXACT) for k, v in given.items()})
    for _ in range(steps):
        opt.step()
    return w.detach(), opt.metrics


def discrepancy(fake: Tensor) -> float:
    k = lambda a, b: torch.exp(-0.5 * torch.cdist(a, b) ** 2).mean()  # noqa: E731
    return float(k(fake, fake) + k(REAL, REAL) - 2 * k(fake, REAL))


@pytest.mark.parametrize(
    ("steps", "left"), [(0, 0.980913), (1, 0.8457), (2, 0.7195), (10, 0.3554), (50, 0.04604)]
)
def test_particles_flow_to_the_data(steps: int, left: float) -> None:
    """The squared kernel discrepancy; real points get no gradient."""
    start = torch.cat([FAKE, REAL])
    end, _ = found(FLOW, start, steps, side=[-1.0, -1.0, 1.0, 1.0, 1.0])
    assert torch.equal(end[2:], REAL)
    assert discrepancy(end[:2]) == pytest.approx(left, abs=6e-5)


def test_descent_on_a_kernel_is_its_profile() -> None:
    numbers = np.random.default_rng(0)
    X = torch.from_numpy(numbers.standard_normal((20, 50)))
    y = torch.from_numpy(numbers.standard_normal(20))
    K = X @ X.T / 50
    f = torch.zeros(20, dtype=EXACT)
    for _ in range(37):
        f = f - 0.3 * K @ (f - y)
    text = """rule r():
    input K: model[examples, examples'], y: model[examples]
    metric found = spectral_profile_fit(K, y, lr = 0.3, steps = 37)
    w <- w * 1
"""
    _, metrics = found(text, torch.zeros(1, dtype=EXACT), K=K, y=y)
    torch.testing.assert_close(metrics["found"], f, rtol=0, atol=1e-12)


LOSS = """rule r():
    input h: model[modes], energy: model[modes], noise: model
    metric found = spectral_profile_loss(h, energy; noise = 0.0) + noise * sum(h^2, over = modes)
    w <- w * 1
"""


@pytest.mark.parametrize(
    ("kappa", "n", "descent", "ridge"),
    [(1, 100, 0.1539, 0.1539), (6, 100, 0.01563, 0.0403), (6, 1000, 0.00279, 0.00786)],
)
def test_ridge_regression_saturates(kappa: int, n: int, descent: float, ridge: float) -> None:
    """The least expected loss of profiles of descent and of ridge regression, noise 1 / n."""
    mode = np.arange(1.0, 20001.0)
    e, energy = mode**-1.5, mode ** -(kappa + 1.0)

    def expected(h: Any) -> float:
        return float(((1 - h) ** 2 * energy).sum() + (h**2).sum() / n)

    times, ridges = np.geomspace(1, 1e6, 300).round(), np.geomspace(1e-6, 3, 300)
    turns = min((expected(1 - (1 - e) ** t), t) for t in times)[1]
    shrunk = min((expected(e / (e + r)), r) for r in ridges)[1]
    for h, least, bound in (
        (1 - (1 - e) ** turns, descent, 0.01),
        (e / (e + shrunk), ridge, 0.15 if kappa == 1 else 0.01),
    ):
        _, metrics = found(LOSS, torch.zeros(1, dtype=EXACT), h=h, energy=energy, noise=1 / n)
        assert float(metrics["found"]) == pytest.approx(least, rel=bound)


SPREAD = """rule r(lr = 1.0, batch = 1):
    loss outputs: model[examples]
    metric found = sgd_stability(jacobian(outputs, w); lr = lr, batch = batch)
    w <- w * 1
"""


@pytest.mark.parametrize(
    ("alike", "thresholds"),
    [(False, (3.333333, 5, 10, 20)), (True, (2, 2, 2, 2))],
)
def test_examples_that_curve_apart_are_left_at_smaller_batches(
    alike: bool, thresholds: tuple[float, ...]
) -> None:
    """Ten examples, one direction each or all of them the same: where the value is 1."""
    for batch, rate in zip((1, 2, 5, 10), thresholds, strict=True):
        w = nn.Parameter(torch.ones(1 if alike else 10, dtype=EXACT))
        opt = optc.loads(SPREAD)([w], lr=float(rate), batch=batch)
        opt.bind(outputs=lambda b, w=w: w * torch.ones(10, dtype=EXACT))
        opt.step()
        # for all alike the second test has a larger threshold, 3.33 .. ; the first one decides
        assert float(opt.metrics["found"]) == pytest.approx(1, abs=1e-6)
