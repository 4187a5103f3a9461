"""Full-batch training with a penalty for each block: its iteration on quadratics."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import optc

TEXT = (Path(__file__).parents[2] / "examples" / "fullbatch_recipe.opt").read_text("utf-8")
DTYPE = torch.float64
PLAIN = {"momentum": 0.0, "weight_decay": 0.0, "max_norm": 1e9, "warmup": 0, "total": 10**9}


def after_one_step(blocks: int, x: torch.Tensor) -> torch.Tensor:
    w = torch.nn.Parameter(torch.ones(2, dtype=DTYPE))
    opt = optc.loads(TEXT)([w], lr=0.1, blocks=blocks, **PLAIN)

    def loss(part: torch.Tensor) -> torch.Tensor:
        return (part * w**2).mean(0).sum() / 2

    opt.bind(objective=loss)
    opt.step(batch=x)
    return w.detach()


def test_the_penalised_iteration_of_a_quadratic() -> None:
    """I - lr (A + lr strength / 4 A^2), and the card's gradient (1.0125, 4.2)."""
    x = torch.tensor([[1.0, 4.0], [1.0, 4.0]], dtype=DTYPE)
    expected = torch.tensor([1 - 0.1 * 1.0125, 1 - 0.1 * 4.2], dtype=DTYPE)
    for blocks in (1, 2):
        assert torch.allclose(after_one_step(blocks, x), expected, atol=1e-9)


def test_each_block_has_its_own_penalty() -> None:
    x = torch.tensor([[1.0, 0.0], [3.0, 8.0]], dtype=DTYPE)
    whole, halves = after_one_step(1, x), after_one_step(2, x)
    a = x.mean(0)
    assert torch.allclose(whole, 1 - 0.1 * (a + 0.0125 * a**2), atol=1e-9)
    assert torch.allclose(halves, 1 - 0.1 * (a + 0.0125 * (x**2).mean(0)), atol=1e-9)


def test_the_gradient_is_clipped_behind_the_penalty() -> None:
    w = torch.nn.Parameter(torch.ones(2, dtype=DTYPE))
    opt = optc.loads(TEXT)([w], lr=0.1, blocks=1, **{**PLAIN, "max_norm": 0.25})
    opt.bind(objective=lambda part: (part * w**2).sum() / 2)
    opt.step(batch=torch.tensor([[1.0, 4.0]], dtype=DTYPE))
    assert float((1 - w.detach()).norm()) == pytest.approx(0.025, rel=1e-5)
