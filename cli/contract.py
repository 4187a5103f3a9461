"""What every primitive must hold: documentation, its own checks, one meaning however it is run.

The tests run it over the built-in library, `optc plugin test` over a package.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..compiler import syntax as s
from ..compiler.check import check_probe
from ..compiler.checks import run_checks
from ..compiler.driver import program
from ..compiler.interpret import Interpreter, Tensors, together
from ..compiler.ir import Graph
from ..compiler.pipeline import run as run_passes
from ..compiler.primitive import Declaration, Registry
from ..compiler.probe import probe
from ..compiler.workers import SEEDS
from ..runtime.optimizer import optimizer_class
from ..runtime.random import draw
from ..runtime.workers import simulate

STEPS = 4
WORKERS = 3
BOUND = 1e-9
"""Printers agree with the interpreter in float64 to this, relative to the largest value."""


class Problem(nn.Module):
    """Three tensors and a smooth loss whose curvature differs between them."""

    def __init__(self, worker: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(7 + worker)
        for name, shape in (("weight", (3, 4)), ("other", (2, 3)), ("bias", (5,))):
            start = torch.randn(shape, generator=generator, dtype=torch.float64)
            self.register_parameter(name, nn.Parameter(0.5 * start))

    def values(self) -> list[Tensor]:
        return [p.detach().clone() for p in self.parameters()]

    def forward(self) -> Tensor:
        return loss_of(list(self.parameters()))


def loss_of(tensors: list[Tensor]) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for k, x in enumerate(tensors):
        total = total + (0.5 + 0.25 * k) * (x**2).sum() + 0.1 * torch.sin(2 * x).sum()
    return total + 0.05 * sum(x.sum() for x in tensors) ** 2


class Oracles:
    """The loss of the problem for the interpreter, by autograd."""

    def _at(self, points: Any, wrt: str) -> tuple[Tensor, list[Tensor]]:
        leaves = [x.detach().clone().requires_grad_() for x in points[wrt]]
        return loss_of(
            [y for t, xs in points.items() for y in (leaves if t == wrt else xs)]
        ), leaves

    def value(self, objective: str, points: Any, data: Any) -> Tensor:
        return loss_of([x for xs in points.values() for x in xs]).detach()

    def gradient(self, objective: str, points: Any, data: Any, wrt: str) -> list[Tensor]:
        with torch.enable_grad():
            value, leaves = self._at(points, wrt)
            return list(torch.autograd.grad(value, leaves))

    def hvp(
        self, objective: str, points: Any, data: Any, wrt: str, of: str, v: Any
    ) -> list[Tensor]:
        with torch.enable_grad():
            value, leaves = self._at(points, of)
            g = torch.autograd.grad(value, leaves, create_graph=True)
            return list(torch.autograd.grad(g, leaves, v))

    def jvp(self, objective: str, points: Any, data: Any, wrt: str, v: Any) -> Tensor:
        g = self.gradient(objective, points, data, wrt)
        return sum((a * b).sum() for a, b in zip(g, v, strict=True))

    def vjp(self, objective: str, points: Any, data: Any, wrt: str, u: Tensor) -> list[Tensor]:
        return [u * g for g in self.gradient(objective, points, data, wrt)]

    def call(self, name: str, arguments: list[Any]) -> Any:
        raise RuntimeError(f"the problem has no `{name}`")

    def data(self, op: str, arguments: list[Any], attributes: dict[str, Any]) -> Any:
        raise RuntimeError("the problem has no data")


def contract(declaration: Declaration, registry: Registry) -> list[str]:
    """What a primitive breaks; empty where it keeps the contract."""
    broken = [] if declaration.doc.strip() else ["it has no documentation"]
    if isinstance(declaration.tree, s.Primitive):
        if not declaration.tree.checks and declaration.kind != "function":
            broken.append("it has no check")
        broken += [str(f) for f in run_checks(declaration, registry, numbers)]
    graph = probed(declaration, registry)
    if graph is not None and runnable(graph) == "":
        broken += [w for law in LAWS if (w := law(graph))]
    return broken


def numbers(how: str, stream: int, call: int, count: int) -> Tensor:
    return draw(how, 0, stream, call, count, 0)


def probed(declaration: Declaration, registry: Registry) -> Graph | None:
    """The graph of a small rule around a primitive."""
    tree = declaration.tree
    if declaration.call is not None:
        tree = s.Primitive(
            declaration.kind, declaration.name, declaration.inputs, declaration.options, ()
        )
    if not isinstance(tree, s.Primitive):
        return None
    rule = probe(tree)
    if rule is None:
        return None
    local = tree if declaration.call is None else None
    file = s.File("", tuple(x for x in (local,) if x is not None))
    return run_passes(check_probe(rule, file, registry))


def runnable(graph: Graph) -> str:
    """Why the problem cannot run a graph (it asks for data, other losses, oracles), or ""."""
    from ..compiler.ir import postorder

    asked = {n.op for n in postorder(graph.roots())}
    if set(graph.objectives) - {"loss"}:
        return "it needs losses of its own"
    if graph.oracles or graph.externs or graph.inputs:
        return "it needs what only its own loop supplies"
    if asked & {"draw", "split", "each", "subset"}:
        return "it needs data"
    return ""


def meaning(graph: Graph, steps: int = STEPS) -> list[Tensor]:
    """The problem after some steps of the interpreter: of each worker, where workers mix."""
    runs = [_interpreted(graph, i) for i in range(_size(graph))]
    for _ in range(steps):
        if graph.workers:
            together(runs)
        else:
            runs[0].step()
    return [x for run in runs for x in run.tensors()]


def _size(graph: Graph) -> int:
    return WORKERS if graph.workers else 1


def _interpreted(graph: Graph, i: int) -> Interpreter:
    model = Problem(i)
    tensors = Tensors([n for n, _ in model.named_parameters()], model.values())
    own = lambda how, stream, call, count: draw(how, SEEDS * i, stream, call, count)  # noqa: E731
    return Interpreter(graph, tensors, [{}], Oracles(), own)


def trained(
    graph: Graph, backend: str, steps: int = STEPS, half: bool = False, device: str = "cpu"
) -> list[Tensor]:
    """The problem after some steps; with `half`, saved and loaded into a new optimizer midway."""
    models = [Problem(i).to(device) for i in range(_size(graph))]
    opt = _optimizer(graph, models, backend)
    for step in range(steps):
        if half and step == steps // 2:
            file = io.BytesIO()
            torch.save(opt.state_dict(), file)
            file.seek(0)
            opt = _optimizer(graph, models, backend)
            opt.load_state_dict(torch.load(file, weights_only=True))
        for model, own in zip(models, opt if graph.workers else [opt], strict=True):
            own.bind(model=model, objective=model.forward)
        opt.step()
    return [x.cpu() for model in models for x in model.values()]


def _optimizer(graph: Graph, models: list[Problem], backend: str) -> Any:
    made = optimizer_class(program(graph))
    named = [list(m.named_parameters()) for m in models]
    if graph.workers:
        return simulate(made, named, backend=backend)
    return made(named[0], backend=backend)


def gap(a: list[Tensor], b: list[Tensor]) -> float:
    size = max(float(y.abs().max()) for y in b)
    worst = max(
        float((x - y).abs().max()) if torch.isfinite(y).all() else float(not torch.equal(x, y))
        for x, y in zip(a, b, strict=True)
    )
    return worst / max(size, 1e-30)


def _one_meaning(backend: str) -> Callable[[Graph], str]:
    def law(graph: Graph) -> str:
        distance = gap(trained(graph, backend), meaning(graph))
        return "" if distance <= BOUND else f"{backend} is {distance:.2g} from the interpreter"

    return law


def _deterministic(graph: Graph) -> str:
    same = all(map(torch.equal, trained(graph, "auto"), trained(graph, "auto")))
    return "" if same else "two runs from the same start differ"


def _resumes(graph: Graph) -> str:
    same = all(map(torch.equal, trained(graph, "auto", half=True), trained(graph, "auto")))
    return "" if same else "a run that is saved and resumed differs from one that is not"


LAWS = (_one_meaning("eager"), _one_meaning("auto"), _deterministic, _resumes)

__all__ = ["contract", "meaning", "probed", "runnable", "trained"]
