"""Exact Gauss-Newton steps: the dense solve, a linear model in one step, a real classifier."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

import optc

EXAMPLE = optc.load(Path(__file__).parents[2] / "examples" / "egn.opt")
EXACT = torch.float64


def classifier(make: torch.Generator) -> tuple[nn.Module, Tensor, Tensor]:
    x = torch.randn(40, 4, generator=make, dtype=EXACT)
    y = (x[:, 0] > 0).long() + (x[:, 1] * x[:, 2] > 0.3).long()
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).to(EXACT)
    return net, x, y


def stepping(net: nn.Module, x: Tensor, y: Tensor, **options: Any) -> Any:
    opt = EXAMPLE(list(net.parameters()), classes=3, **options)
    opt.bind(
        model=net,
        objective={"main": lambda b: cross_entropy(net(x), y)},
        logits=lambda b: net(x).flatten(),
    )
    opt.supply(labels=one_hot(y, 3).to(EXACT).flatten())
    return opt


@pytest.mark.parametrize("backend", ["eager", "auto"])
def test_a_step_is_that_of_the_dense_system(backend: str) -> None:
    net, x, y = classifier(torch.Generator().manual_seed(0))
    x, y = x[:6], y[:6]
    params = list(net.parameters())
    J = torch.cat(
        [
            j.reshape(18, -1)
            for j in torch.autograd.functional.jacobian(
                lambda *p: torch.func.functional_call(
                    net, dict(zip(dict(net.named_parameters()), p, strict=True)), x
                ).flatten(),
                tuple(params),
            )
        ],
        1,
    )
    p = net(x).softmax(1).detach()
    Q = torch.block_diag(*(torch.diag(row) - torch.outer(row, row) for row in p))
    grad = torch.cat([g.flatten() for g in torch.autograd.grad(cross_entropy(net(x), y), params)])
    d = torch.linalg.solve(J.T @ Q @ J / 6 + 0.1 * torch.eye(J.shape[1], dtype=EXACT), grad)
    before = torch.cat([p.detach().flatten() for p in params])
    stepping(net, x, y, lam=0.1, backend=backend).step()
    moved = before - torch.cat([p.detach().flatten() for p in params])
    size = float(moved @ d / (d @ d))
    torch.testing.assert_close(moved, size * d, rtol=1e-8, atol=1e-10)
    assert 0 < size <= 1


def test_a_classifier_is_trained_in_few_steps() -> None:
    net, x, y = classifier(torch.Generator().manual_seed(0))
    opt = stepping(net, x, y, lam=0.01)
    before = float(cross_entropy(net(x), y).detach())
    for _ in range(15):
        opt.step()
    plain, _, _ = classifier(torch.Generator().manual_seed(0))
    sgd = torch.optim.SGD(plain.parameters(), lr=0.5)
    for _ in range(15):
        sgd.zero_grad()
        cross_entropy(plain(x), y).backward()
        sgd.step()
    after = float(cross_entropy(net(x), y).detach())
    assert after < 0.2 * before
    assert after < 0.5 * float(cross_entropy(plain(x), y).detach())


def test_a_line_is_fitted_in_one_step() -> None:
    """y = 1 + 2 x at 0, 1, 2 from 0, nearly without damping."""
    text = """rule fit():
    loss residual: model[residuals]
    J = jacobian(residual, w)
    d = egn(J, -residual(w), eye(residuals); examples = 3, lam = 1e-12)
    step 1
"""
    w = nn.Parameter(torch.zeros(2, dtype=EXACT))
    x = torch.arange(3.0, dtype=EXACT)
    opt = optc.loads(text)([w])
    opt.bind(objective=lambda: 0 * w.sum(), residual=lambda: w[0] + w[1] * x - (1 + 2 * x))
    opt.step()
    torch.testing.assert_close(w.detach(), torch.tensor([1.0, 2.0], dtype=EXACT), atol=1e-3, rtol=0)


def test_one_line_search_serves_groups_with_rates_of_their_own() -> None:
    text = "rule r(lr: positive = 1.0):\n    step armijo_reset(lr)\n"
    a, b = (nn.Parameter(torch.ones(1, dtype=EXACT)) for _ in range(2))
    opt = optc.loads(text)([{"params": [a], "lr": 2.0}, {"params": [b], "lr": 0.2}])
    opt.bind(objective=lambda: (5 * a**2 + 5 * b**2).sum())
    opt.step()
    moved = 1 - a.item(), 1 - b.item()
    assert moved[0] == pytest.approx(10 * moved[1]) and 0 < moved[0] < 2 and a.item() ** 2 < 1
