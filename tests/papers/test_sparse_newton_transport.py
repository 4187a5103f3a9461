"""Entropic transport between 100 random points: Sinkhorn first, then Newton with a sparse Hessian.

The numbers are those of an implementation in numpy: the error of both marginals, in sum of absolute
values, after each step.
"""

from __future__ import annotations

import numpy
import pytest
import torch

from optc.compiler.driver import compile_source
from optc.compiler.source import Source
from optc.plugins.registry import library
from optc.runtime.optimizer import optimizer_class

RULE = """rule transport(first: count = 20):
    input C: model[sources, sinks], r: model[sources], c: model[sinks]
    state x: model[sources] = 0 * r, y: model[sinks] = 0 * c
    if call <= first:
        u, v = sinkhorn_dual_step(y, C, r, c; eta = 200)
        x, y <- u, v
    else:
        u, v = sparse_newton_step(x, y, C, r, c; eta = 200, kept = KEPT, at_most = 2000)
        x, y <- u, v
    P = exp(200 * (x + y - C) - 1)
    of_rows = sum(abs(sum(P, over = sinks) - r), over = sources)
    metric error = of_rows + sum(abs(sum(P, over = sources) - c), over = sinks)
    w <- w + 0
"""


def errors(steps: int, kept: int = 300, first: int = 20) -> list[float]:
    n = 100
    w = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    w.grad = torch.zeros_like(w)
    made = optimizer_class(
        compile_source(Source("transport.opt", RULE.replace("KEPT", str(kept))), library())
    )
    opt = made([w], first=first)
    even = torch.full((n,), 1 / n, dtype=torch.float64)
    opt.supply(C=torch.from_numpy(numpy.random.default_rng(0).random((n, n))), r=even, c=even)
    found = []
    for _ in range(steps):
        opt.step()
        found.append(float(opt.metrics["error"]))
    return found[19:]


def test_sparse_newton_steps_leave_sinkhorn_behind() -> None:
    wanted = [1.218e-2, 4.64e-3, 7.41e-4, 1.92e-4, 3.28e-5, 7.33e-6, 1.52e-6, 3.68e-7]
    assert errors(27) == pytest.approx(wanted, rel=1e-2)


def test_all_entries_are_the_dense_method() -> None:
    found = errors(25, kept=10_000)
    assert found[:5] == pytest.approx([1.218e-2, 3.28e-3, 2.69e-4, 2.85e-5, 6.35e-8], rel=1e-2)
    assert found[5] < 1e-8  # the line search tells no smaller rise of f from rounding


def test_sinkhorn_alone_is_slow() -> None:
    found = errors(100, first=1000)
    assert found[12] == pytest.approx(2.93e-3, rel=1e-2)
    assert found[80] == pytest.approx(1.80e-4, rel=1e-2)
