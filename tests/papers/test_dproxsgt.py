"""Proximal gradient tracking on a ring of five, with every worker's own target."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import optc

TARGETS = torch.tensor(
    [(1.0, -2.0), (2.0, 0.0), (0.0, 4.0), (-1.0, 1.0), (3.0, 0.05)], dtype=torch.float64
)
OPTIMUM = torch.tensor([0.9, 0.51], dtype=torch.float64)
PLAIN = "rule r(lr = 0.1, l1 = 0.1) over workers:\n    communicate {}(lr, l1{})\n"


def ring(rule: Any, targets: Tensor = TARGETS, **options: Any) -> tuple[list[Tensor], Any]:
    """Workers at zero, each with f = |x - a|^2 / 2."""
    points = [torch.zeros(2, dtype=torch.float64, requires_grad=True) for _ in targets]
    return points, optc.simulate(rule, [[p] for p in points], **options)


def train(points: list[Tensor], team: Any, steps: int, targets: Tensor = TARGETS) -> float:
    """Steps along full gradients; how far mean(y) was from mean(g) at most."""
    worst = 0.0
    for _ in range(steps):
        for p, a in zip(points, targets, strict=True):
            p.grad = p.detach() - a
        mean = sum(p.grad for p in points) / len(points)  # type: ignore[misc]
        team.step()
        trackers = [
            v
            for w in team
            for k, v in w.state[w.param_groups[0]["params"][0]].items()
            if k[-2:] == ".y"
        ]
        assert len(trackers) == len(points)
        worst = max(worst, float((sum(trackers) / len(points) - mean).abs().max()))
    return worst


def error(points: list[Tensor]) -> float:
    return max(float((p.detach() - OPTIMUM).abs().max()) for p in points)


def test_every_worker_reaches_the_optimum_exactly() -> None:
    points, team = ring(optc.loads(PLAIN.format("prox_gradient_tracking", "")))
    assert train(points, team, 400) < 1e-14
    assert error(points) < 1e-14


@pytest.mark.parametrize("gamma", [0.8, 0.4])
def test_half_of_the_cells_suffice(gamma: float) -> None:
    more = f", share = 0.5, gamma_x = {gamma}, gamma_y = {gamma}"
    rule = optc.loads(PLAIN.format("compressed_prox_gradient_tracking", more))
    points, team = ring(rule)
    assert train(points, team, 1500) < 1e-13
    assert error(points) < 1e-13


def test_all_cells_and_no_damping_are_the_plain_method() -> None:
    more = ", share = 1, gamma_x = 1, gamma_y = 1"
    a, one = ring(optc.loads(PLAIN.format("compressed_prox_gradient_tracking", more)))
    b, other = ring(optc.loads(PLAIN.format("prox_gradient_tracking", "")))
    train(a, one, 20)
    train(b, other, 20)
    assert all((x - y).abs().max() < 1e-14 for x, y in zip(a, b, strict=True))


def test_the_example_in_steps_is_the_primitive() -> None:
    """Where nothing is clipped."""
    example = optc.load(Path(__file__).parents[2] / "examples" / "prox_gradient_tracking.opt")
    a, one = ring(example, lr=0.1, l1=0.1)
    b, other = ring(optc.loads(PLAIN.format("prox_gradient_tracking", "")))
    train(a, one, 20)
    train(b, other, 20)
    assert all((x - y).abs().max() < 1e-14 for x, y in zip(a, b, strict=True))


def test_gossip_alone_does_not_reach_it() -> None:
    """What tracking is for: with a constant step D-PSGD stays away from the optimum."""
    lines = ("step 0.1", "project soft_threshold(0.01)", "communicate gossip()")
    rule = "\n    ".join(("rule r() over workers:", *lines)) + "\n"
    points, team = ring(optc.loads(rule))
    for _ in range(400):
        for p, a in zip(points, TARGETS, strict=True):
            p.grad = p.detach() - a
        team.step()
    assert error(points) > 0.1
