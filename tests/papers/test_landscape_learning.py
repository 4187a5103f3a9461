"""A learned map of latents becomes the preconditioner that the inner steps want."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import optc

RULE = Path(__file__).parents[2] / "examples" / "learned_latent_map.opt"
CURVATURE = torch.tensor([1.0, 100.0], dtype=torch.float64)


def test_the_map_takes_the_condition_away() -> None:
    torch.manual_seed(0)
    z = torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))
    phi = torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))
    opt = optc.load(RULE)([("z", z), ("phi", phi)], inner_lr=0.01, lr=0.05)
    y = torch.zeros(2, dtype=torch.float64)
    opt.bind(inversion=lambda: (CURVATURE * (phi.exp() * z - y) ** 2).sum() / 2)
    opt.supply(start=[torch.zeros(2, dtype=torch.float64)])
    for _ in range(300):
        y.copy_(torch.randn(2, dtype=torch.float64))
        opt.step()
    y.copy_(torch.tensor([1.0, -1.0]))
    assert phi.exp().tolist() == pytest.approx([10, 1], rel=0.03)
    opt.step()
    left = (CURVATURE * (phi.detach().exp() * z.detach() - y) ** 2).sum() / 2
    assert left < 1e-4 < 0.4090  # 0.4090 is what ten steps leave without the map
