"""Local steps, and an outer step now and then: examples/local_sgd.opt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import optc

EXAMPLES = Path(__file__).parents[1] / "examples"
LOCAL = optc.load(EXAMPLES / "local_sgd.opt")
WORKERS, EVERY = 3, 4


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1)).double()


def data(i: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(50 + i)
    x = torch.randn(32, 3).double()
    return x, torch.sin(x.sum(1, keepdim=True) + 0.3 * i)


def closure_of(model: nn.Module, opt: Any, i: int) -> Any:
    x, y = data(i)

    def closure() -> Tensor:
        opt.zero_grad()
        loss = (model(x) - y).square().mean()
        loss.backward()
        return loss

    return closure


def trained(steps: int, **options: Any) -> list[list[Tensor]]:
    models = [net() for _ in range(WORKERS)]
    team = optc.simulate(LOCAL, [m.parameters() for m in models], lr=0.01, **options)
    closures = [closure_of(m, opt, i) for i, (m, opt) in enumerate(zip(models, team, strict=True))]
    for _ in range(steps):
        team.step(closures)
    return [[p.detach() for p in m.parameters()] for m in models]


def by_hand(steps: int, outer_lr: float, outer_momentum: float) -> list[list[Tensor]]:
    """Each worker's torch.optim.AdamW, and one outer torch.optim.SGD over the mean change."""
    models = [net() for _ in range(WORKERS)]
    inner = [
        torch.optim.AdamW(m.parameters(), lr=0.01, betas=(0.9, 0.95), weight_decay=0.1)
        for m in models
    ]
    anchor = net()
    nesterov = outer_momentum > 0
    outer = torch.optim.SGD(
        anchor.parameters(), lr=outer_lr, momentum=outer_momentum, nesterov=nesterov
    )
    for step in range(1, steps + 1):
        for i, (m, opt) in enumerate(zip(models, inner, strict=True)):
            opt.step(closure_of(m, opt, i))
        if step % EVERY == 0:
            with torch.no_grad():
                for a, *ps in zip(*(m.parameters() for m in (anchor, *models)), strict=True):
                    a.grad = a - torch.stack(ps).mean(0)
            outer.step()
            with torch.no_grad():
                for a, *ps in zip(*(m.parameters() for m in (anchor, *models)), strict=True):
                    for p in ps:
                        p.copy_(a)
    return [[p.detach() for p in m.parameters()] for m in models]


def gap(a: list[list[Tensor]], b: list[list[Tensor]]) -> float:
    pairs = zip(a, b, strict=True)
    return max(float((x - y).abs().max()) for u, v in pairs for x, y in zip(u, v, strict=True))


def test_it_is_adamw_inside_and_nesterov_outside() -> None:
    found = trained(11, every_n=EVERY)
    assert gap(found, by_hand(11, 0.7, 0.9)) < 1e-12
    assert gap(found, by_hand(11, 0.7, 0.0)) > 1e-4


def test_without_outer_momentum_it_is_the_mean_of_the_points() -> None:
    found = trained(8, every_n=EVERY, outer_lr=1.0, outer_momentum=0.0)
    assert gap(found, by_hand(8, 1.0, 0.0)) < 1e-12
    assert gap(found[:1] * WORKERS, found) < 1e-15


def test_workers_part_between_the_outer_steps() -> None:
    found = trained(6, every_n=EVERY)
    assert gap(found[:1] * WORKERS, found) > 1e-3
