"""One step fits noisy XOR data and is linear; a few more generalize."""

from __future__ import annotations

from pathlib import Path

import torch

import optc

EXAMPLE = Path(__file__).parents[2] / "examples" / "xor_cluster_grokking.opt"
N, P, MU, WIDTH = 400, 20000, 25.0, 100


def clusters(n: int, make: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Points of four clusters, equally many of each, and their clean labels."""
    x = torch.randn(n, P, generator=make)
    place = torch.arange(n)
    axis = place % 2
    x[place, axis] += MU * (2.0 * (place // 2 % 2) - 1)
    return x, 1.0 - 2 * axis


def test_it_is_linear_first_and_generalizes_later() -> None:
    make = torch.Generator().manual_seed(0)
    x, y = clusters(N, make)
    y = torch.where(torch.rand(N, generator=make) < 0.15, -y, y)
    unseen, truth = clusters(N, make)
    a = torch.cat([torch.ones(WIDTH // 2), -torch.ones(WIDTH // 2)]) / WIDTH**0.5
    W = torch.nn.Parameter(1e-6 * torch.randn(WIDTH, P, generator=make))
    f = lambda points: torch.relu(points @ W.T) @ a  # noqa: E731
    opt = optc.load(EXAMPLE)([W], lr=0.02)
    opt.bind(
        objective={"main": lambda: torch.nn.functional.softplus(-y * f(x)).mean()},
        outputs=lambda: f(unseen),
        mirrored=lambda: f(-unseen),
    )
    fitted, right, linear = [], [], []
    for _ in range(8):
        opt.step()
        linear.append(float(opt.metrics["linear"]))  # of the point before the step
        with torch.no_grad():
            fitted.append(float((f(x) * y > 0).float().mean()))
            right.append(float((f(unseen) * truth > 0).float().mean()))
    assert fitted == [1.0] * 8
    assert 0.42 < right[0] < 0.58 and right[-1] >= 0.98
    assert linear[1] > 0.5 > linear[-1]
