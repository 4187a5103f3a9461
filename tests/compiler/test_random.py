"""Random rules: passes keep the meaning, printers agree with it, the text forms agree."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import HealthCheck, given, settings

from optc.compiler import driver
from optc.compiler.check import check
from optc.compiler.format import to_opt
from optc.compiler.parse import parse
from optc.compiler.pipeline import run
from optc.compiler.primitive import NoLibrary
from optc.compiler.source import Source
from optc.compiler.yaml_form import parse_yaml, to_yaml
from optc.runtime.optimizer import optimizer_class

from ..generate import rules
from ..runtime.compare import Plain, Tensors, difference, objective, start

from optc.compiler.interpret import Interpreter  # isort: skip

FEW = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)


class Leaving(Plain):
    """The oracles of a loss that leaves out one tensor a step, which has no gradient then."""

    def __init__(self) -> None:
        self.left = -1

    def value(self, name: str, points: Any, data: Any) -> torch.Tensor:
        return objective(without(points["w"], self.left)).detach()

    def gradient(self, name: str, points: Any, data: Any, wrt: str) -> list[torch.Tensor]:
        with torch.enable_grad():
            leaves = [x.detach().clone().requires_grad_() for x in points[wrt]]
            loss = objective(without(leaves, self.left))
            return list(torch.autograd.grad(loss, leaves, allow_unused=True))


def without(tensors: list[torch.Tensor], left: int) -> list[torch.Tensor]:
    """The tensors, one of them replaced by a number: the loss of each depends on its place."""
    return [torch.zeros((), dtype=x.dtype) if k == left else x for k, x in enumerate(tensors)]


def interpreted(graph: object, steps: int = 3, leaving: bool = False) -> list[torch.Tensor]:
    named = start()
    tensors = Tensors([n for n, _ in named], [v for _, v in named])
    oracles = Leaving()
    machine = Interpreter(graph, tensors, [{}], oracles)  # type: ignore[arg-type]
    for step in range(steps):
        oracles.left = step % 5 if leaving else -1
        machine.step()
    return machine.tensors()


def optimized(
    program: object, backend: str, steps: int = 3, leaving: bool = False
) -> list[torch.Tensor]:
    params = [(n, torch.nn.Parameter(v)) for n, v in start()]
    opt = optimizer_class(program)(params, backend=backend)  # type: ignore[arg-type]
    values = [p for _, p in params]
    left = -1

    def closure() -> torch.Tensor:
        opt.zero_grad()
        loss = objective(without(values, left))
        loss.backward()
        return loss

    for step in range(steps):
        left = step % 5 if leaving else -1
        opt.step(closure)
    return values


@FEW
@given(rules())
def test_passes_keep_the_meaning(text: str) -> None:
    graph = check(parse(Source("random.opt", text)), NoLibrary())
    before = interpreted(graph)
    assert difference(interpreted(run(graph)), before) < 1e-12


@FEW
@given(rules())
def test_compiled_steps_mean_the_same(text: str) -> None:
    program = driver.compile_source(Source("random.opt", text), NoLibrary())
    meaning = interpreted(driver.graph(Source("random.opt", text), NoLibrary()))
    for backend in ("eager", "c"):
        assert difference(optimized(program, backend), meaning) < 1e-9, backend


@FEW
@given(rules())
def test_tensors_without_a_gradient_are_passed_over_alike(text: str) -> None:
    program = driver.compile_source(Source("random.opt", text), NoLibrary())
    meaning = interpreted(driver.graph(Source("random.opt", text), NoLibrary()), 6, True)
    for backend in ("eager", "c"):
        assert difference(optimized(program, backend, 6, True), meaning) < 1e-9, backend


@FEW
@given(rules())
def test_both_text_forms_are_the_same_tree(text: str) -> None:
    file = parse(Source("random.opt", text))
    assert parse(Source("again.opt", to_opt(file))) == file
    assert parse_yaml(Source("random.yaml", to_yaml(file))) == file
