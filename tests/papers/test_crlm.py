"""The curvature of data manifolds, as the authors' method computes it: with all coefficients."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import optc

RULE = """
rule watched(d: count = 2):
    input x: model[points, cells], near: model[points, neighbours, cells]
    w <- w - grad(w)
    metric mapc = manifold_curvature(x, near, d = d)
"""


def mapc(x: np.ndarray, near: np.ndarray, d: int, dtype: torch.dtype = torch.float64) -> float:
    w = torch.nn.Parameter(torch.zeros(1, dtype=dtype))
    w.grad = torch.zeros_like(w)
    opt = optc.loads(RULE)([w], d=d)
    opt.supply(x=torch.tensor(x, dtype=dtype), near=torch.tensor(near, dtype=dtype))
    opt.step()
    return float(opt.metrics["mapc"])


def by_coefficients(x: np.ndarray, near: np.ndarray, d: int) -> float:
    """Least squares for every coefficient of every normal, one point after the other."""
    i, j = np.triu_indices(d)
    sizes = []
    for point, around in zip(x, near, strict=True):
        B = (around - point).T
        L = np.linalg.svd(B, full_matrices=False)[0].T @ B
        u, f = L[:d].T, L[d:].T
        features = np.hstack([u, u[:, i] * u[:, j] * np.where(i == j, 0.5, 1.0)])
        C = (np.linalg.pinv(features) @ f).T[:, d:]
        H = np.zeros((len(C), d, d))
        H[:, i, j] = H[:, j, i] = C
        sizes.append(np.abs(np.linalg.eigvalsh(H)).mean())
    return float(np.mean(sizes))


def layer(d: int, cells: int, spread: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """A curved d-dimensional manifold in `cells` dimensions, at five points."""
    rng = np.random.default_rng(0)
    A, Q = rng.standard_normal((d, cells)), rng.standard_normal((d, d, cells))
    t = rng.standard_normal((5, 1, d))
    around = t + spread * rng.standard_normal((5, 60, d))
    image = lambda s: np.tanh(s @ A) + 0.2 * np.einsum("...i,...j,ijc->...c", s, s, Q)  # noqa: E731
    return image(t)[:, 0], image(around)


@pytest.mark.parametrize(("d", "cells"), [(1, 4), (2, 5), (4, 30), (6, 80)])
def test_one_gram_matrix_fits_all_coefficients(d: int, cells: int) -> None:
    """Up to six dimensions, also where neighbours (60) are fewer than cells (80)."""
    x, near = layer(d, cells)
    assert mapc(x, near, d) == pytest.approx(by_coefficients(x, near, d), rel=1e-7)


def test_single_precision_is_enough() -> None:
    x, near = layer(4, 30)
    assert mapc(x, near, 4, torch.float32) == pytest.approx(by_coefficients(x, near, 4), rel=1e-3)


def test_curvature_is_one_over_a_length() -> None:
    x, near = layer(3, 10)
    assert mapc(4 * x, 4 * near, 3) == pytest.approx(mapc(x, near, 3) / 4, rel=1e-9)
