"""Filling in half of a correlated pair: the gradient corrects what projection alone gets wrong."""

from __future__ import annotations

import pytest
import torch

import optc

RULE = """
rule tried(weight = 0.05):
    input abar: model, next: model, noisy: model, mu: element, mask: element, y: element
    gain = v -> sqrt(abar) * v / (abar * v + 1 - abar)
    off = p -> p - sqrt(abar) * mu
    both = p -> (gain(1.9) - gain(0.1)) / 2 * sum(off(p), over = row)
    clean = p -> mu + gain(0.1) * off(p) + both(p)
    z = noisy * normal(w)
    n = normal(w)
    w <- mcg_step(w, clean, y, mask, z, n, abar, next; weight = weight)
"""


def filled_in(weight: float, samples: int = 4000) -> tuple[float, float]:
    """Mean and deviation of the second cell given that the first is 2; truly -0.1 and 0.436."""
    torch.manual_seed(0)
    abar = (1 - torch.linspace(5e-4, 0.1, 200, dtype=torch.float64)).cumprod(0).tolist()
    w = torch.nn.Parameter(torch.randn(samples, 2, dtype=torch.float64))
    w.grad = torch.zeros_like(w)
    opt = optc.loads(RULE)([w], weight=weight)
    rows = {"mu": [1.0, -1.0], "mask": [1.0, 0.0], "y": [2.0, 0.0]}
    cells = {k: [torch.tensor([v]).double().repeat(samples, 1)] for k, v in rows.items()}
    for t in range(199, -1, -1):
        next = abar[t - 1] if t else 1.0
        opt.supply(abar=abar[t], next=next, noisy=float(t > 0), **cells)
        opt.step()
    x = w.detach()[:, 1]
    return float(x.mean()), float(x.std())


@pytest.mark.parametrize(
    ("weight", "mean", "deviation"), [(0.0, -0.405, 0.541), (0.05, -0.107, 0.425)]
)
def test_the_chain_of_the_card(weight: float, mean: float, deviation: float) -> None:
    assert filled_in(weight) == pytest.approx((mean, deviation), abs=0.03)
