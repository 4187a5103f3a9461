"""Runs a rule in the interpreter and as an optimizer on one problem, and compares."""

from __future__ import annotations

from typing import Any

import torch

from optc.compiler import driver
from optc.compiler.interpret import Interpreter, Tensors
from optc.compiler.primitive import NoLibrary
from optc.compiler.source import Source
from optc.runtime.optimizer import Optimizer, optimizer_class
from optc.runtime.random import draw

from .rules import ADAMW

SHAPES = {"body.weight": (5, 3), "head.weight": (2, 5), "bias": (5,), "scale": ()}


def compiled(text: str, registry: Any = None) -> Any:
    return driver.compile_source(Source("rule.opt", text), registry or NoLibrary())


def start(dtype: torch.dtype = torch.float64, shapes: Any = None) -> list[tuple[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    shapes = shapes or SHAPES
    return [
        (n, torch.randn(s, generator=generator, dtype=torch.float64).to(dtype))
        for n, s in shapes.items()
    ]


def objective(tensors: list[torch.Tensor]) -> torch.Tensor:
    """Smooth, not quadratic, with curvature that differs by tensor."""
    total = torch.zeros((), dtype=tensors[0].dtype)
    for k, x in enumerate(tensors):
        total = total + (0.5 + 0.3 * k) * (x**2).sum() + 0.1 * torch.sin(2 * x).sum()
    return total


class Plain:
    """The oracles of the interpreter, by autograd in float64."""

    def value(self, name: str, points: Any, data: Any) -> torch.Tensor:
        return objective(_flat(points)).detach()

    def gradient(self, name: str, points: Any, data: Any, wrt: str) -> list[torch.Tensor]:
        with torch.enable_grad():
            leaves = [x.detach().clone().requires_grad_() for x in points[wrt]]
            return list(torch.autograd.grad(objective(_flat({**points, wrt: leaves})), leaves))


def _flat(points: Any) -> list[torch.Tensor]:
    return [x for part in points.values() for x in part]


def interpreted(text: str, steps: int, registry: Any = None, options: Any = None) -> Interpreter:
    """The meaning: `steps` steps in float64."""
    graph = driver.graph(Source("rule.opt", text), registry or NoLibrary())
    named = start()
    tensors = Tensors([n for n, _ in named], [v for _, v in named])

    def numbers(how: str, stream: int, call: int, count: int) -> torch.Tensor:
        return draw(how, 0, stream, call, count, 0)

    run = Interpreter(graph, tensors, [options or {}], Plain(), numbers)
    for _ in range(steps):
        run.step()
    return run


def made(
    text: str = ADAMW, dtype: torch.dtype = torch.float32, **options: Any
) -> tuple[list[Any], Optimizer]:
    """An optimizer of a rule, over parameters that start as everything here does."""
    params = [torch.nn.Parameter(v) for _, v in start(dtype)]
    return params, optimizer_class(compiled(text))(params, **options)


def train(params: list[Any], opt: Any, steps: int) -> None:
    """Steps as a loop without a closure takes them."""
    for _ in range(steps):
        opt.zero_grad()
        objective(params).backward()
        opt.step()


def closure_of(params: list[Any], opt: Any) -> Any:
    """The closure that every user writes."""

    def closure() -> torch.Tensor:
        opt.zero_grad()
        loss = objective(params)
        loss.backward()
        return loss

    return closure


def optimized(
    text: str,
    steps: int,
    backend: str,
    dtype: torch.dtype = torch.float64,
    registry: Any = None,
    **options: Any,
) -> tuple[list[torch.nn.Parameter], Any]:
    """The same with an optimizer that is given a closure."""
    params = [(n, torch.nn.Parameter(v)) for n, v in start(dtype)]
    opt = optimizer_class(compiled(text, registry))(params, backend=backend, **options)
    values = [p for _, p in params]
    closure = closure_of(values, opt)
    for _ in range(steps):
        opt.step(closure)
    return values, opt


def difference(a: list[Any], b: list[Any]) -> float:
    """The largest difference, relative to the largest value."""
    gap = max(
        (
            (x.double() - y.double()).abs().max().item()
            for x, y in zip(a, b, strict=True)
            if x.numel()
        ),
        default=0,
    )
    size = max((y.abs().max().item() for y in b if y.numel()), default=1)
    return gap / max(size, 1e-30)
