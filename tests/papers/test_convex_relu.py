"""Two-layer ReLU networks as convex programs: three solvers, one optimum."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import optc

HEAD = """
rule tried():
    input X: model[examples, features], D: model[examples, gates], y: model[examples]
    sign = grid(sides, 1, -1, 2)
    reach = u -> sum(X * u, over = features)
    size = u -> sum(norm(u, over = features), over = (sides, gates))
    fit = u -> sum((sum(sign * D * reach(u), over = (sides, gates)) - y)^2, over = examples) / 2
"""
ADMM = (
    HEAD
    + """    v = convex_relu_admm(X, D, y, rho = 0.1, beta = 0.1)
    metric objective = fit(v) + 0.1 * size(v)
    metric least = min((2 * D - 1) * reach(v), over = (examples, sides, gates))
    metric network = v
"""
)
PROXIMAL = (
    HEAD
    + """    state v = 0 * sign * sum(D, over = examples) * sum(X, over = examples)
    v <- convex_relu_program(v, X, D, y, lr = 0.006, beta = 0.1, cone = 5)
    metric objective = fit(v) + 0.1 * size(v)
"""
)
SAMPLED = """
rule tried():
    input X: model[examples, features], U: model[features, neurons], y: model[examples]
    state a = 0 * sum(U, over = features)
    a <- sampled_convex_program(a, X, U, y, lr = 0.003, beta = 0.1)
    fit = sum((max(X @ U, 0) @ a - y)^2, over = examples) / 2
    metric objective = fit + 0.1 * sum(abs(a), over = neurons)
"""
BEST = 0.12328789


def data() -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(0)
    X = rng.standard_normal((8, 2))
    patterns: list[np.ndarray] = []
    while len(patterns) < 6:
        p = (X @ rng.standard_normal(2) >= 0).astype(float)
        if not any((p == q).all() for q in patterns):
            patterns.append(p)
    y = np.maximum(X @ [1, -0.5], 0) - 0.5 * np.maximum(X @ [-0.3, 1], 0)
    U = rng.standard_normal((200, 2))
    U = U / np.linalg.norm(U, axis=1, keepdims=True)
    return {"X": X, "D": np.stack(patterns, 1), "y": y, "U": U.T}


def begun(text: str, **inputs: Any) -> Any:
    w = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    w.grad = torch.zeros_like(w)
    opt = optc.loads(text)([w])
    opt.supply(**{k: torch.tensor(v) for k, v in inputs.items()})
    return opt


def test_admm_has_the_cards_iterates_and_its_network_their_loss() -> None:
    d = data()
    opt = begun(ADMM, X=d["X"], D=d["D"], y=d["y"])
    for k in range(1, 601):
        opt.step()
        found = float(opt.metrics["objective"]), float(opt.metrics["least"])
        if k == 10:
            assert found == pytest.approx((0.15429668, -0.0533), abs=1e-4)
        if k == 100:
            assert found == pytest.approx((0.12284752, -5.0e-3), abs=1e-4)
    assert found[0] == pytest.approx(BEST, abs=1e-7)
    v = opt.metrics["network"]
    length = v.norm(dim=-1, keepdim=True).sqrt()
    hidden = torch.where(length > 0, v / length, 0)
    out = length[..., 0] * torch.tensor([[1.0], [-1.0]])
    X, y = torch.tensor(d["X"]), torch.tensor(d["y"])
    answer = ((X @ hidden.reshape(-1, 2).T).relu() * out.reshape(-1)).sum(1)
    decay = 0.05 * (hidden.square().sum() + out.square().sum())
    assert float((answer - y).square().sum() / 2 + decay) == pytest.approx(BEST, abs=1e-6)


def test_the_penalty_comes_near_and_sampling_stays_above() -> None:
    d = data()
    opt = begun(PROXIMAL, X=d["X"], D=d["D"], y=d["y"])
    other = begun(SAMPLED, X=d["X"], U=d["U"], y=d["y"])
    for _ in range(2000):
        opt.step()
    for _ in range(2000):
        other.step()
    assert float(opt.metrics["objective"]) == pytest.approx(BEST, abs=3e-3)
    assert BEST < float(other.metrics["objective"]) < BEST + 1e-3
