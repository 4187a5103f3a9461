"""Levenberg-Marquardt by conjugate gradients: the numbers of a curve fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

import optc

RULE = Path(__file__).parents[2] / "examples" / "lm_pcg.opt"
TIMES = torch.linspace(0, 2, 20, dtype=torch.float64)


def squares(parts: int, steps: int) -> tuple[list[float], float]:
    """The sum of squares after each step of fitting a exp(-b t), and the damping."""
    w = torch.nn.Parameter(torch.tensor([1.0, 0.5], dtype=torch.float64))
    data = TIMES.reshape(-1, parts).T.flatten()  # parts are runs of the batch: interleaved

    def residual(t: Tensor) -> Tensor:
        return w[0] * torch.exp(-w[1] * t) - 2 * torch.exp(-1.5 * t)

    opt = optc.load(RULE)([w], batches=parts, fraction=1.0, rtol=0.0)
    opt.bind(residual=residual)
    found = []
    for _ in range(steps):
        opt.step(batch=data)
        found.append((residual(TIMES) ** 2).sum().item())
    return found, opt.state[w]["lam"].item()


@pytest.mark.parametrize(
    ("parts", "numbers"),
    [(1, (0.0717538, 5.6834e-4, 3.3311e-8)), (2, (0.0686344, 5.2302e-4, 3.0166e-8))],
)
def test_it_is_its_card(parts: int, numbers: tuple[float, ...]) -> None:
    found, lam = squares(parts, 3)
    assert found == pytest.approx(numbers, rel=2e-4)
    assert lam == pytest.approx(1.25e-4)
