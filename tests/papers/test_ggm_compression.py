"""Bits under a generalized Gaussian have derivatives by mean, scale and shape."""

from __future__ import annotations

import pytest
import torch

import optc

RULE = """
rule tried():
    input y: model[cells], mu: model[cells], a: model[cells], b: model[cells]
    metric scale = sum(grad(p -> ggm_rate(y, mu, p, b), a), over = cells)
    metric shape = sum(grad(p -> ggm_rate(y, mu, a, p), b), over = cells)
    metric mean = sum(grad(p -> ggm_rate(y, p, a, b), mu), over = cells)
    w <- w * 1
"""


def test_the_derivatives_of_a_bin() -> None:
    w = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    w.grad = torch.zeros_like(w)
    opt = optc.loads(RULE)([w])
    given = {"y": 0.0, "mu": 0.2, "a": 0.5, "b": 1.5}
    opt.supply(**{k: torch.tensor([v], dtype=torch.float64) for k, v in given.items()})
    opt.step()
    found = [float(opt.metrics[k]) for k in ("scale", "shape", "mean")]
    assert found == pytest.approx([1.416894, -0.300486, 0.962376], abs=1e-6)
