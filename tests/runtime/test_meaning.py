"""Eager and compiled steps agree with the float64 interpreter."""

from __future__ import annotations

import pytest
import torch

from .compare import difference, interpreted, optimized
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
