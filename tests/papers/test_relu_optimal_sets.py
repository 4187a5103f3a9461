"""Optimal sets of gated networks: the numbers of the paper's card."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import optc

RULE = """rule prune():
    lam = 0.05
    input X: model[samples, dims], y: model[samples], gates: model[neurons, dims]
    D = where(gates @ transpose(X) >= 0, 1, 0)
    fits = u -> D * sum(u * X, over = dims)
    cost = u -> (
        sum((sum(fits(u), over = neurons) - y)^2, over = samples) / 2
        + lam * sum(norm(u, over = dims), over = neurons)
    )
    active = u -> sum(where(norm(u, over = dims) > 1e-6, 1, 0), over = neurons)
    u = gated_group_lasso(X, y, gates; lam = lam, at_most = 100000, tol = 1e-13)
    few = optimal_neuron_prune(u, fits(u))
    metric cost = cost(u)
    metric neurons = active(u)
    metric length = sum(norm(u, over = dims), over = neurons)
    metric cost_of_few = cost(few)
    metric few = active(few)
    metric length_of_few = sum(norm(few, over = dims), over = neurons)
    w <- w - grad(w)
"""


def test_pruning_an_optimal_network_costs_nothing() -> None:
    rng = np.random.default_rng(0)
    given = {"X": rng.standard_normal((4, 2)), "y": rng.standard_normal(4)}
    given["gates"] = rng.standard_normal((8, 2))
    w = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    opt: Any = optc.loads(RULE)([w])
    opt.supply(**{k: torch.tensor(v) for k, v in given.items()})
    w.grad = torch.zeros_like(w)
    opt.step()
    found = {k: float(v) for k, v in opt.metrics.items()}
    assert found["neurons"] == 5
    assert found["cost"] == pytest.approx(0.24854172765912458, abs=1e-12)
    assert found["length"] == pytest.approx(4.621913938, abs=1e-6)
    assert found["few"] == 2
    assert found["cost_of_few"] == pytest.approx(found["cost"], abs=1e-9)
    assert found["length_of_few"] == pytest.approx(found["length"], abs=1e-6)
