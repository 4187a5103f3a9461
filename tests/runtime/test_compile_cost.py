"""Nothing is built or lowered that was before: counted over the library and the examples.

What a rule needs depends on its text and the types of its tensors, not on how many there are; and
in a run in which everything changes that may change, nothing is built anew.
"""

from __future__ import annotations

import dataclasses
import io
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from optc.cli.contract import runnable
from optc.compiler import driver
from optc.compiler import syntax as s
from optc.compiler.bounds import complaint
from optc.compiler.check import check_probe
from optc.compiler.emit import plan as lowering
from optc.compiler.ir import Graph
from optc.compiler.pipeline import run as run_passes
from optc.compiler.probe import probe
from optc.compiler.source import CompileError, Source
from optc.compiler.syntax import KINDS
from optc.plugins.registry import library
from optc.runtime import native
from optc.runtime.optimizer import optimizer_class
from optc.runtime.workers import simulate

EVERY = [(kind, name) for kind in KINDS if kind != "function" for name in library().names(kind)]
FEW, MANY = 10, 1000
SHAPES = ((2, 2), (1, 2), (2,))
SLOW = {
    *("smoothgrad", "block_update", "gradient_regularised_newton", "greedy_block_select"),
    *("hutchinson_or_cg_newton", "lazy_cubic_newton", "lazy_hessian", "oasis"),
    *("prox_greedy_rules", "psgd_lra", "psgd_dense", "psgd_xmat"),
    *("accelerated_second_order", "inexact_cubic_step", "arch_curvature"),
}
"""Those that hold matrices over all cells, or take gradients for each: minutes for so many."""
LR = s.Option("lr", "nonnegative", s.Number(0.01, "0.01"))

UNSTEADY = {"hutchinson_or_cg_newton", "block_update"}
"""A step that takes a second; a solve without damping, whose matrix becomes singular."""


@dataclasses.dataclass
class Counts:
    """What was asked for since the start: libraries, and plans of steps and of first values."""

    libraries: int = 0
    plans: int = 0

    def since(self, other: Counts) -> Counts:
        return Counts(self.libraries - other.libraries, self.plans - other.plans)

    @property
    def now(self) -> Counts:
        return dataclasses.replace(self)


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Counts:
    """Nothing is in memory when the test begins; libraries may be on disk."""
    found, one = Counts(), threading.Lock()

    def counted(name: str, work: Any) -> Any:
        def count(*args: Any, **options: Any) -> Any:
            with one:
                setattr(found, name, getattr(found, name) + 1)
            return work(*args, **options)

        return count

    monkeypatch.setattr(native, "_loaded", {})
    monkeypatch.setattr(native, "_coming", {})
    monkeypatch.setattr(native, "build", counted("libraries", native.build))
    monkeypatch.setattr(lowering, "plan", counted("plans", lowering.plan))
    return found


def ruled(kind: str, name: str) -> Graph | None:
    """The probe rule of a primitive, its options as options of the rule where they can be."""
    registry = library()
    declaration = registry.find(kind, name)
    assert declaration is not None
    tree = declaration.tree
    local: tuple[Any, ...] = (tree,)
    if declaration.call is not None:
        tree = s.Primitive(kind, name, declaration.inputs, declaration.options, ())
        local = ()
    rule = probe(tree) if isinstance(tree, s.Primitive) else None
    if rule is None:
        return None
    free = [o for o in tree.options if o.bound not in ("function", "bundle", "boolean")]
    free = [o for o in free if isinstance(o.default, s.Number | s.Tuple)]
    free = [o for o in free if not complaint(o.bound, _plain(o.default))]
    file = s.File("", local)
    try:
        graph = check_probe(_opened(rule, kind, free), file, registry)
    except CompileError as wrong:  # an option that is one number for all groups, or for good
        assert {d.code for d in wrong.diagnostics} <= {"E304", "E309"}
        graph = check_probe(_opened(rule, kind, []), file, registry)
    return run_passes(graph)


def _opened(rule: s.Rule, kind: str, free: list[s.Option]) -> s.Rule:
    given = tuple(s.Argument(o.name, s.Name(f"own_{o.name}")) for o in free)
    options = (*(dataclasses.replace(o, name=f"own_{o.name}") for o in free), LR)
    body = tuple(_passing(x, kind, given) for x in rule.body)
    return dataclasses.replace(rule, options=options, body=body)


def graph_of(path: Path) -> Graph:
    return driver.graph(Source(str(path), path.read_text(encoding="utf-8")), library())


def _passing(statement: Any, kind: str, given: tuple[s.Argument, ...]) -> Any:
    if not isinstance(statement, s.Step):
        return statement
    if statement.kind == "step" and kind != "stepsize":
        return dataclasses.replace(statement, call=s.Name(LR.name))
    call = statement.call
    return dataclasses.replace(
        statement, call=dataclasses.replace(call, arguments=(*call.arguments, *given))
    )


def _plain(default: Any) -> Any:
    if isinstance(default, s.Tuple):
        return tuple(_plain(x) for x in default.items)
    return getattr(default, "value", None)


class Run:
    """Tensors of a few shapes, a smooth loss of them, and an optimizer (of each worker)."""

    def __init__(self, program: Any, count: int):
        self.workers = [tensors(count) for _ in range(2 if program.workers else 1)]
        made = optimizer_class(program)
        named = [[(f"body.{k}", p) for k, p in enumerate(own)] for own in self.workers]
        self.opt: Any = simulate(made, named) if program.workers else made(named[0])
        self.opts: list[Any] = list(self.opt) if program.workers else [self.opt]

    def train(self, steps: int, without: int = 0) -> None:
        """Some steps; the loss does not touch the first tensors, where that is asked for."""
        for own, params in zip(self.opts, self.workers, strict=True):
            own.bind(objective=partial(loss, params[without:]))
        for _ in range(steps):
            self.opt.step()


