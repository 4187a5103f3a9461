"""Inverse optimal transport finds which features the score has."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import optc

RECOVERY = """
rule tried():
    input C: model[features, sources, sinks], seen: model[sources, sinks]
    state A = 0 * sum(C, over = (sources, sinks))
    A <- l1_iot_prox(A, C, seen, lam = 0.02, lr = 0.5, epsilon = 1, iters = 30)
    w <- w * 1
    metric found = A
"""
GAUSSIAN = """
rule tried():
    input x: model[sources], y: model[sinks], a: model[sources], b: model[sinks]
    plan = iot_plan(0.7 * x * y, a, b, epsilon = 1, iters = 60)
    w <- w * 1
    metric found = sum(plan * x * y, over = (sources, sinks))
"""


def found(text: str, steps: int, **inputs: Any) -> torch.Tensor:
    w = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    w.grad = torch.zeros_like(w)
    opt = optc.loads(text)([w])
    opt.supply(**{k: torch.tensor(v) for k, v in inputs.items()})
    for _ in range(steps):
        opt.step()
    value = opt.metrics["found"]
    assert isinstance(value, torch.Tensor)
    return value


def test_the_coupling_of_gaussians_has_the_known_correlation() -> None:
    x = np.linspace(-6, 6, 241)
    a = np.exp(-(x**2) / 2) / np.exp(-(x**2) / 2).sum()
    expected = (-1 + (1 + 16 * 0.7**2) ** 0.5) / (4 * 0.7)
    assert float(found(GAUSSIAN, 1, x=x, y=x, a=a, b=a)) == pytest.approx(expected, abs=1e-6)


def test_the_support_of_the_score_is_found() -> None:
    """The card's recipe and draws: two of nine features, and their shrunken weights."""
    rng = np.random.default_rng(0)
    X, Y = rng.standard_normal((60, 3)), rng.standard_normal((60, 3))
    K = np.exp(2 * (np.outer(X[:, 0], Y[:, 0]) + 0.8 * np.outer(X[:, 1], Y[:, 2])))
    v = np.ones(60)
    for _ in range(500):
        u = 1 / (K @ (v / 60))
        v = 1 / (K.T @ (u / 60))
    pi = u[:, None] * K * v / 3600
    drawn = rng.choice(3600, size=1500, p=pi.ravel() / pi.sum())
    seen = np.bincount(drawn, minlength=3600).reshape(60, 60) / 1500
    rows, cols = seen.sum(1) > 0, seen.sum(0) > 0
    C = np.stack([np.outer(X[rows, i], Y[cols, j]) for i in range(3) for j in range(3)])
    A = found(RECOVERY, 150, C=C, seen=seen[rows][:, cols])
    assert torch.nonzero(A).flatten().tolist() == [0, 5]
    assert A[[0, 5]].tolist() == pytest.approx([0.943, 0.724], abs=0.01)
