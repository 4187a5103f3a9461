"""Every primitive and rule with an element-wise phase means what the interpreter says."""

from __future__ import annotations

import pytest
import torch

from optc.cli.contract import BOUND, gap, meaning, probed, runnable, trained
from optc.compiler.driver import program
from optc.compiler.ir import Graph
from optc.compiler.program import Compute
from optc.compiler.syntax import KINDS
from optc.plugins.registry import library

from ..compare import difference, interpreted, optimized
from ..rules import RULES

EVERY = [(kind, name) for kind in KINDS for name in library().names(kind)]


def element_wise(graph: Graph) -> bool:
    """Whether a step has a phase that is a kernel."""
    made = program(graph)
    phases = made.plan(tuple(True for _ in made.conditions.names)).phases
    return any(isinstance(p, Compute) and p.mode == "kernel" and p.space for p in phases)


@pytest.mark.parametrize(("kind", "name"), EVERY, ids=lambda x: x)
def test_every_primitive_has_its_meaning(kind: str, name: str) -> None:
    graph = probed(library().find(kind, name), library())  # type: ignore[arg-type]
    if graph is None or runnable(graph):
        pytest.skip("a function, or one that asks for what only its own loop supplies")
    if not element_wise(graph):
        pytest.skip("it has no element-wise phase")
    assert gap(trained(graph, "triton", steps=2), meaning(graph, steps=2)) <= BOUND


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", [n for n in RULES if n != "search"])
def test_rules_have_their_meaning(name: str, dtype: torch.dtype) -> None:
    meant = interpreted(RULES[name], 3)
    values, opt = optimized(RULES[name], 3, "triton", dtype)
    assert difference(values, meant.tensors()) < (1e-12 if dtype == torch.float64 else 2e-5)
    for key, value in meant.metrics.items():
        assert float(opt.metrics[key]) == pytest.approx(float(value), rel=1e-4, abs=1e-6)


NAMED = """
rule named(real = 0.1, tl = 0.5):
    state start = zeros(w), host = zeros(w), n = zeros(w)
    start <- tl * start + grad(w)
    host <- host + start
    n <- tl * n + host
    w <- w - real * n
"""


def test_names_of_a_rule_are_not_those_of_a_kernel() -> None:
    assert difference(optimized(NAMED, 3, "triton")[0], interpreted(NAMED, 3).tensors()) < 1e-12
