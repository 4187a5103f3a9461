"""Rules that join what seldom meets: every backend means what the interpreter means."""

from __future__ import annotations

import pytest
import torch

from optc.cli.contract import BOUND, Problem, gap, meaning, trained
from optc.compiler import driver
from optc.compiler.ir import Graph
from optc.compiler.source import CompileError, Source
from optc.plugins.registry import library
from optc.runtime import native

RULES = {
    "draws for rows with an axis": """
        z = normal(norm(grad(w), over = row), probes(3))
        w <- w - lr * mean(z * normal(w, probes(3)), over = probes)""",
    "draws for columns with an axis": """
        z = normal(norm(w, over = column), probes(3))
        w <- w - lr * sum(z, over = model)[0] * mean(grad(w + z), over = probes)""",
    "draws for a state of rows": """
        state s: row[probes(3)] = 0
        s <- s + uniform(s)
        w <- w - lr * s[0]""",
}
REFUSED = {
    "an axis drawn for twice": (
        "J = grad(w + normal(w, probes(2)))\n"
        "w <- w - lr * mean(normal(J, probes(2)), over = probes)",
        "the value has the axis `probes(2)` already",
    ),
}


def text(body: str) -> str:
    lines = "\n".join(
        "    " + line.removeprefix("        ") for line in body.strip("\n").split("\n")
    )
    return f"rule r(lr = 0.1):\n{lines}\n"


def graph(body: str) -> Graph:
    return driver.graph(Source("odd.opt", text(body)), library())


@pytest.mark.parametrize("name", RULES)
def test_the_meaning_is_one(name: str) -> None:
    rule = graph(RULES[name])
    wanted = meaning(rule)
    assert all(bool(x.isfinite().all()) for x in wanted)
    for backend in ("eager", "c") if native.compiler() else ("eager",):
        assert gap(trained(rule, backend), wanted) < BOUND, backend


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused(name: str) -> None:
    body, message = REFUSED[name]
    with pytest.raises(CompileError) as found:
        graph(body)
    assert message in str(found.value)


@pytest.mark.parametrize("reach, places", [("row", 3), ("column", 4), ("tensor", 1)])
def test_each_place_of_a_reach_has_a_number_of_its_own(reach: str, places: int) -> None:
    start = Problem().values()[0]
    moved = start - meaning(graph(f"w <- w - lr * normal(norm(w, over = {reach}))"), 1)[0]
    assert len(torch.unique(moved.round(decimals=12))) == places
