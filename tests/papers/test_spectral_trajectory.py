"""Predicted positions that are drawn to the middle of spectral clusters."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

import optc

CARD = torch.tensor([[0, 0], [1, 0], [0, 1], [5, 5], [6, 5]], dtype=torch.float64)
READ = """
rule read():
    input p: model[times, agents, dims], A: model[times, agents, agents']
    w <- w - grad(w)
    L = laplacian(p, radius = {radius}, knn = {knn})
    metric seen = sum(A * L, over = (times, agents, agents'))
"""
DENSITY = """
rule density():
    input x: model[agents, dims], rho: model[agents]
    loss mu: model[agents, dims], s: model[agents, dims]
    w <- w - grad(q -> sum(bivariate_nll(x, mu(q), s(q), rho), over = agents), w)
"""
DRAWN = """
rule drawn(lr = 1.0):
    input p: model[times, agents, dims]
    loss mu: model[times, agents, dims]
    nothing = 0 * sum(p, over = dims)
    w <- w - lr * grad(q -> spectral_cluster_reg(mu(q), nothing, p, n_clusters = 3), w)
"""


def graph(p: Tensor, radius: float, knn: int) -> Tensor:
    """The Laplacian, one pair of points after the other."""
    apart = torch.cdist(p, p, compute_mode="donot_use_mm_for_euclid_dist")
    W = torch.zeros_like(apart)
    for i in range(len(p)):
        others = [j for j in apart[i].argsort().tolist() if j != i]
        for j in others[:knn]:
            if apart[i, j] <= radius:
                W[i, j] = W[j, i] = (-apart[i, j]).exp()
    return torch.diag(W.sum(1)) - W


@pytest.mark.parametrize(("radius", "knn"), [(5.0, 4), (5.0, 2), (0.7, 9)])
def test_the_graph_is_of_near_and_nearest_points(radius: float, knn: int) -> None:
    torch.manual_seed(0)
    p = torch.cat([CARD.expand(3, 5, 2), torch.randn(3, 6, 2, dtype=torch.float64)], 1)
    A = torch.randn(3, 11, 11, dtype=torch.float64)
    w = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    w.grad = torch.zeros_like(w)
    opt = optc.loads(READ.format(radius=radius, knn=knn))([w])
    opt.supply(p=p, A=A)
    opt.step()
    L = torch.stack([graph(x, radius, knn) for x in p])
    assert float(opt.metrics["seen"]) == pytest.approx(float((A * L).sum()))


def test_the_cards_spectrum() -> None:
    values = torch.linalg.eigvalsh(graph(CARD, 5.0, 4))
    assert values.tolist() == pytest.approx([0, 0, 0.735759, 0.854113, 1.103638], abs=1e-6)


def test_the_density_and_its_gradient_are_those_of_torch() -> None:
    torch.manual_seed(0)
    x, mu = torch.randn(2, 6, 2, dtype=torch.float64)
    s, rho = torch.rand(6, 2, dtype=torch.float64) + 0.5, torch.rand(6, dtype=torch.float64) - 0.5
    w = torch.nn.Parameter(torch.stack([mu, s]))
    spreads = torch.diag_embed(w[1])
    corner = torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
    covariance = spreads @ (torch.eye(2) + rho[:, None, None] * corner) @ spreads
    nll = -MultivariateNormal(w[0], covariance).log_prob(x).sum()
    (wanted,) = torch.autograd.grad(nll, w)
    before = w.detach().clone()
    opt = optc.loads(DENSITY)([w])
    opt.bind(mu=lambda: w[0] + 0 * w[1], s=lambda: w[1] + 0 * w[0])
    opt.supply(x=x, rho=rho)
    opt.step()
    torch.testing.assert_close(before - w.detach(), wanted)


def test_predictions_are_drawn_to_the_middle_of_their_clusters() -> None:
    """Three groups, far apart, that are shuffled anew at each time; the middle is constant."""
    torch.manual_seed(0)
    middles = torch.tensor([[0.0, 0.0], [20.0, 0.0], [0.0, 20.0]], dtype=torch.float64)
    group = torch.stack([torch.randperm(12) % 3 for _ in range(4)])
    p = middles[group] + 0.5 * torch.randn(4, 12, 2, dtype=torch.float64)
    m = torch.empty_like(p)
    for t in range(4):
        for k in range(3):
            m[t, group[t] == k] = p[t, group[t] == k].mean(0)
    w = torch.nn.Parameter(p + torch.randn_like(p))
    (wanted,) = torch.autograd.grad(((w - m).square().sum((1, 2)) + 1e-12).sqrt().sum() / 12, w)
    before = w.detach().clone()
    opt = optc.loads(DRAWN)([w])
    opt.bind(mu=lambda: w)
    opt.supply(p=p)
    opt.step()
    torch.testing.assert_close(before - w.detach(), wanted)
