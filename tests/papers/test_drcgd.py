"""Decentralized PCA on a ring of eight: conjugate directions against plain Riemannian steps."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

import optc

RULE = """rule pca(alpha = 0.1, most = inf) over workers:
    communicate decentralized_riemannian_cg(alpha = alpha, most = most)
"""
WORKERS, D, R, ROWS, STEPS = 8, 10, 5, 1000, 200


@cache
def problem() -> tuple[Tensor, Tensor]:
    """Each worker's covariance, of rows of a whole with the singular values sqrt(0.8^j)."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(WORKERS * ROWS, D, generator=generator, dtype=torch.float64)
    u, _, v = torch.linalg.svd(rows, full_matrices=False)
    values = 0.8 ** (torch.arange(D, dtype=torch.float64) / 2)
    parts = (u * values @ v).reshape(WORKERS, ROWS, D)
    start = torch.linalg.qr(torch.randn(D, R, generator=generator, dtype=torch.float64))[0]
    return WORKERS * parts.transpose(1, 2) @ parts, start


def variance(p: Tensor, c: Tensor) -> Callable[[], Tensor]:
    return lambda: -0.5 * torch.trace(p.T @ c @ p)


@cache
def run(most: float) -> tuple[float, float, float, float]:
    """Distance to the best projector, gradient at the mean, consensus, and departure from St."""
    covariances, start = problem()
    points = [start.clone().requires_grad_() for _ in covariances]
    team = optc.simulate(optc.loads(RULE), [[p] for p in points], most=most)
    for worker, p, c in zip(team, points, covariances, strict=True):
        worker.bind(objective=variance(p, c))
    off = 0.0
    for _ in range(STEPS):
        team.step()
        off = max(off, *(float((p.T @ p - torch.eye(R)).detach().abs().max()) for p in points))
    best = torch.linalg.eigh(covariances.mean(0))[1][:, -R:]
    mean = torch.stack([p.detach() for p in points]).mean(0)
    u, _, v = torch.linalg.svd(mean, full_matrices=False)
    apart = torch.stack([p.detach() - mean for p in points]).norm() / WORKERS**0.5
    return float((u @ u.T - best @ best.T).norm()), slope(u @ v), float(apart), off


def slope(x: Tensor) -> float:
    """The norm of the Riemannian gradient of the mean objective."""
    g = -problem()[0].mean(0) @ x
    return float((g - x @ (x.T @ g + g.T @ x) / 2).norm())


def test_every_point_stays_on_the_manifold() -> None:
    assert run(float("inf"))[3] < 1e-14


def test_the_numbers_of_the_card() -> None:
    """Its data are drawn by another generator: gradients 0.43 at first, 0.094 after 200 steps."""
    _, left, apart, _ = run(float("inf"))
    assert 0.3 < slope(problem()[1]) < 0.6
    assert left < 0.12
    assert apart < 1e-2


def test_conjugate_directions_are_closer_to_the_principal_space() -> None:
    """0.44 against 1.3 in the card, after 400 steps."""
    conjugate, plain = run(float("inf"))[0], run(0.0)[0]
    assert conjugate < 0.5 * plain
