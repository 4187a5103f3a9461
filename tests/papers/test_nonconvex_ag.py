"""Accelerated gradients with nonconvex penalties: the numbers of the paper's card."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import optc

TEXT = (Path(__file__).parents[2] / "examples" / "nonconvex_ag.opt").read_text(encoding="utf-8")
MCP_OF_2 = """bundle mcp2:
    slope = (x, lam) -> sign(x) * (max(lam - abs(x) / 2, 0) - lam)

"""
X = torch.tensor([[1, 0.5], [-0.5, 1], [0.3, -1.2], [1.5, 0.2]], dtype=torch.float64)
Y = torch.tensor([1.2, -0.4, 0.1, 1.9], dtype=torch.float64)


def iterates(text: str, steps: int, b: float, lam: float, x: torch.Tensor, y: torch.Tensor) -> list:
    w = torch.nn.Parameter(torch.zeros(x.shape[1], dtype=torch.float64))
    opt = optc.loads(text)([("w", w)], b=b, lam=lam)
    found = []
    for _ in range(steps):
        opt.zero_grad()
        (((x @ w - y) ** 2).sum() / (2 * len(y))).backward()
        opt.step()
        found.append(next(v for k, v in opt.state[w].items() if k.endswith("x_ag")).clone())
    return found


def curvature(x: torch.Tensor) -> float:
    return float(torch.linalg.eigvalsh(x.T @ x / len(x))[-1])


def test_the_first_iterates_and_the_limit_of_scad() -> None:
    b = 0.99 / max(curvature(X), 1 / 2.7)
    assert b == pytest.approx(1.10178555, abs=1e-8)
    found = iterates(TEXT, 400, b, 0.1, X, Y)
    card = {0: (1.06873198, 0.01652678), 1: (1.194531, 0.04442013), 2: (1.19376942, 0.05119141)}
    for at, values in card.items():
        assert found[at].tolist() == pytest.approx(values, abs=1e-8)
    assert found[-1].tolist() == pytest.approx((1.19300609, 0.04819794), abs=1e-8)


def test_the_limit_of_mcp() -> None:
    text = MCP_OF_2 + TEXT.replace("penalty = scad", "penalty = mcp2")
    found = iterates(text, 3000, 1.10178555, 0.1, X, Y)
    assert found[0].tolist() == pytest.approx((1.06873198, 0.01652678), abs=1e-7)
    assert found[-1].tolist() == pytest.approx((1.19521608, 0.18042872), abs=1e-7)


def test_it_needs_fewer_steps_than_the_proximal_gradient() -> None:
    rng = np.random.default_rng(0)
    z = rng.standard_normal((100, 50))
    for j in range(1, 50):
        z[:, j] = 0.9 * z[:, j - 1] + np.sqrt(1 - 0.81) * z[:, j]
    x = torch.tensor(z)
    y = x[:, ::10].sum(1) + torch.tensor(rng.standard_normal(100))
    b = 0.99 / max(curvature(x), 1 / 2.7)
    plain = TEXT.replace("(1 - a) * x_ag + a * x", "x_ag + 0 * x")

    def objective(w: torch.Tensor) -> float:
        a = w.abs()
        middle = (7.4 * 0.3 * a - a**2 - 0.09) / 5.4
        p = torch.where(a <= 0.3, 0.3 * a, torch.where(a <= 1.11, middle, torch.tensor(0.2115)))
        return float(((x @ w - y) ** 2).sum() / 200 + p.sum())

    fast, slow = iterates(TEXT, 200, b, 0.3, x, y), iterates(plain, 200, b, 0.3, x, y)
    limit = min(objective(fast[-1]), objective(slow[-1]))
    assert objective(fast[50]) - limit < 0.2 * (objective(slow[50]) - limit)
