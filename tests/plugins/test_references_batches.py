"""Losses, layers and monitors that come with step sizes agree with torch, NumPy and SciPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm, cross_entropy

import optc

EXACT = torch.float64


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=EXACT)


class Asked:
    """A function of the library on tensors: a rule without a step whose metric is its value."""

    def __init__(self, expression: str, *inputs: str) -> None:
        body = [f"    input {', '.join(inputs)}", f"    metric value = {expression}"]
        self.opt = optc.loads("\n".join(["rule asked():", *body, "    w <- w * 1"]))(
            [nn.Parameter(vector(0.0))]
        )
        self.opt.param_groups[0]["params"][0].grad = vector(0.0)

    def __call__(self, **given: Any) -> Tensor:
        self.opt.supply(**given)
        self.opt.step()
        return self.opt.metrics["value"]


@pytest.mark.parametrize("drop", [0, 5])
def test_label_smoothing_is_torchs(drop: int) -> None:
    make = torch.Generator().manual_seed(0)
    logits = torch.randn(9, 4, generator=make, dtype=EXACT)
    y = torch.randint(4, (9,), generator=make)
    ours = Asked(
        f"two_stage_label_smoothing(z, y, 3; drop = {drop}, theta = 0.4)",
        "z: model[examples, classes]",
        "y: model[examples]",
    )
    theirs = cross_entropy(logits, y, label_smoothing=0.4 if drop else 0.0)
    torch.testing.assert_close(ours(z=logits, y=y.to(EXACT)), theirs)


def test_ghost_statistics_are_those_of_torch_on_each_part() -> None:
    make = torch.Generator().manual_seed(0)
    mean, variance = torch.zeros(3, dtype=EXACT), torch.ones(3, dtype=EXACT)
    text = """rule asked():
    input x: model[examples, channels]
    y = ghost_batch_norm(x; ghost = 4)
    monitor ghost_statistics(x, ghost = 4) as ghosts
    metric mean = ghosts.mean
    metric variance = ghosts.variance
    metric total = sum(y * x^2, over = (examples, channels))
    w <- w * 1
"""
    w = nn.Parameter(vector(0.0))
    opt = optc.loads(text)([w])
    w.grad = vector(0.0)
    for _ in range(3):
        x = torch.randn(10, 3, generator=make, dtype=EXACT)
        parts = [batch_norm(part, mean, variance, training=True) for part in x.split(4)]
        opt.supply(x=x)
        opt.step()
        torch.testing.assert_close(opt.metrics["mean"], mean)
        torch.testing.assert_close(opt.metrics["variance"], variance)
        torch.testing.assert_close(opt.metrics["total"], (torch.cat(parts) * x**2).sum())


def test_multipliers_of_slopes_move_as_on_the_card() -> None:
    text = """rule dual():
    input F: model[points, classes], z: model[points, dims]
    monitor lipschitz_dual(F, z, 0, lr = 0.5) as dual
    metric lam = dual.lam
    metric rho = dual.rho
    w <- w * 1
