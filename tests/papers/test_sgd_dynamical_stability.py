"""A larger learning rate makes SGD end where the trace of the Hessian is smaller."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import optc

EXAMPLE = Path(__file__).parents[2] / "examples" / "sgd_stability_example.opt"


def ended(lr: float, steps: int) -> tuple[float, float, float]:
    """The loss, the trace and the monitor's ratio behind SGD on a diagonal linear network."""
    rng = np.random.default_rng(0)
    X = torch.tensor(rng.standard_normal((20, 40)))
    y = X[:, 0] - X[:, 1]
    u = torch.nn.Parameter(torch.ones(40, dtype=torch.float64))
    v = torch.nn.Parameter(torch.zeros(40, dtype=torch.float64))
    opt = optc.load(EXAMPLE)([u, v], lr=lr, interval=steps)
    opt.bind(
        objective={"main": lambda i: (X[i] @ (u * v) - y[i]) ** 2 / 2},
        outputs=lambda i: X @ (u * v),
    )
    for i in rng.integers(0, 20, steps + 1):
        opt.step(batch=int(i))
    with torch.no_grad():
        loss = float(((X @ (u * v) - y) ** 2).mean() / 2)
        trace = float(((X**2).mean(0) * (u**2 + v**2)).sum())
    return loss, trace, float(opt.metrics["violated"])


def test_the_trace_stays_under_two_over_the_rate() -> None:
    traces = []
    for lr, near in ((0.01, 41.27), (0.04, 36.65), (0.06, 21.43)):
        loss, trace, ratio = ended(lr, 6000)
        assert loss < 1e-6
        assert ratio == pytest.approx(lr * trace / 2, rel=1e-3) and ratio <= 1
        assert trace == pytest.approx(near, rel=0.15)
        traces.append(trace)
    assert traces == sorted(traces, reverse=True)
