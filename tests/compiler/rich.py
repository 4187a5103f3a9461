"""A problem with several losses, a loss of four values, and a batch: what rules may ask.

`interpreted` is what a rule means on it, `optimized` what its optimizer does.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from optc.compiler import driver
from optc.compiler.interpret import Interpreter, Points, Tensors
from optc.compiler.ir import Graph
from optc.compiler.source import Source
from optc.plugins.registry import library
from optc.runtime.optimizer import optimizer_class
from optc.runtime.random import draw

from .loops import Autograd

SHAPES = {"weight": (3, 4), "other": (2, 3), "bias": (5,)}
STEPS = 9
Found = tuple[list[Tensor], dict[str, Any]]
"""The tensors after some steps, and the metrics of the last one."""


def losses(tensors: list[Tensor], data: Tensor) -> dict[str, Tensor]:
    flat = torch.cat([x.reshape(-1) for x in tensors])
    curved = torch.arange(1, len(flat) + 1, dtype=flat.dtype) / len(flat)
    loss = (curved * (flat - 0.1) ** 2).sum() + 0.1 * torch.sin(2 * flat).sum() * (1 + data.mean())
    parts = [torch.sin((k + 1) * flat).sum() / 5 + (flat**2).sum() * (k + data.mean()) / 10
             for k in range(4)]  # fmt: skip
    return {"loss": loss, "val": loss * flat.mean(), "residual": torch.stack(parts)}


def batch(step: int) -> Tensor:
    generator = torch.Generator().manual_seed(step)
    return 0.3 * torch.randn(6, 2, generator=generator, dtype=torch.float64)


class Problem(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(7)
        for name, shape in SHAPES.items():
            start = 0.5 * torch.randn(shape, generator=generator, dtype=torch.float64)
            self.register_parameter(name, nn.Parameter(start))

    def values(self) -> list[Tensor]:
        return [p.detach().clone() for p in self.parameters()]


class Oracles(Autograd):
    """The losses for the interpreter; `members` says where the tensors of each target stand."""

    members: dict[str, list[int]]

    def __init__(self) -> None:
        super().__init__(**{name: self._objective(name) for name in ("loss", "val", "residual")})

    def _objective(self, name: str) -> Any:
        def value(points: Points, data: Any) -> Tensor:
            placed = {i: x for t, xs in points.items()
                      for i, x in zip(self.members[t], xs, strict=True)}  # fmt: skip
            return losses([placed[i] for i in sorted(placed)], data)[name]

        return value


def written(body: str) -> str:
    """A rule of these lines, with a rate and a count as options."""
    lines = "\n".join("    " + x.removeprefix("        ") for x in body.strip("\n").split("\n"))
    return f"rule r(lr = 0.1, turns: count = 4):\n{lines}\n"


def graph(body: str) -> Graph:
    """The rule of these lines."""
    return driver.graph(Source("odd.opt", written(body)), library())


def interpreted(graph: Graph) -> Found:
    oracles = Oracles()
    tensors = Tensors(list(SHAPES), Problem().values())
    run = Interpreter(
        graph, tensors, [{}], oracles, lambda how, stream, call, n: draw(how, 0, stream, call, n, 0)
    )
    oracles.members = run.members
    for step in range(STEPS):
        run.step(batch(step))
    return run.tensors(), run.metrics


def optimized(graph: Graph, backend: str) -> Found:
    model = Problem()
    made = optimizer_class(driver.program(graph))(list(model.named_parameters()), backend=backend)
    made.bind(model=model, objective=lambda data: losses(list(model.parameters()), data))
    for step in range(STEPS):
        made.step(batch=batch(step))
    return model.values(), made.metrics
