"""What is dear and done now and then costs nothing between, where the interval is an option too."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import optc

RULE = """rule s(lr: positive = 0.1, k: count = 4):
    state h = zeros(w)
    every {}:
        h <- 0.9 * h + 0.1 * w * {}
    w <- w - lr * grad(w) / max(abs(h), 0.1)
"""
DEAR = {"products": "hvp(loss, 2 * w, w)", "gradients": "grad(2 * w)", "values": "loss(2 * w)"}


def run(text: str, steps: int, groups: Any) -> tuple[list[torch.Tensor], list[int]]:
    """The parameters after some steps, and how often each step asked for the loss."""
    params = [torch.nn.Parameter(torch.tensor([1.0, -2.0 + i]).double()) for i in range(2)]
    given = [{"params": [p], **more} for p, more in zip(params, groups, strict=True)]
    opt, asked = optc.loads(text)(given), [0]

    def objective() -> torch.Tensor:
        asked[-1] += 1
        return sum((p**2).sum() + 0.1 * (p**4).sum() for p in params)  # type: ignore[return-value]

    opt.bind(objective=objective)
    for _ in range(steps):
        opt.step()
        asked.append(0)
    return [p.detach() for p in params], asked[:-1]


@pytest.mark.parametrize("dear", DEAR.values(), ids=DEAR)
def test_an_interval_that_is_an_option_is_paid_for_when_it_is_due(dear: str) -> None:
    found, asked = run(RULE.format("k", dear), 9, [{}, {}])
    wanted, counted = run(RULE.format("4", dear), 9, [{}, {}])
    assert asked == counted == [2, 1, 1, 1, 2, 1, 1, 1, 2]
    assert all(map(torch.equal, found, wanted))


@pytest.mark.parametrize("dear", ["hvp(loss, 2 * w, w)", "grad(2 * w)"])
def test_groups_may_have_intervals_of_their_own(dear: str) -> None:
    """The loss is a sum over the tensors, so each goes as it would with its interval for all."""
    found, asked = run(RULE.format("k", dear), 9, [{"k": 3}, {"k": 4}])
    (first, _), _ = run(RULE.format("3", dear), 9, [{}, {}])
    (_, second), _ = run(RULE.format("4", dear), 9, [{}, {}])
    assert asked == [2, 1, 1, 2, 2, 1, 2, 1, 2]
    assert torch.equal(found[0], first) and torch.equal(found[1], second)
