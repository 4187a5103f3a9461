"""Training loops for the interpreter: objectives as functions, derivatives by autograd."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from optc.compiler.check import check
from optc.compiler.interpret import Interpreter, Points, Tensors
from optc.compiler.parse import parse
from optc.compiler.pipeline import run
from optc.compiler.primitive import NoLibrary
from optc.compiler.source import Source
from optc.plugins.registry import library
from optc.runtime.random import draw

Objective = Callable[[Points, Any], Tensor]


class Autograd:
    """Oracles for objectives that are functions of the points by target and of the data."""

    def __init__(self, absent: tuple[int, ...] = (), **objectives: Objective):
        self.objectives, self.absent, self.asked = objectives, absent, Counter[str]()

    def _leaves(self, points: Points, wrt: str) -> tuple[list[Tensor], Points]:
        leaves = [x.detach().clone().requires_grad_() for x in points[wrt]]
        return leaves, {**points, wrt: leaves}

    def _gradient(self, name: str, points: Points, data: Any, wrt: str) -> Any:
        leaves, points = self._leaves(points, wrt)
        return leaves, torch.autograd.grad(
            self.objectives[name](points, data).sum(), leaves, create_graph=True, allow_unused=True
        )

    def value(self, name: str, points: Points, data: Any) -> Tensor:
        self.asked["value"] += 1
        return self.objectives[name](points, data).detach()

    def gradient(self, name: str, points: Points, data: Any, wrt: str) -> list[Any]:
        """The gradient; of an objective with an axis one for each place of it."""
        self.asked["gradient"] += 1
        leaves, inside = self._leaves(points, wrt)
        value = self.objectives[name](inside, data)
        rows = [
            torch.autograd.grad(v, leaves, retain_graph=True, materialize_grads=True)
            for v in value.reshape(-1)
        ]
        found = [
            torch.stack(c).reshape((*value.shape, *c[0].shape)) for c in zip(*rows, strict=True)
        ]
        return [None if i in self.absent else g for i, g in enumerate(found)]

    def hvp(
        self, name: str, points: Points, data: Any, wrt: str, of: str, v: list[Any]
    ) -> list[Any]:
        self.asked["hvp"] += 1
        inside = {k: [x.detach().clone().requires_grad_() for x in p] for k, p in points.items()}
        value = self.objectives[name](inside, data)
        first = torch.autograd.grad(value, inside[of], create_graph=True, materialize_grads=True)
        total = sum((g * x).sum() for g, x in zip(first, v, strict=True))
        return list(torch.autograd.grad(total, inside[wrt], materialize_grads=True))

    def jvp(self, name: str, points: Points, data: Any, wrt: str, v: list[Any]) -> Tensor:
        self.asked["jvp"] += 1

        def along(*x: Tensor) -> Tensor:
            return self.objectives[name]({**points, wrt: list(x)}, data)

        return torch.func.jvp(along, tuple(points[wrt]), tuple(v))[1].detach()

    def vjp(self, name: str, points: Points, data: Any, wrt: str, u: Tensor) -> list[Any]:
        self.asked["vjp"] += 1
        leaves, inside = self._leaves(points, wrt)
        value = self.objectives[name](inside, data)
        return list(torch.autograd.grad(value, leaves, u, materialize_grads=True))

    def call(self, name: str, arguments: list[Any]) -> Any:
        raise NotImplementedError

    def data(self, op: str, arguments: list[Any], attributes: dict[str, Any]) -> Any:
        """`split` cuts a tensor into parts, `each` into its rows."""
        self.asked[op] += 1
        (batch, *rest) = arguments
        if op == "each":
            return list(batch)
        return list(batch.chunk(int(rest[0]))) if op == "split" else batch


def quadratic(points: Points, data: Any = None) -> Tensor:
    """Half the squared distance from 1, each tensor with its own curvature."""
    flat = [x for part in points.values() for x in part]
    return sum(((k + 1) * 0.5 * ((x - 1) ** 2).sum() for k, x in enumerate(flat)), torch.zeros(()))


def wavy(points: Points, data: Any = None) -> Tensor:
    """Smooth and not quadratic, coupled over all tensors."""
    flat = torch.cat([x.reshape(-1) for part in points.values() for x in part])
    return (flat**2).sum() / 2 + torch.sin(2 * flat).sum() / 5 + torch.tanh(flat.sum()) / 3


SHAPES = {"body.weight": (3, 2), "body.bias": (3,), "head.weight": (2, 2), "scale": ()}


def started(shapes: dict[str, tuple[int, ...]] | None = None, seed: int = 3) -> Tensors:
    generator = torch.Generator().manual_seed(seed)
    named = {
        n: torch.randn(s, generator=generator, dtype=torch.float64)
        for n, s in (shapes or SHAPES).items()
    }
    return Tensors(list(named), list(named.values()))


def machine(
    text: str,
    oracles: Any = None,
    tensors: Tensors | None = None,
    options: Any = None,
    passes: bool = True,
    **more: Any,
) -> Interpreter:
    """The rule of a text in the interpreter, with the built-in library."""
    graph = check(parse(Source("rule.opt", text)), library() if passes else NoLibrary())

    def numbers(how: str, stream: int, call: int, count: int) -> Tensor:
        return draw(how, 0, stream, call, count, 0)

    return Interpreter(
        run(graph) if passes else graph,
        tensors or started(),
        options or [{}],
        oracles or Autograd(loss=quadratic),
        numbers,
        **more,
    )


def largest_gap(found: list[Tensor], wanted: list[Tensor]) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(found, wanted, strict=True) if a.numel())
