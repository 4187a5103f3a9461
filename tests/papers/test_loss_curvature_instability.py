"""A warm-up, or clipping, survives a step size at which constant SGD diverges."""

from __future__ import annotations

from pathlib import Path

import torch

import optc

EXAMPLE = Path(__file__).parents[2] / "examples" / "warmup_escapes_high_curvature.opt"
PLAIN = "rule plain(lr = 0.6):\n    step lr\n"
M, LR = 64, 0.6


def curvature(seed: int, steps: int, text: str = "", **options: float) -> float:
    """(|u|^2 + |v|^2) / m behind some steps on u . v / sqrt(m); infinite where they diverge."""
    make = torch.Generator().manual_seed(seed)
    w = torch.nn.Parameter(2 * torch.randn(2, M, generator=make, dtype=torch.float64))
    rule = optc.loads(text) if text else optc.load(EXAMPLE)
    opt = rule([w], lr=LR, **options)
    for _ in range(steps):
        y = 1 + 0.3 * (2 * torch.randint(2, (), generator=make) - 1)
        opt.zero_grad()
        loss = lambda: ((w[0] @ w[1] / M**0.5 - y) ** 2) / 2  # noqa: E731, B023
        opt.bind(objective=loss)
        if text:
            loss().backward()
        opt.step()
        if not torch.isfinite(w).all() or w.abs().max() > 1e6:
            return float("inf")
    return float((w.detach() ** 2).sum() / M)


def test_only_the_gentle_starts_survive() -> None:
    """Of ten constant starts eight diverge within 60 steps (the card's draws: nine)."""
    assert sum(curvature(s, 60, PLAIN) == float("inf") for s in range(10)) >= 8
    for seed in (0, 1):
        assert curvature(seed, 0) > 2 / LR
        assert curvature(seed, 700, warmup=500.0, clip=1e9) < 2 / LR
        assert curvature(seed, 600, warmup=1.0, clip=0.5) < 0.95 * curvature(seed, 0)
