"""Dropout as a penalty, and as a stochastic differential equation with its moments."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import optc

EXAMPLE = Path(__file__).parents[2] / "examples" / "dropout_sde_example.opt"
P, COPIES, EPS = 0.8, 20000, 0.1
MASKS = torch.tensor([1 / P] * 4 + [0.0], dtype=torch.float64)


@pytest.mark.parametrize(("second", "expected"), [(True, 0.76972748), (False, 0.78184892)])
def test_the_second_moment_of_a_step(second: bool, expected: float) -> None:
    """One neuron in many copies; descent with dropout multiplies it by 0.76953125."""
    theta = torch.nn.Parameter(torch.full((COPIES, 1), P + 1.0, dtype=torch.float64))
    opt = optc.load(EXAMPLE)([theta], eps=EPS, dt=EPS / 20, second=second)
    masked = lambda: ((MASKS * theta - 1) ** 2 / 2).sum(0)  # noqa: E731
    opt.bind(objective={"main": lambda: masked().mean(), "masked": masked})
    for _ in range(20):
        opt.step()
    assert float(((theta.detach() - P) ** 2).mean()) == pytest.approx(expected, abs=2e-3)
