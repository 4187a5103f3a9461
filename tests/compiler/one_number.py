"""Rules on a model of one number, whose gradient is w - 1."""

from __future__ import annotations

from typing import Any

import torch

from optc.compiler.interpret import Interpreter, Tensors

from .loops import machine

RULE = "rule r(lr = 0.1):\n"


def one(value: float = 0.0) -> Tensors:
    """A model of one number."""
    return Tensors(["w"], [torch.tensor(value, dtype=torch.float64)])


def after(body: str, steps: int = 1, start: float = 0.0, **more: Any) -> Interpreter:
    """A rule of these lines on a model of one number, whose gradient is w - 1."""
    text = RULE + "".join(f"    {line}\n" for line in body.splitlines())
    run = machine(text, tensors=one(start), **more)
    for _ in range(steps):
        run.step()
    return run


def w_of(run: Interpreter) -> float:
    return float(run.tensors()[0])


def metric(run: Interpreter, name: str) -> float:
    return float(run.metrics[name])
