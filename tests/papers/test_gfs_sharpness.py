"""The sharpness of the flow's solution falls while the loss oscillates."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

import optc

EXAMPLE = Path(__file__).parents[2] / "examples" / "eos_scalar_network.opt"


@pytest.mark.parametrize(
    ("lr", "start", "phi"),
    [
        (0.2, (3.6, 0.25), {0: 13.0516, 1: 13.0465, 5: 12.6876, 20: 5.5458}),
        (0.3, (2.9, 0.1), {0: 8.6348, 1: 8.2645, 5: 3.5884, 20: 3.5804}),
        (0.2, (3.3, 0.9), {0: 10.2765, 1: 8.7469, 5: 6.4654, 20: 6.4642}),
    ],
)
def test_it_falls_below_the_edge(
    lr: float, start: tuple[float, float], phi: dict[int, float]
) -> None:
    w = torch.nn.Parameter(torch.tensor(start, dtype=torch.float64))
    opt = optc.load(EXAMPLE)([w], lr=lr)
    opt.bind(objective={"main": lambda: (w.prod() - 1) ** 2 / 2})
    closed, losses = [], []
    for step in range(21):
        a, b = w.detach().tolist()
        losses.append((a * b - 1) ** 2)
        closed.append(math.sqrt((a * a - b * b) ** 2 + 4))
        opt.step()
        if step % 10 == 0:
            found = float(opt.metrics["flow_sharpness"])
            assert found == pytest.approx(closed[-1], rel=1e-3)
    assert all(closed[k] == pytest.approx(v, abs=6e-5) for k, v in phi.items())
    assert all(b <= a + 1e-12 for a, b in zip(closed, closed[1:], strict=False))
    assert any(b > a for a, b in zip(losses, losses[1:], strict=False))
    assert closed[0] > 2 / lr > found
