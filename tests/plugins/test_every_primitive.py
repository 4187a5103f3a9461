"""Every primitive of the library keeps the contract; those with a namesake in torch equal it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import optc
from optc.cli.contract import Problem, contract, probed, runnable
from optc.compiler import driver
from optc.compiler.analysis import cost
from optc.compiler.emit.traffic import by_leaf
from optc.compiler.ir import postorder
from optc.compiler.program import Compute, Evaluate
from optc.compiler.syntax import KINDS
from optc.plugins.registry import library
from optc.runtime.optimizer import optimizer_class

EVERY = [(kind, name) for kind in KINDS for name in library().names(kind)]
DTYPE = torch.float64
STEPS = 25

NAMESAKES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "adam": ("precondition adam()", "Adam", {}),
    "amsgrad": ("precondition amsgrad()", "Adam", {"amsgrad": True}),
    "adamw": (
        "precondition adam()\n    regularize decoupled_decay(0.1)",
        "AdamW",
        {"weight_decay": 0.1},
    ),
    "l2": ("regularize l2(0.1)\n    precondition adam()", "Adam", {"weight_decay": 0.1}),
    "adagrad": (
        "precondition adagrad(lr_decay = 0.1, initial = 0.5)",
        "Adagrad",
        {"lr_decay": 0.1, "initial_accumulator_value": 0.5},
    ),
    "adadelta": ("precondition adadelta()", "Adadelta", {}),
    "adamax": ("precondition adamax()", "Adamax", {}),
    "nadam": ("precondition nadam()", "NAdam", {}),
    "radam": ("precondition radam()", "RAdam", {}),
    "rmsprop": ("precondition rmsprop()", "RMSprop", {}),
    "rmsprop_centered": ("precondition rmsprop_centered()", "RMSprop", {"centered": True}),
    "rmsprop_momentum": (
        "precondition rmsprop()\n    smooth momentum(0.9)",
        "RMSprop",
        {"momentum": 0.9},
    ),
    "rprop": ("precondition rprop(start = 0.01)", "Rprop", {}),
    "momentum": ("smooth momentum(0.9)", "SGD", {"momentum": 0.9}),
    "dampening": (
        "smooth momentum(0.9, dampening = 0.5)",
        "SGD",
        {"momentum": 0.9, "dampening": 0.5},
    ),
    "nesterov": ("smooth nesterov(0.9)", "SGD", {"momentum": 0.9, "nesterov": True}),
}
"""Name -> the steps of a rule, the class of torch.optim, its options."""

LOOSE = {"nadam": 1e-7}
"""torch.optim.NAdam keeps the product of its decays in float32."""

CLIPS: dict[str, Any] = {
    "global_norm(0.5)": lambda p: torch.nn.utils.clip_grad_norm_(p, 0.5),
    "value(0.1)": lambda p: torch.nn.utils.clip_grad_value_(p, 0.1),
}


@pytest.mark.parametrize(("kind", "name"), EVERY, ids=lambda x: x)
def test_it_keeps_the_contract(kind: str, name: str) -> None:
    registry = library()
    declaration = registry.find(kind, name)
    assert declaration is not None
    assert contract(declaration, registry) == []


@pytest.mark.parametrize(("kind", "name"), EVERY, ids=lambda x: x)
def test_its_kernels_move_the_least_bytes(kind: str, name: str) -> None:
    """Counted from the emitted phases, against the graph's lower bound; matrix phases apart."""
    registry = library()
    declaration = registry.find(kind, name)
    graph = probed(declaration, registry) if declaration is not None else None
    if graph is None:
        pytest.skip("no rule can be made of it alone")
    kinds = {n.kind for n in postorder(graph.roots())}
    if kinds & {"loop", "comm"}:
        pytest.skip("it has loops, or workers that meet")
    program = driver.program(graph)
    plan = program.plan((True,) * len(program.conditions.names))
    if any(isinstance(p, Compute) and p.space and p.mode != "kernel" for p in plan.phases):
        pytest.skip("it has matrix phases")
    if any(isinstance(p, Evaluate) and p.when for p in plan.phases):
        pytest.skip("its passes wait for a condition, so that an evaluation may be saved")
    assert by_leaf(program, plan) == cost(graph).least


def parameters() -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(3)
    shapes = ((3, 4), (5,), (2, 2, 2))
    return [
        torch.nn.Parameter(torch.randn(shape, generator=generator, dtype=DTYPE)) for shape in shapes
    ]


def train(made: list[torch.nn.Parameter], opt: Any, before: Any = None) -> list[torch.Tensor]:
    """Steps over gradients that change their sign and size, and are absent now and then."""
    for step in range(STEPS):
        for k, p in enumerate(made):
            p.grad = torch.sin(3 * p.detach() + step) * (1 + 0.3 * k) + 0.1 * p.detach()
        if step % 7 == 5:
            made[1].grad = None
        if before is not None:
            before(made)
        opt.step()
    return [p.detach() for p in made]


def same(ours: list[torch.Tensor], theirs: list[torch.Tensor], bound: float = 1e-10) -> None:
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=bound, atol=bound / 100)


@pytest.mark.parametrize("name", NAMESAKES)
def test_it_equals_its_namesake_in_torch(name: str) -> None:
    steps, cls, options = NAMESAKES[name]
    size = "1" if name == "rprop" else "lr"
    rule = optc.loads(f"rule r(lr = 0.01):\n    {steps}\n    step {size}\n")
    ours, theirs = parameters(), parameters()
    reference = getattr(torch.optim, cls)(theirs, lr=0.01, **options)
    same(train(ours, rule(ours)), train(theirs, reference), LOOSE.get(name, 1e-10))


@pytest.mark.parametrize("clip", CLIPS)
def test_clipping_equals_that_of_torch(clip: str) -> None:
    rule = optc.loads(f"rule r(lr = 0.1):\n    clip {clip}\n    step lr\n")
    ours, theirs = parameters(), parameters()
    reference = torch.optim.SGD(theirs, lr=0.1)
    same(train(ours, rule(ours)), train(theirs, reference, CLIPS[clip]))


def test_each_runs_in_float32() -> None:
    """What a rule makes of numbers alone is double, and meets cells of any type."""
    registry, wrong = library(), []
    for kind, name in EVERY:
        graph = probed(registry.find(kind, name), registry)  # type: ignore[arg-type]
        if graph is None or runnable(graph) or graph.workers:
            continue
        model = Problem().float()
        opt = optimizer_class(driver.program(graph))(model.parameters(), backend="eager")
        opt.bind(model=model, objective=model.forward)
        try:
            opt.step()
        except Exception as error:
            wrong.append((name, error))
    assert not wrong