"""
    w = nn.Parameter(vector(0.0))
    opt = optc.loads(text)([w])
    F, z = vector(0.1, 0.9, 0.4)[:, None], vector(0.0, 1.0, 3.0)[:, None]
    lam, rho = np.full(3, 1 / 3), 1.0
    gap = np.abs(np.subtract.outer(F[:, 0].numpy(), F[:, 0].numpy()))
    steep = (gap / (np.abs(np.subtract.outer([0, 1, 3], [0, 1, 3])) + np.eye(3))).max(1)
    assert steep == pytest.approx([0.8, 0.8, 0.25])
    w.grad = vector(0.0)
    for _ in range(8):
        rho = np.clip(rho - 0.1 * (1 - lam.sum()), 0, 5)
        lam = np.maximum(lam + 0.5 * (steep**2 - rho), 0)
        opt.supply(F=F, z=z)
        opt.step()
        torch.testing.assert_close(opt.metrics["lam"], torch.tensor(lam))
        assert float(opt.metrics["rho"]) == pytest.approx(rho)


def test_the_risk_of_the_bayes_boundaries_is_the_cards() -> None:
    """Quantiles of both classes stand for the examples; the flow's boundaries have less risk."""
    normal = pytest.importorskip("scipy.stats", reason="an independent reference").norm
    grid = (np.arange(20000) + 0.5) / 20000
    x = np.concatenate([normal.ppf(grid), 1.5 + 0.6 * normal.ppf(grid)])
    labels = np.repeat([0, 1], 20000)
    ours = Asked("adversarial_risk_monitor(m, eps = 0.2)", "m: model[examples]")

    def risk(b: float, a: float) -> float:
        inside = (x > b) & (x < a)
        distance = np.minimum(abs(x - b), abs(x - a))
        margin = np.where(inside == (labels == 1), distance, -distance)
        return float(ours(m=torch.tensor(margin))) + float((margin < 0).mean())

    bayes, flow = risk(0.7461837606, 3.9413162394), risk(0.6388455547, 4.7046031)
    assert bayes == pytest.approx(0.2352713798, abs=1e-4)
    assert flow == pytest.approx(0.2328169362, abs=1e-4) and flow < bayes


# Boosted units ----------------------------------------------------------------------------------


def fitted(x: Tensor, r: Tensor, make: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """One logistic unit, fitted to the residuals by L-BFGS: its weights and its output."""
    inner = nn.Parameter(torch.randn(2, generator=make, dtype=EXACT))
    outer = nn.Parameter(torch.zeros(2, dtype=EXACT))
    search = torch.optim.LBFGS([inner, outer], max_iter=200, line_search_fn="strong_wolfe")

    def output() -> Tensor:
        return outer[0] * torch.sigmoid(inner[0] * x + inner[1]) + outer[1]

    def closure() -> Tensor:
        search.zero_grad()
        loss = (output() - r).square().mean()
        loss.backward()
        return loss

    search.step(closure)
    return inner.detach(), outer.detach(), output().detach()


@pytest.mark.parametrize("binary", [False, True])
def test_units_are_boosted_and_stack_to_one_net(binary: bool) -> None:
    make = torch.Generator().manual_seed(0)
    x = torch.linspace(-3, 3, 200, dtype=EXACT)
    y = torch.sin(2 * x) + 0.1 * torch.randn(200, generator=make, dtype=EXACT)
    if binary:
        y = torch.sign(y)
    eta = 0.5
    step = Asked(
        f"gradient_boosted_units(h, r, k, eta = {eta})",
        "h: model[examples]",
        "r: model[examples]",
        "k: model[examples]",
    )

    def loss(F: Tensor) -> float:
        return float(
            torch.log1p(torch.exp(-2 * y * F)).mean() if binary else (y - F).square().mean()
        )

    start = 0.5 * torch.log((1 + y.mean()) / (1 - y.mean())) if binary else y.mean()
    F, units, losses = start.expand(200).clone(), [], []
    for _ in range(10):
        r = 2 * y / (1 + torch.exp(2 * y * F)) if binary else y - F
        inner, outer, h = fitted(x, r, make)
        rho = step(h=h, r=r, k=r * (2 * y - r) if binary else torch.ones_like(r))
        if not binary:
            assert float(rho) == pytest.approx(eta, rel=1e-3)
        F = F + rho * h
        units.append((inner, rho * outer))
        losses.append(loss(F))
    assert (
        losses == sorted(losses, reverse=True) and losses[-1] < (0.5 if binary else 0.4) * losses[0]
    )
    stacked = start + sum(o[0] * torch.sigmoid(i[0] * x + i[1]) + o[1] for i, o in units)
    torch.testing.assert_close(stacked, F, rtol=0, atol=1e-12)
