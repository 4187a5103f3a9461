"""Eager and compiled steps agree with the float64 interpreter."""

from __future__ import annotations

import pytest
import torch

from optc.runtime.optimizer import optimizer_class

from .compare import compiled, difference, interpreted, optimized
from .rules import RULES


@pytest.mark.parametrize("backend", ["eager", "c"])
@pytest.mark.parametrize("name", RULES)
def test_float64_agrees_with_the_interpreter(name: str, backend: str) -> None:
    meaning = interpreted(RULES[name], 7)
    values, opt = optimized(RULES[name], 7, backend)
    assert difference(values, meaning.tensors()) < 1e-12
    for key, value in meaning.metrics.items():
        assert abs(float(opt.metrics[key]) - float(value)) < 1e-10


@pytest.mark.parametrize("backend", ["eager", "c"])
@pytest.mark.parametrize("name", [n for n in RULES if n != "search"])
def test_float32_agrees_to_a_few_ulps(name: str, backend: str) -> None:
    meaning = interpreted(RULES[name], 5)
    values, _ = optimized(RULES[name], 5, backend, torch.float32)
    assert difference(values, meaning.tensors()) < 2e-5


@pytest.mark.parametrize("backend", ["eager", "c"])
def test_the_sign_of_what_is_no_number_is_none(backend: str) -> None:
    text = "rule r(lr = 1.0):\n    w <- sign(grad(w))\n"
    p = torch.nn.Parameter(torch.zeros(5))
    p.grad = torch.tensor([-2.0, 0.0, 3.0, float("inf"), float("nan")])
    optimizer_class(compiled(text))([p], backend=backend).step()
    assert p.tolist()[:4] == [-1, 0, 1, 1] and p[4].isnan()
