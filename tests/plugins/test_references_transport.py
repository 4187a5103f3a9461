"""Rules on transport plans and their dual variables, against POT and the cards' numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import optc

SINKHORN = """
rule tried():
    input C: model[sources, sinks], r: model[sources], c: model[sinks], newton: model
    state x = 0 * r, y = 0 * c
    a, b = sinkhorn_dual_step(y, C, r, c, eta = 200)
    p, q = sparse_newton_step(x, y, C, r, c, eta = 200, kept = 300)
    x, y <- where(newton > 0, p, a), where(newton > 0, q, b)
    P = exp(200 * (x + y - C) - 1)
    rows = sum(abs(sum(P, over = sinks) - r), over = sources)
    metric off = rows + sum(abs(sum(P, over = sources) - c), over = sinks)
    metric cost = sum(P * C, over = (sources, sinks))
"""
SPARSE = """
rule tried():
    input C: model[sources, sinks], a: model[sources], b: model[sinks]
    state alpha = 0 * a
    alpha <- alpha + 0.1 * sparse_ot_semidual(alpha, C, a, b, k = 2, gamma = 1)
    T = topk_simplex_projection(alpha - C, b, k = 2, gamma = 1)
    metric cost = sum(T * C, over = (sources, sinks))
    metric nonzeros = sum(where(T > 0, 1, 0), over = (sources, sinks))
"""


def begun(text: str, **inputs: Any) -> Any:
    w = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    w.grad = torch.zeros_like(w)
    opt = optc.loads(text)([w])
    opt.supply(**inputs)
    return opt


def stepped(opt: Any, n: int, metric: str) -> list[float]:
    found = []
    for _ in range(n):
        opt.step()
        found.append(float(opt.metrics[metric]))
    return found


def costs(*shape: int) -> torch.Tensor:
    return torch.tensor(np.random.default_rng(0).random(shape))


def even(n: int) -> torch.Tensor:
    return torch.full((n,), 1 / n, dtype=torch.float64)


def test_sparse_newton_steps_finish_what_sinkhorn_began() -> None:
    ot = pytest.importorskip("ot", reason="POT is the independent implementation of Sinkhorn")
    C, r = costs(100, 100), even(100)
    opt = begun(SINKHORN, C=C, r=r, c=r, newton=0.0)
    assert stepped(opt, 20, "off")[-1] == pytest.approx(1.218e-2, rel=1e-3)
    opt.supply(newton=1.0)
    errors = stepped(opt, 20, "off")
    expected = [4.64e-3, 7.41e-4, 1.92e-4, 3.28e-5, 7.33e-6, 1.52e-6, 3.68e-7]
    assert errors[:7] == pytest.approx(expected, rel=2e-3)
    plan = ot.sinkhorn(r, r, C, 1 / 200, method="sinkhorn_log", stopThr=1e-12, numItermax=5000)
    assert float(opt.metrics["cost"]) == pytest.approx(float((plan * C).sum()), abs=1e-9)


def test_sparse_plans_are_those_of_pot() -> None:
    ot = pytest.importorskip("ot", reason="POT is the independent implementation")
    C, a, b = costs(6, 3), even(6), even(3)
    opt = begun(SPARSE, C=C, a=a, b=b)
    cost = stepped(opt, 1500, "cost")[-1]
    assert cost == pytest.approx(0.16649624, abs=1e-7)
    assert float(opt.metrics["nonzeros"]) == 6
    plan = ot.smooth.smooth_ot_semi_dual(
        a.numpy(), b.numpy(), C.numpy(), 1.0, reg_type="sparsity_constrained", max_nz=2
    )
    assert cost == pytest.approx(float((plan * C.numpy()).sum()), abs=1e-4)
