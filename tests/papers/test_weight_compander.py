"""Weights in w = a arctan(v / b), against v, a and b trained by torch's own optimizers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import optc

A, B, LR, DECAY = 1.5, 0.5, 0.05, 0.02
RULE = """rule companded(lr = 0.05, learn: boolean = false, decay: nonnegative = 0.0):
    precondition weight_compander(lr, 1.5, 0.5, learn, decay{more})
    step 1
"""
BOUNDED = """
bundle bounded:
    value = u -> tanh(u)
    slope = u -> 1 - tanh(u)^2
    inverse = y -> ln((1 + y) / (1 - y)) / 2
"""


def loss(layers: list[Tensor]) -> Tensor:
    """A curved loss that binds both layers to each other and draws them far out."""
    x = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(4, 3)
    out = torch.tanh(x @ layers[0]) @ layers[1]
    return (out - torch.tensor([3.0, -1.0, 2.0, 0.5], dtype=torch.float64)[:, None]).square().sum()


def start() -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(s, generator=generator, dtype=torch.float64) / 2 for s in ((3, 5), (5, 1))]


def ours(more: str = "", steps: int = 12, file: str = "", **options: Any) -> list[Tensor]:
    layers = [torch.nn.Parameter(x) for x in start()]
    opt = optc.loads(file + RULE.format(more=more))(layers, **options)
    for _ in range(steps):
        opt.zero_grad()
        loss(layers).backward()
        opt.step()
    return [x.detach() for x in layers]


def reference(
    made: Callable[..., torch.optim.Optimizer],
    learn: bool = False,
    curve: Callable[[Tensor], Tensor] = torch.atan,
    inverse: Callable[[Tensor], Tensor] = torch.tan,
    steps: int = 12,
) -> list[Tensor]:
    v = [(B * inverse(x / A)).requires_grad_() for x in start()]
    scale = [torch.tensor([A, B], dtype=torch.float64, requires_grad=learn) for _ in v]
    opt = made(v, scale if learn else [])
    layers = lambda: [s[0] * curve(x / s[1]) for x, s in zip(v, scale, strict=True)]  # noqa: E731
    for _ in range(steps):
        opt.zero_grad()
        loss(layers()).backward()
        opt.step()
    return [x.detach() for x in layers()]


def heavy_ball(v: list[Tensor], scale: list[Tensor]) -> torch.optim.Optimizer:
    groups: list[dict[str, Any]] = [{"params": v, "weight_decay": DECAY}]
    groups += [{"params": scale}] if scale else []
    return torch.optim.SGD(groups, lr=LR, momentum=0.9)


def adam(v: list[Tensor], scale: list[Tensor]) -> torch.optim.Optimizer:
    return torch.optim.Adam([*v, *scale], lr=LR)


@pytest.mark.parametrize("learn", [False, True])
def test_momentum_and_decay_are_those_of_v(learn: bool) -> None:
    found = ours(", optimizer = momentum", learn=learn, decay=DECAY)
    torch.testing.assert_close(found, reference(heavy_ball, learn), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("learn", [False, True])
def test_means_of_adam_are_those_of_v(learn: bool) -> None:
    found = ours(", optimizer = adam", learn=learn)
    torch.testing.assert_close(found, reference(adam, learn), rtol=1e-8, atol=1e-10)


def test_another_curve() -> None:
    plain = lambda v, scale: torch.optim.SGD(v, lr=LR)  # noqa: E731
    expected = reference(plain, curve=torch.tanh, inverse=torch.atanh)
    found = ours(", curve = bounded", file=BOUNDED)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_no_weight_passes_the_bound() -> None:
    found = torch.cat([x.flatten() for x in ours(steps=60, lr=3.0)])
    assert 0.9 * A * math.pi / 2 < float(found.abs().max()) <= A * math.pi / 2
