"""Derivatives of functions that a rule writes, against autograd through the same arithmetic."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from optc.compiler.ops import OPS
from optc.compiler.source import CompileError

from .loops import Autograd, largest_gap, machine, wavy

SAFE = "(0.6 + 0.4 * tanh(p))"
"""Cells between 0.2 and 1: every function is smooth there."""

ONE = {
    "neg": "-{x}",
    "abs": "abs({x} - 0.6)",
    "sqrt": "sqrt({x})",
    "exp": "exp({x})",
    "ln": "ln({x})",
    "sin": "sin({x})",
    "cos": "cos({x})",
    "tanh": "tanh({x})",
    "sigmoid": "sigmoid({x})",
    "erf": "erf({x})",
    "add": "{x} + p",
    "sub": "p - {x}",
    "mul": "{x} * p",
    "div": "p / {x}",
    "ratio": "p // {x}",
    "pow": "{x}^{x} + {x}^3",
    "max": "max({x}, p)",
    "min": "min({x}, 0.5 * p)",
    "where": "where(p > 0, {x}^2, -{x})",
}
FLAT = {"sign", "floor", "ceil", "round", "mod"}
"""Their derivative is zero, or not asked for."""

REDUCED = {
    "over the model": "sum(p^2, over = model)^2",
    "over tensors": "sum(sum(p, over = tensor)^2 * p, over = model)",
    "over rows": "sum(norm(p, over = row), over = model)",
    "over columns": "sum(sum(p, over = column)^3, over = model)",
    "a norm": "norm(p - 0.3, over = model)",
    "norms of tensors": "sum(norm(p, over = tensor) * cos(p), over = model)",
    "a mean": "mean(sin(p), over = model) * sum(p, over = model)",
    "the largest": "max(abs(p), over = model) * sum(p, over = model)",
    "the largest of tensors": "sum(max(p, over = tensor) * p, over = model)",
    "a product of sums": "dot(p, sin(p), over = model) * dot(p, p, over = model)",
    "dots of tensors": "sum(dot(p, p, over = tensor)^2, over = model)",
    "the loss": "loss(p) * loss(2 * p) + dot(p, p, over = model)",
    "the loss at its own gradient": "loss(p - 0.1 * grad(p))",
    "the loss behind a norm": "loss(p + 0.1 * p / norm(p, over = model))",
    "the norm of the gradient": "norm(grad(p), over = model)",
    "a captured name": "dot(p, w, over = model)^2",
}


def model_of(points: list[Tensor], form: Any) -> Tensor:
    return torch.stack([form(x).sum() for x in points]).sum()


def numeric(text: str, at: list[Tensor], direction: list[Tensor]) -> float:
    """The slope of a function of the language along a direction, by Richardson differences."""

    def value(t: float) -> float:
        run = machine(f"rule r():\n    f = p -> {text}\n    metric f = f(q)\n"
                      "    w <- w\n".replace("f(q)", f"f(w + {t!r} * d0)")
                      .replace("    f = p", "    input d0: element\n    f = p")
                      + "    w <- w + 0 * w\n", Autograd(loss=wavy), inputs={"d0": direction})  # fmt: skip
        run.step()
        return float(run.metrics["f"])

    def central(h: float) -> float:
        return (value(h) - value(-h)) / (2 * h)

    return (4 * central(5e-4) - central(1e-3)) / 3


def derived(text: str, wanted: str) -> list[Tensor]:
    run = machine(f"rule r():\n    f = p -> {text}\n    w <- {wanted}\n", Autograd(loss=wavy))
    run.step()
    return run.tensors()


def direction() -> list[Tensor]:
    generator = torch.Generator().manual_seed(11)
    return [
        torch.randn(x.shape, generator=generator, dtype=torch.float64)
        for x in machine("rule r():\n    w <- w + 1\n").tensors()
    ]


def test_every_operation_is_tested_or_flat() -> None:
    logical = {name for name, op in OPS.items() if op.logical}
    assert set(ONE) | FLAT | logical == set(OPS)
