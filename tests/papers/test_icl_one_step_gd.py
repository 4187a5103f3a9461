"""Pre-training linear attention on regression tasks ends at one step of gradient descent."""

from __future__ import annotations

from pathlib import Path

import torch

import optc

EXAMPLE = Path(__file__).parents[2] / "examples" / "pretrain_attention_example.opt"
N, D, NOISE = 10, 5, 0.25


def test_it_learns_the_step_of_the_theory() -> None:
    gamma = torch.nn.Parameter(torch.zeros(D, D, dtype=torch.float64))
    opt = optc.load(EXAMPLE)([gamma], lr=3e-3)
    make = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=make, dtype=torch.float64)  # noqa: E731
    total, kept = torch.zeros_like(gamma), 0
    for step in range(400):
        w, x, query = draw(1024, D), draw(1024, N, D), draw(1024, D)
        y = torch.einsum("tnd,td->tn", x, w) + NOISE**0.5 * draw(1024, N)
        opt.supply(x=x, y=y, query=query, answer=(query * w).sum(1))
        opt.step()
        if step >= 100:
            total, kept = total + gamma.detach(), kept + 1
    best = torch.eye(D, dtype=torch.float64) / (N + D + 1 + NOISE)
    assert (total / kept - best).norm() < 0.05 * best.norm()
