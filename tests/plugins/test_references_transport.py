"""Distances between distributions, and projected gradients, against POT and pytorch_optimizer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import optc

DTYPE = torch.float64
BURES = """rule bures():
    input Y: model[dims, dims']
    loss factor: model[dims, rank]
    apart = p -> bures_wasserstein_loss(factor(p) @ transpose(factor(p)), Y; tau = 1e-9)
    metric distance = apart(w)
    w <- w - 0.05 * grad(apart, w)
"""
ORTHOGONAL = "rule r():\n    precondition perpgrad()\n    step 1\n"
SORTED = "rule r():\n    regularize wasserstein_init_reg(lam = 1)\n    step 0.5\n"


def covariance(rng: np.random.Generator, n: int) -> np.ndarray:
    a = rng.standard_normal((n, n))
    return a @ a.T + 0.1 * np.eye(n)


def test_the_bures_distance_is_pots() -> None:
    gaussian = pytest.importorskip("ot.gaussian", reason="POT is the reference")
    rng = np.random.default_rng(0)
    x, y = covariance(rng, 4), covariance(rng, 4)
    w = torch.nn.Parameter(torch.tensor(np.linalg.cholesky(x)))
    opt: Any = optc.loads(BURES)([w])
    opt.bind(factor=lambda: w)
    opt.supply(Y=torch.tensor(y))
    opt.step()
    theirs = gaussian.bures_distance(x, y) ** 2
    assert float(opt.metrics["distance"]) == pytest.approx(theirs, abs=1e-7)


def test_descent_on_it_keeps_the_largest_variance() -> None:
    w = torch.nn.Parameter(torch.tensor([[0.3], [0.4]], dtype=DTYPE))
    opt: Any = optc.loads(BURES)([w])
    opt.bind(factor=lambda: w)
    opt.supply(Y=torch.diag(torch.tensor([4.0, 1.0], dtype=DTYPE)))
    for _ in range(1500):
        opt.step()
    assert w.detach().flatten().tolist() == pytest.approx([2.0, 0.0], abs=2e-3)


def test_the_orthogonal_part_is_pytorch_optimizers() -> None:
    theirs = pytest.importorskip("pytorch_optimizer", reason="it has OrthoGrad")
    torch.manual_seed(0)
    start, g = torch.randn(4, 3, dtype=DTYPE), torch.randn(4, 3, dtype=DTYPE)
    a, b = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    a.grad, b.grad = g.clone(), g.clone()
    optc.loads(ORTHOGONAL)([a]).step()
    theirs.OrthoGrad(torch.optim.SGD([b], lr=1.0)).step()
    assert torch.allclose(a, b, atol=1e-9)


def test_weights_move_along_pots_optimal_plan() -> None:
    ot = pytest.importorskip("ot", reason="POT is the reference")
    torch.manual_seed(0)
    start, later = torch.randn(6, 2, dtype=DTYPE), torch.randn(6, 2, dtype=DTYPE)
    w = torch.nn.Parameter(start.clone())
    opt = optc.loads(SORTED)([w])
    w.grad = torch.zeros_like(w)
    opt.step()
    assert torch.equal(w.detach(), start)
    with torch.no_grad():
        w.copy_(later)
    opt.step()
    plan = torch.tensor(ot.emd_1d(later.flatten().numpy(), start.flatten().numpy()))
    goal = (12 * plan @ start.flatten()).reshape(6, 2)
    assert torch.allclose(w.detach(), later - (later - goal) / 12, atol=1e-12)