def tensors(count: int) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(1)
    shapes = [SHAPES[i % len(SHAPES)] for i in range(count)]
    starts = (torch.randn(x, generator=generator, dtype=torch.float64) for x in shapes)
    return [torch.nn.Parameter(0.5 * x) for x in starts]


def loss(params: list[torch.Tensor], batch: Any = None) -> torch.Tensor:
    x = torch.cat([p.flatten() for p in params])
    scale = torch.linspace(0.5, 1.5, len(x), dtype=x.dtype)
    return (scale * x**2).sum() + 0.1 * torch.sin(2 * x).sum() + 0.05 * x.mean() ** 2


def moved(value: Any, bound: str) -> Any:
    """Another value within the bound of an option."""
    if isinstance(value, bool):
        return value
    if isinstance(value, tuple):
        return tuple(moved(x, "unit" if bound == "unit_pair" else "") for x in value)
    if isinstance(value, int):
        tries: tuple[float, ...] = (value + 1, value - 1, 0.5)
    else:
        tries = (0.9 * value + 1e-3, 0.9 * value)
    return next(x for x in tries if not complaint(bound, x))


def live(run: Run, graph: Graph) -> None:
    """Everything that may change in a run."""
    scheduled = [o for o in run.opts if "lr" in o.program.options]
    schedulers = [torch.optim.lr_scheduler.ExponentialLR(o, 0.9) for o in scheduled]
    for own in run.opts:
        for name, value in own.program.options.items():
            if isinstance(value, int) and holds_axes(own):  # it may say how long they are
                continue
            own.param_groups[0][name] = moved(value, own.program.bounds[name])
    run.train(2)
    for scheduler in schedulers:
        scheduler.step()
    run.train(1)
    for own in run.opts:
        file = io.BytesIO()
        torch.save(own.state_dict(), file)
        file.seek(0)
        own.load_state_dict(torch.load(file, weights_only=True))
    run.train(1)
    run.train(1, without=1)
    if dense(graph):
        return
    for params in run.workers:
        params[0].requires_grad_(False)
    run.train(1)
    for params in run.workers:
        params[0].requires_grad_(True)
    run.train(1)
    for own, params in zip(run.opts, run.workers, strict=True):
        params.append(torch.nn.Parameter(torch.full((2,), 0.3, dtype=torch.float64)))
        options = {name: own.param_groups[0][name] for name in own.program.options}
        own.add_param_group({**options, "params": [("body.late", params[-1])]})
    run.train(2)


def holds_axes(opt: Any) -> bool:
    """Whether a state has axes, whose lengths are what they were when it began."""
    return any(spec.axes for spec in opt.program.slots.values())


def dense(graph: Graph) -> bool:
    """Whether a state has a place for each cell of the model: they stay as many."""
    return any(a.name == "all" for slot in graph.slots.values() for a in slot.type.axes)


@pytest.mark.parametrize(("kind", "name"), EVERY, ids=lambda x: x)
def test_what_is_built_does_not_depend_on_how_many_tensors_there_are(
    kind: str, name: str, counts: Counts
) -> None:
    """And what was built once is found on disk."""
    graph = ruled(kind, name)
    if graph is None or runnable(graph):
        pytest.skip("it does not run alone")
    Run(driver.program(graph), FEW).train(2)
    few, built = counts.now, native.builds
    assert not native._coming  # nothing was built in vain
    native._loaded.clear()
    Run(driver.program(graph), 2 * FEW if name in SLOW else MANY).train(2)
    many = counts.since(few)
    assert many.plans == few.plans
    assert many.libraries <= few.libraries  # fewer where a veto came first
    assert native.builds == built


@pytest.mark.parametrize(("kind", "name"), EVERY, ids=lambda x: x)
def test_nothing_is_built_again_in_a_run(kind: str, name: str, counts: Counts) -> None:
    graph = ruled(kind, name)
    if graph is None or runnable(graph) or name in UNSTEADY:
        pytest.skip("it does not run alone, or not for long")
    run = Run(driver.program(graph), FEW)
    run.train(4)
    before = counts.now
    live(run, graph)
    more = counts.since(before)
    conditions = run.opts[0].program.conditions.names
    if conditions:  # a variant of the step is made when it first occurs
        assert more.plans < 2 ** len(conditions)
    else:
        assert more == Counts()


EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.opt"))
ALONE = [p for p in EXAMPLES if not runnable(graph_of(p)) and p.stem != "fish"]  # it draws batches


@pytest.mark.parametrize("path", ALONE, ids=lambda p: p.stem)
def test_no_example_is_built_again(path: Path, counts: Counts) -> None:
    graph = graph_of(path)
    run = Run(driver.program(graph), FEW)
    run.train(4)
    few, built = counts.now, native.builds
    live(run, graph)
    assert counts.since(few) == Counts()
    native._loaded.clear()
    Run(driver.program(graph), MANY).train(4)
    assert counts.since(few) == few
    assert native.builds == built


def test_the_turns_of_an_unrolled_loop_are_built_once(counts: Counts) -> None:
    """Twenty turns of a power iteration are twenty phases, and one text each for what they do."""
    graph = ruled("monitor", "sharpness")
    assert graph is not None
    Run(driver.program(graph), FEW).train(1)
    assert counts.libraries < 10
