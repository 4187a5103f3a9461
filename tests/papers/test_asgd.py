"""Acceleration helps along small eigenvalues and costs along large ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import optc

EXAMPLE = Path(__file__).parents[2] / "examples" / "asgd_small_eigen_directions.opt"
H = 1 / torch.arange(1, 201, dtype=torch.float64) ** 2
DELTA = float(1 / (6 * H.sum()))


@pytest.mark.parametrize(
    ("direction", "accelerated", "plain"),
    [(3, 1.53e-3, 3.42e-3), (10, 0.0233, 0.6015), (30, 0.7675, 0.9451)],
)
def test_the_mean_error_along_an_eigenvector(
    direction: int, accelerated: float, plain: float
) -> None:
    w = torch.nn.Parameter((torch.arange(1, 201) == direction).double())
    opt = optc.load(EXAMPLE)([w], trace=float(H.sum()), tail=float(H[5:].sum()))
    for _ in range(500):
        w.grad = H * w.detach()
        opt.step()
    opt.eval()
    assert float(w.detach().norm()) == pytest.approx(accelerated, rel=0.02)
    assert float((1 - DELTA * H[direction - 1]) ** 500) == pytest.approx(plain, rel=0.01)


def test_the_order_turns_with_noisy_gradients() -> None:
    errors = {}
    for direction in (1, 10):
        w = torch.nn.Parameter((torch.arange(1, 201) == direction).double())
        v = torch.nn.Parameter(w.detach().clone())
        opt = optc.load(EXAMPLE)([w], trace=float(H.sum()), tail=float(H[5:].sum()))
        make, total = torch.Generator().manual_seed(0), torch.zeros(2, dtype=torch.float64)
        for _ in range(500):
            x = H.sqrt() * torch.randn(200, generator=make, dtype=torch.float64)
            w.grad = x * (x @ w.detach())
            opt.step()
            with torch.no_grad():
                v -= DELTA * x * (x @ v)
                total = torch.stack([(H * w**2).sum(), (H * v**2).sum()])
        errors[direction] = total
    assert errors[1][1] < errors[1][0]
    assert errors[10][0] < errors[10][1] / 10
