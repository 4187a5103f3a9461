"""Factors with too many columns: 1 / T^2 for one, exponential for two, faster once balanced."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import optc

EXAMPLE = Path(__file__).parents[2] / "examples" / "gd_factorisation_rates.opt"
SYMMETRIC = "rule symmetric(lr = 0.1):\n    step lr\n"
N, K = 20, 6
M = torch.diag((torch.arange(N) < 2).double())


def asymmetric(alpha: float, steps: list[int], at: int = 0) -> list[float]:
    """The squared error after some steps."""
    rng = np.random.default_rng(0)
    F = torch.nn.Parameter(torch.tensor(alpha * rng.standard_normal((N, K))))
    G = torch.nn.Parameter(torch.tensor(alpha / 3 * rng.standard_normal((N, K))))
    opt = optc.load(EXAMPLE)([("F", F), ("G", G)], at=at)
    error = lambda: ((F @ G.T - M) ** 2).sum()  # noqa: E731
    opt.bind(objective={"main": lambda: error() / 2})
    found = []
    for step in range(1, steps[-1] + 1):
        opt.step()
        if step in steps:
            found.append(float(error().detach()))
    return found


def test_one_factor_converges_like_the_inverse_square() -> None:
    X = torch.nn.Parameter(torch.tensor(0.1 * np.random.default_rng(0).standard_normal((N, K))))
    opt, found = optc.loads(SYMMETRIC)([X]), []
    for step in range(1, 4001):
        E = (X @ X.T - M).detach()
        X.grad = E @ X.detach()
        opt.step()
        if step in (1000, 2000, 4000):
            found.append(float((E**2).sum()))
    assert found[0] == pytest.approx(9.4e-5, rel=0.1)
    assert all(3.7 < a / b < 4.2 for a, b in zip(found, found[1:], strict=False))


def test_two_factors_converge_exponentially_and_faster_from_a_larger_start() -> None:
    small, large = asymmetric(0.1, [200, 400, 800]), asymmetric(0.2, [200, 400])
    assert small[0] / small[1] > 8 and small[1] / small[2] > 30
    assert all(b < a / 100 for a, b in zip(small, large, strict=False))


def test_balancing_keeps_the_product_and_makes_the_rate_independent_of_the_start() -> None:
    before, after = asymmetric(0.1, [100]), asymmetric(0.1, [100], at=100)
    assert after == pytest.approx(before, abs=1e-12)
    for alpha in (0.1, 0.2):
        (plain,), (balanced, late) = asymmetric(alpha, [200]), asymmetric(alpha, [200, 400], at=100)
        assert balanced < 1e-11 and balanced < plain / 1e4 and late < 1e-25
