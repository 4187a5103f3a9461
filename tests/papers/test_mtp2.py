"""Precision matrices under total positivity: the limits of the card's example."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import optc

S = [[1, 0.5, 0.2], [0.5, 1.2, 0.3], [0.2, 0.3, 0.8]]
RULE = """rule mtp2():
    input S: model[dims, dims'], start: model[dims, dims'], Lam: model[dims, dims']
    input goal: model[dims, dims']
    var x = start
    repeat 400:
        x <- mtp2_gradient_projection(x, S, Lam; eta0 = 1, shrink = 0.5)
    metric apart = max(max(abs(x - goal), over = dims'), over = dims)
    w <- w - grad(w)
"""
FIRST = [
    [1.15577889, -0.37688442, -0.05025126],
    [-0.37688442, 0.99246231, -0.20100502],
    [-0.05025126, -0.20100502, 1.30653266],
]
SECOND = [
    [1.26315793, -0.52626108, -0.00021888],
    [-0.52626108, 1.13879288, -0.34473639],
    [-0.00021888, -0.34473639, 1.37931038],
]


def tensor(rows: Any) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def weights(low: float, corner: float) -> torch.Tensor:
    return tensor([[0, low, corner], [low, 0, low], [corner, low, 0]])


@pytest.mark.parametrize(
    ("lam", "goal"),
    [
        (weights(0, 0), torch.linalg.inv(tensor(S))),
        (weights(0.1, 0.1), tensor(FIRST)),
        (weights(0, 0.07487437), tensor(SECOND)),
    ],
    ids=["plain", "first stage", "second stage"],
)
def test_the_limit_is_the_cards(lam: torch.Tensor, goal: torch.Tensor) -> None:
    w = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    w.grad = torch.zeros_like(w)
    opt: Any = optc.loads(RULE)([w])
    opt.supply(S=tensor(S), start=torch.diag(1 / tensor(S).diag()), Lam=lam, goal=goal)
    opt.step()
    # the search compares losses, so it stops at the square root of their rounding
    assert float(opt.metrics["apart"]) < 1e-7


WEIGHTS = """bundle mcp2:
    slope = (x, lam) -> sign(x) * (max(lam - abs(x) / 2, 0) - lam)

rule stage():
    input Theta: model[dims, dims']
    Lam = adaptive_weights(Theta, lam = 0.1, penalty = mcp2)
    metric corner = max(max(Lam, over = dims'), over = dims)
    metric total = sum(Lam, over = (dims, dims'))
    w <- w - grad(w)
"""


def test_the_weights_of_the_second_stage_are_the_cards() -> None:
    """The minimax penalty with gamma = 2 leaves the corner alone of the entries."""
    w = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    w.grad = torch.zeros_like(w)
    opt: Any = optc.loads(WEIGHTS)([w])
    opt.supply(Theta=tensor(FIRST))
    opt.step()
    assert float(opt.metrics["corner"]) == pytest.approx(0.07487437, abs=1e-8)
    assert float(opt.metrics["total"]) == pytest.approx(2 * 0.07487437, abs=2e-8)
