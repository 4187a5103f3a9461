"""Cautious updates: HeavyBall's AdamW with its mask, step for step, and the example in bfloat16."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import optc

EXAMPLES = Path(__file__).parents[2] / "examples"
RULE = """
rule cautious(lr: nonnegative = 1e-2):
    precondition adam((0.9, 0.99), eps = 0.0)
    precondition cautious(grad(w))
    step lr
"""


def gradients(steps: int, *sizes: int) -> list[list[Tensor]]:
    random = torch.Generator().manual_seed(0)
    return [
        [torch.randn(n, generator=random, dtype=torch.float64) for n in sizes] for _ in range(steps)
    ]


def test_it_is_heavyballs() -> None:
    heavyball = pytest.importorskip("heavyball", reason="HeavyBall is not installed")
    mode, heavyball.utils.compile_mode = heavyball.utils.compile_mode, None
    try:
        ours, theirs = ([nn.Parameter(torch.ones(n).double()) for n in (40, 7)] for _ in range(2))
        mine = optc.loads(RULE)(ours)
        other = heavyball.AdamW(theirs, lr=1e-2, betas=(0.9, 0.99), eps=1e-30, caution=True)
        for given in gradients(20, 40, 7):
            for params, optimizer in ((ours, mine), (theirs, other)):
                for p, g in zip(params, given, strict=True):
                    p.grad = g.clone()
                optimizer.step()
    finally:
        heavyball.utils.compile_mode = mode
    for p, q in zip(ours, theirs, strict=True):
        moved = (p.detach() - 1).abs().max()
        assert moved > 0.01  # HeavyBall computes in float32
        assert (p - q).detach().abs().max() < 1e-5 * moved


def test_bfloat16_parameters_follow_the_exact_ones() -> None:
    """Steps far below the spacing of bfloat16 are lost by rounding to nearest, not by chance."""
    path = EXAMPLES / "cautious_adamw.opt"
    exact = nn.Parameter(torch.ones(4096))
    small = nn.Parameter(torch.ones(4096, dtype=torch.bfloat16))
    lost = nn.Parameter(torch.ones(4096, dtype=torch.bfloat16))
    rules = optc.load(path), optc.load(path, schedule=EXAMPLES / "schedules" / "bf16.opt")
    pairs = [(exact, rules[0]), (small, rules[1]), (lost, rules[0])]
    optimizers = [(p, rule([p], lr=1e-4, weight_decay=0.0)) for p, rule in pairs]
    for _ in range(50):
        for p, optimizer in optimizers:
            p.grad = torch.ones_like(p)
            optimizer.step()
    far = 1 - exact.detach().mean()
    assert 0.004 < far < 0.006
    assert (1 - small.detach().float().mean() - far).abs() < 0.05 * far
    assert (lost == 1).all()
    mean = optimizers[1][1].state[small]["average"]
    assert mean.dtype == torch.float32 and 0 < 1 - mean.mean() < far
