"""Time steps of networks by least squares: how fast they converge, and the integrator's order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import optc

X = torch.arange(32, dtype=torch.float64) * 2 * torch.pi / 32
WAVES = torch.sin(X.unsqueeze(1) * torch.arange(1, 5))
SQUARES = torch.arange(1, 5, dtype=torch.float64) ** 2

PROJECTION = """
rule tried():
    loss outputs: model[points], goal: model[points]
    w <- teng_projection(w, outputs, goal(w), 1 / 32; n = 2, iters = 1)
"""
HEUN = """
rule tried(dt: positive = 0.1, heun: boolean = true):
    loss outputs: model[points], rate: model[points]
    w <- teng_heun(w, outputs, rate, 1 / 32; dt = dt, n = 4, iters = 1, heun = heun)
"""


def bound(
    text: str, start: Tensor, options: dict[str, Any], **functions: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Any]:
    """A point and an optimizer whose functions are of that point."""
    w = torch.nn.Parameter(start.clone())
    opt = optc.loads(text)([w], **options)

    def at_w(f: Callable[[Tensor], Tensor]) -> Callable[[], Tensor]:
        return lambda: f(w)

    opt.bind(**{k: at_w(f) for k, f in functions.items()})
    return w, opt


def test_the_projection_converges_quadratically() -> None:
    def u(p: Tensor) -> Tensor:
        return p[0] * torch.sin(X) * torch.exp(p[1] * torch.cos(X))

    start, goal = torch.tensor([1, 0.5]).double(), torch.tensor([1.05, 0.55]).double()
    w, opt = bound(PROJECTION, start, {}, outputs=u, goal=lambda p: u(goal) + 0 * p.sum())
    errors = []
    for _ in range(4):
        errors.append(((u(w) - u(goal)) ** 2).mean().item() / 2)
        opt.step()
    assert errors == pytest.approx([1.2958e-3, 8.906e-7, 8.3e-13, 5.9e-25], rel=0.02)


@pytest.mark.parametrize(
    ("heun", "steps", "error"),
    [(False, 20, 3.004e-3), (False, 40, 1.488e-3), (True, 20, 5.655e-5), (True, 40, 1.378e-5)],
)
def test_the_error_falls_with_the_order(heun: bool, steps: int, error: float) -> None:
    start = torch.tensor([1, 0.5, 0.25, 0.125], dtype=torch.float64)
    options = {"dt": 1 / steps, "heun": heun}
    rates = WAVES * (-0.1 * SQUARES)
    w, opt = bound(HEUN, start, options, outputs=lambda c: WAVES @ c, rate=lambda c: rates @ c)
    for _ in range(steps):
        opt.step()
    exact = start * torch.exp(-0.1 * SQUARES)
    assert (w.detach() - exact).norm().item() == pytest.approx(error, rel=2e-3)
