"""XGrad: gradients at predicted weights; the numbers of the paper's card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import optc

ADAMW = optc.load(Path(__file__).parents[2] / "examples" / "xgrad_adamw.opt")
MOMENTUM = optc.loads(
    """rule xgrad_momentum(lr = 0.1, s = 1, mu = 0.9):
    state v = zeros(w)
    perturb weight_prediction(v, lr, s)
    v <- mu * v + d
    w <- w - lr * v
"""
)


def path(rule: Any, steps: int, **options: float) -> list[float]:
    """Where descent of w^2 / 2 from 1 stands after each step."""
    w = torch.nn.Parameter(torch.ones(1, dtype=torch.float64))
    opt = rule([w], lr=0.1, **options)
    opt.bind(objective=lambda: (w**2).sum() / 2)
    found = [w.item()]
    for _ in range(steps):
        opt.step()
        found.append(w.item())
    return found


@pytest.mark.parametrize(
    ("rule", "s", "numbers"),
    [
        (MOMENTUM, 1, [1, 0.9, 0.73, 0.521, 0.3017]),
        (MOMENTUM, 0, [1, 0.9, 0.72, 0.486, 0.2268]),
        (ADAMW, 1, [1, 0.899, 0.79929834, 0.70082664]),
        (ADAMW, 0, [1, 0.899, 0.79851903, 0.69891119]),
    ],
)
def test_the_path_is_that_of_the_card(rule: Any, s: float, numbers: list[float]) -> None:
    assert path(rule, len(numbers) - 1, s=s) == pytest.approx(numbers, abs=1e-8)


def test_without_prediction_it_is_adamw() -> None:
    w = torch.nn.Parameter(torch.ones(1, dtype=torch.float64))
    opt = torch.optim.AdamW([w], lr=0.1, weight_decay=0.01)
    for _ in range(6):
        w.grad = w.detach().clone()
        opt.step()
    assert path(ADAMW, 6, s=0)[-1] == pytest.approx(w.item(), abs=1e-12)
