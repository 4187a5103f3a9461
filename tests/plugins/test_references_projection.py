"""Proximal points against a general solver."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import optc

RULE = "rule r():\n    step 0\n    project group_sparse_envelope_prox(k = {k}, lam = {lam})\n"


@pytest.mark.parametrize(("k", "lam"), [(1, 0.5), (2, 0.1), (3.5, 2.0)])
def test_the_envelopes_proximal_point_is_the_solvers(k: float, lam: float) -> None:
    """min over x of |x - t|^2 / 2 + lam S_k(x) is, in u, that of sum lam |t|^2 / (2 (lam + u))."""
    optimize = pytest.importorskip("scipy.optimize", reason="scipy is the reference")
    t = np.random.default_rng(3).standard_normal((6, 4))
    square = (t**2).sum(1)
    best = optimize.minimize(
        lambda u: (lam * square / (lam + u)).sum() / 2,
        np.full(6, k / 6),
        jac=lambda u: -lam * square / (lam + u) ** 2 / 2,
        bounds=[(0, 1)] * 6,
        constraints={"type": "ineq", "fun": lambda u: k - u.sum(), "jac": lambda u: -np.ones(6)},
        method="SLSQP",
        options={"ftol": 1e-15, "maxiter": 1000},
    )
    w = torch.nn.Parameter(torch.tensor(t))
    w.grad = torch.zeros_like(w)
    optc.loads(RULE.format(k=k, lam=lam))([w]).step()
    expected = t * (best.x / (lam + best.x))[:, None]
    np.testing.assert_allclose(w.detach().numpy(), expected, atol=2e-6)
