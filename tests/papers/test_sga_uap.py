"""Stochastic gradient aggregation: the numbers of the paper's card."""

from __future__ import annotations

import pytest
import torch

import optc

RULE = """rule sga(radius = 0.1):
    estimate stochastic_gradient_aggregation(radius, 1 / 3, 3)
    precondition sign()
    step 0.1 * radius
    project box(-radius, radius)
"""


def test_the_perturbation_follows_the_mean_of_the_inner_gradients() -> None:
    delta = torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))
    parts = torch.tensor([[1, -1], [-0.5, -1], [1, 2]], dtype=torch.float64)
    turns, seen = iter(parts), []

    def loss(part: torch.Tensor) -> torch.Tensor:
        seen.append((part - delta).tolist())
        return ((delta - part) ** 2).sum() / 2

    opt = optc.loads(RULE)([delta])
    opt.bind(objective=loss, oracles={"subset": lambda batch, share: next(turns)})
    opt.step(batch=parts)
    expected = [[1, -1], [-0.51, -0.99], [1, 2.02]]
    assert [pytest.approx(e, abs=1e-12) for e in expected] == seen
    assert delta.tolist() == pytest.approx([0.01, 0.01], abs=1e-12)
