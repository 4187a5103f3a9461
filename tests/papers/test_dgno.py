"""Weak residuals against test functions of compact support: quadratures, dimensions, training."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import optc

RESIDUAL = """
rule watched():
    input flux: model[functions, points, axes], f: model[functions, points]
    input y: model[points, axes], weight: model[points], radius: model
    w <- w - grad(w)
    metric value = weak_form_residual({psi}, flux, f, y, weight, radius, 2)
"""
TRAINED = """
rule trained(lr = 1.0):
    input f: model[functions, points], y: model[points, axes], weight: model[points]
    loss flux: model[functions, points, axes]
    value = p -> weak_form_residual(r -> wendland_c2(r), flux(p), f, y, weight, 0.2, 1)
    w <- w - lr * grad(value, w)
"""
C2, C4 = "r -> wendland_c2(r)", "r -> wendland_c4(r, 2)"
F64 = torch.float64


def residual(psi: str, flux: Tensor, f: Tensor, y: Tensor, weight: Tensor, radius: float) -> float:
    """The sum of squares: lam is 2."""
    w = torch.nn.Parameter(torch.zeros(1, dtype=F64))
    w.grad = torch.zeros_like(w)
    opt = optc.loads(RESIDUAL.format(psi=psi))([w])
    opt.supply(flux=flux, f=f, y=y, weight=weight, radius=radius)
    opt.step()
    return float(opt.metrics["value"])


def line(n: int = 801) -> tuple[Tensor, Tensor]:
    """2001 points of [0, 1], those of a ball of radius 0.2 from -1 to 1, and the weights of the
    trapezoid rule.
    """
    y = torch.linspace(-1, 1, n, dtype=F64)
    weight = torch.full((n,), 0.4 / (n - 1), dtype=F64)
    weight[0] = weight[-1] = 0.2 / (n - 1)
    return y[:, None], weight


@pytest.mark.parametrize(("centre", "card"), [(0.3, 0.104970), (0.5, 0.129750), (0.7, 0.104970)])
def test_the_cards_quadrature(centre: float, card: float) -> None:
    """-u'' = pi^2 sin(pi x): next to nothing for its solution, a tenth of the stiffness else.

    The card's derivatives are rougher: it has 1e-6 where 0 is right.
    """
    y, weight = line()
    x = centre + 0.2 * y
    f = (math.pi**2 * torch.sin(math.pi * x)).T
    flux = (math.pi * torch.cos(math.pi * x))[None]
    assert residual(C2, flux, f, y, weight, 0.2) ** 0.5 < 1e-9
    assert residual(C2, 1.1 * flux, f, y, weight, 0.2) ** 0.5 == pytest.approx(card, abs=1.5e-6)


def test_the_authors_means_in_the_plane() -> None:
    """Equal weights on a mesh of the unit ball and their formula for the test function."""
    side = torch.linspace(-1, 1, 7, dtype=F64)
    mesh = torch.cartesian_prod(side, side)
    mesh = mesh[mesh.norm(dim=1) < 1].requires_grad_()
    r = (mesh.square().sum(1) + 1e-30).sqrt()
    v = (1 - r) ** 6 * (35 * r**2 + 18 * r + 3) / 3
    (dv,) = torch.autograd.grad(v.sum(), mesh)
    torch.manual_seed(0)
    n, radius = len(mesh), 0.01
    flux, f = torch.randn(4, n, 2, dtype=F64), torch.randn(4, n, dtype=F64)
    means = (flux * dv / radius).sum(-1).mean(-1) - (f * v).mean(-1)
    weight = torch.full((n,), 1 / n, dtype=F64)
    found = residual(C4, flux, f, mesh.detach(), weight, radius)
    assert found == pytest.approx(float(means.square().sum().detach()), rel=1e-12)


def test_no_label_and_no_second_derivative_is_needed() -> None:
    """Two sines find the solution of -u'' = f from weak residuals at new centres each step."""
    torch.manual_seed(0)
    k = torch.tensor([1.0, 2.0], dtype=F64) * math.pi
    truth = torch.tensor([1.0, 0.3], dtype=F64)
    w = torch.nn.Parameter(torch.zeros(2, dtype=F64))
    opt = optc.loads(TRAINED)([w], lr=1.5e-3)
    y, weight = line(101)
    x = y
    opt.bind(flux=lambda: (w * k * torch.cos(k * x)).sum(-1, keepdim=True))
    for _ in range(150):
        x = 0.2 + 0.6 * torch.rand(50, 1, 1, dtype=F64) + 0.2 * y
        opt.supply(f=(truth * k**2 * torch.sin(k * x)).sum(-1), y=y, weight=weight)
        opt.step()
    torch.testing.assert_close(w.detach(), truth, rtol=0, atol=1e-3)
