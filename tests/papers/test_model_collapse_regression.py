"""The error of models fitted to models grows with the generations, and asks for a larger ridge."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import optc

EXAMPLE = Path(__file__).parents[2] / "examples" / "recursive_regression.opt"
RIDGE = """rule ridge(generations = 0.0):
    input s: model[modes]
    metric best = adaptive_ridge(
        s; samples = 100, noise = 0.5, size = 1, generations = generations, first_samples = 100,
        first_noise = 0.5)
    w <- 1 * w
"""


def errors(d: int, n: int, noise: float, generations: int, runs: int) -> np.ndarray:
    """The mean squared distance from the first weights, of norm 1, behind each generation."""
    total = np.zeros(generations)
    for seed in range(runs):
        first = torch.full((d,), d**-0.5, dtype=torch.float64)
        w = torch.nn.Parameter(first.clone())
        opt = optc.load(EXAMPLE)([w], n=n, noise=noise, seed=seed)
        for k in range(generations):
            opt.step()
            total[k] += float(((w.detach() - first) ** 2).sum())
    return total / runs


def test_noise_adds_up_over_the_generations() -> None:
    theory = 0.25 * 20 / (100 - 20 - 1) * np.arange(1, 4)
    assert errors(20, 100, 0.5, 3, 150) == pytest.approx(theory, rel=0.1)


def test_too_few_samples_collapse_without_noise() -> None:
    theory = 1 - (30 / 40) ** np.arange(1, 4)
    assert errors(40, 30, 0.0, 3, 100) == pytest.approx(theory, rel=0.1)


@pytest.mark.parametrize(("generations", "best"), [(0, 0.1249), (1, 0.2560), (5, 1.330)])
def test_the_best_ridge_grows_with_them(generations: int, best: float) -> None:
    draws = (np.random.default_rng(k).standard_normal((100, 50)) for k in range(200))
    spectra = np.sort(np.concatenate([np.linalg.eigvalsh(X.T @ X / 100) for X in draws]))
    s = spectra.reshape(50, 200).mean(1)  # of the typical draw
    w = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    opt = optc.loads(RIDGE)([w], generations=float(generations))
    opt.supply(s=torch.tensor(s))
    opt.step()
    found = opt.metrics["best"]
    assert float(found) == pytest.approx(best, rel=0.01)
