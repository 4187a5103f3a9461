"""Curvature from labels that a model draws itself, and Sophia with it on a small problem."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import optc

RULE = Path(__file__).parents[2] / "examples" / "sophia_g.opt"
EXACT = torch.float64
MEAN = """rule r():
    state total = zeros(w)
    total <- total + gauss_newton_bartlett(w, outputs, criterion)
    metric found = total
    w <- w * 1
"""


def each(z: Tensor, y: Tensor) -> Tensor:
    return cross_entropy(z, y.long(), reduction="none")


def test_the_estimate_is_the_gauss_newton_diagonal_in_the_mean() -> None:
    numbers = np.random.default_rng(0)
    X = torch.from_numpy(numbers.normal(size=(2, 2)))
    W = nn.Parameter(torch.from_numpy(numbers.normal(size=(3, 2))))
    opt = optc.loads(MEAN)([W])
    opt.bind(outputs=lambda: X @ W.T, criterion=each)
    steps = 500
    for _ in range(steps):
        opt.step()
    (total,) = opt.metrics["found"]
    exact = [[0.03344684, 0.00267093], [0.04761665, 0.00320164], [0.02728278, 0.00269141]]
    p = torch.softmax(X @ W.detach().T, 1)
    diagonal = ((p * (1 - p))[:, :, None] * X[:, None] ** 2).mean(0)
    torch.testing.assert_close(diagonal, torch.tensor(exact, dtype=EXACT), rtol=0, atol=5e-9)
    torch.testing.assert_close(total / steps, diagonal, rtol=0.2, atol=0)


@pytest.mark.parametrize("backend", ["eager", "auto"])
def test_sophia_learns_classes(backend: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(64, 4, dtype=EXACT)
    y = (x @ torch.randn(4, 3, dtype=EXACT)).argmax(1)
    net = nn.Linear(4, 3).to(EXACT)
    opt = optc.load(RULE)(net.parameters(), lr=0.05, weight_decay=0.0, backend=backend)
    opt.bind(
        model=net,
        objective=lambda: cross_entropy(net(x), y),
        outputs=lambda: net(x),
        criterion=each,
    )
    first = float(cross_entropy(net(x), y).detach())
    for _ in range(40):
        before = net.weight.detach().clone()
        opt.step()
        assert float((net.weight.detach() - before).abs().max()) <= 0.05 + 1e-12
    assert float(cross_entropy(net(x), y).detach()) < first / 3
