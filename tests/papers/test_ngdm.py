"""Sub-gradients do not converge, and the edge of stability is not everywhere."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import optc

EXAMPLE = Path(__file__).parents[2] / "examples" / "eos_counterexample.opt"
L1 = "rule l1(lr = 0.1, lam = 0.1):\n    regularize l1_subgradient(lam = lam)\n    step lr\n"
PROX = "rule l1(lr = 0.1, lam = 0.1):\n    step lr\n    project soft_threshold(lr * lam)\n"


def test_descent_on_hubers_function_cycles_where_it_is_not_sharp() -> None:
    x = torch.nn.Parameter(torch.tensor([0.33], dtype=torch.float64))
    opt = optc.load(EXAMPLE)([x], lr=0.1)
    opt.bind(objective=lambda: torch.nn.functional.huber_loss(x, 0 * x, delta=0.01) / 0.01)
    ends = []
    for _ in range(200):
        opt.step()
        ends.append(float(x.detach()))
    assert sorted(ends[-2:]) == pytest.approx([-0.07, 0.03], abs=1e-12)
    assert opt.metrics["limit"] == 20
    assert float(opt.metrics["sharpness"]) == pytest.approx(0, abs=1e-12)
    assert float(opt.metrics["cycle"]) < 1e-7


@pytest.mark.parametrize(
    ("lam", "size", "prox"),
    [(0.01, 0.347875, 0.345263), (0.1, 0.111980, 0), (1, 1.052632, 0), (10, 10.526316, 0)],
)
def test_a_larger_penalty_makes_a_larger_norm(lam: float, size: float, prox: float) -> None:
    b = torch.linspace(-0.05, 0.05, 20, dtype=torch.float64)
    for text, expected in ((L1, size), (PROX, prox)):
        x = torch.nn.Parameter(torch.zeros_like(b))
        opt, sizes = optc.loads(text)([x], lam=lam), []
        for _ in range(2000):
            x.grad = x.detach() - b
            opt.step()
            sizes.append(float(x.detach().abs().sum()))
        assert sum(sizes[-100:]) / 100 == pytest.approx(expected, abs=1e-5)
