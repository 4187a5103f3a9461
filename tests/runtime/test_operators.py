"""Phases as torch operators: they trace, say what they write, and give the numbers of kernels."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from optc.compiler.program import Compute
from optc.runtime.operators import operator

from .compare import compiled
from .rules import ADAMW, CLIPPED, SAM


def phases(text: str) -> tuple[Any, list[Compute]]:
    program = compiled(text)
    found = program.plan(()).phases
    return program, [p for p in found if isinstance(p, Compute) and p.mode == "kernel"]


def lists(count: int, seed: int) -> list[list[torch.Tensor]]:
    g = torch.Generator().manual_seed(seed)
    return [[torch.rand(s, generator=g) for s in ((3, 4), (5,))] for _ in range(count)]


HOST = torch.tensor([[1e-3, 0.9, 0.999, 1e-8, 0.01, 0.1, 0.001, 0.1, 0.001]], dtype=torch.float64)


@pytest.fixture(scope="module")
def adamw() -> Any:
    program, found = phases(ADAMW)
    return operator(found[-1], program)


def test_the_schema_says_what_is_written(adamw: Any) -> None:
    schema = adamw.overload._schema
    written = {
        a.name for a in schema.arguments if a.alias_info is not None and a.alias_info.is_write
    }
    names = [adamw.columns[int(n[1:])] for n in sorted(written)]
    assert sorted(names) == ["slot:adam.exp_avg", "slot:adam.exp_avg_sq", "slot:w"]
    assert adamw.columns[1].startswith("v")  # the gradient is read only


def test_it_traces_without_a_break_and_gives_the_same(adamw: Any) -> None:
    def train(w: Any, g: Any, m: Any, v: Any) -> torch.Tensor:
        before = w[0].sum()
        adamw([w, [x * 2 for x in g], m, v], host=HOST, row=[0, 0])
        return before + w[0].sum()

    plain, traced = lists(4, 1), lists(4, 1)
    with torch.no_grad():
        expected = train(*plain)
        found = torch.compile(train, fullgraph=True, backend="aot_eager")(*traced)
    torch.testing.assert_close(found, expected)
    for a, b in zip(plain, traced, strict=True):
        for x, y in zip(a, b, strict=True):
            assert torch.equal(x, y)
    assert not torch.equal(plain[0][0], lists(4, 1)[0][0])


def test_its_promises_hold(adamw: Any) -> None:
    arguments = (*lists(4, 2), HOST, [0, 0], [0, 0], [], 0, 1)
    torch.library.opcheck(adamw.overload, arguments, test_utils=("test_schema", "test_faketensor"))


def test_a_stale_graph_is_noticed(adamw: Any) -> None:
    columns = lists(4, 3)
    w = columns[0][0].requires_grad_()
    y = (w * w).sum()
    adamw(columns, host=HOST, row=[0, 0])
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward()


@pytest.mark.parametrize("text", [CLIPPED, SAM])
def test_reductions_are_returned(text: str) -> None:
    program, found = phases(text)
    phase = next(p for p in found if any(o.combine for o in p.outputs))
    update = operator(phase, program)
    columns = lists(len(update.columns), 4)

    def total(columns: Any) -> torch.Tensor:
        return update(columns, host=HOST, row=[0, 0])[0] * 2

    expected = 2 * sum((x.double() ** 2).sum() for x in columns[0])
    found_one = torch.compile(total, fullgraph=True, backend="aot_eager")(columns)
    torch.testing.assert_close(found_one, expected, rtol=1e-6, atol=0)


def test_compiled_code_copies_nothing_that_is_written(adamw: Any) -> None:
    from torch._inductor.utils import run_and_get_code

    def train(w: Any, g: Any, m: Any, v: Any) -> None:
        adamw([w, [x * 2 for x in g], m, v], host=HOST, row=[0, 0])

    with torch.no_grad():
        _, codes = run_and_get_code(torch.compile(train, fullgraph=True), *lists(4, 1))
    body = "".join(codes).partition("def call(")[2].partition("def benchmark")[0]
    assert body.count("= empty_strided") == 2, body  # the two gradients
    assert "copy_(" not in body and "clone" not in body, body
