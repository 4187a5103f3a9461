"""Symmetric products are taken by halves, and are what the whole products are."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import optc
from optc.compiler import matrices
from optc.compiler.program import Compute

RULE = """rule r(lr = 0.1):
    g = matrix(grad(w))
    {}
    w <- w - lr * back(x)
"""
FOUND = {
    "x = g @ transpose(g) @ g": ["gram"],
    "x = g @ (transpose(g) @ g)": ["gram"],
    "a = g @ transpose(g)\n    x = (2 * a - 0.5 * (a @ a)) @ g": ["gram", "gram"],
    "a = g @ transpose(g)\n    x = (a + a @ a @ a) @ g": ["gram", "gram"],  # the third is unknown
    "b = g @ transpose(-g)\n    x = b @ g": [],
    "b = exp(g @ transpose(g))\n    x = b @ b @ g": ["gram"],  # not known to be
}


def products(program: Any) -> list[str]:
    plan = program.plan(tuple(True for _ in program.conditions.names))
    phases = [p for p in plan.phases if isinstance(p, Compute) and p.mode != "kernel"]
    nodes = [n for p in phases for n in p.module.graph.nodes]
    return [n.target.__name__ for n in nodes if n.target in (matrices.gram, matrices.add_gram)]


@pytest.mark.parametrize("body", FOUND)
def test_products_that_are_symmetric_are_found(body: str) -> None:
    assert products(optc.loads(RULE.format(body)).program) == FOUND[body]


def test_newton_schulz_takes_two_of_three_products_by_halves() -> None:
    text = "rule r(lr = 0.1):\n    precondition orthogonalize(precision = bf16)\n    step lr\n"
    assert products(optc.loads(text).program) == ["gram", "add_gram"] * 5


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("rows", [6, 7])
def test_by_halves_is_the_whole(
    rows: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.randn(rows, 5, generator=torch.Generator().manual_seed(0)).to(dtype)
    whole = x @ x.mT
    z = whole + torch.eye(rows, dtype=dtype)
    sums = matrices.add_product(z, whole, whole, 0.5, -2.0)
    monkeypatch.setattr(matrices, "BLOCKS", {dtype: 2})
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert matrices.in_blocks(x) and not matrices.in_blocks(x[None])
    bound = 0.02 if dtype == torch.bfloat16 else 1e-5
    for found, wanted in (
        (matrices.gram(x, x.mT), whole),
        (matrices.add_gram(z, whole, whole, 0.5, -2.0), sums),
    ):
        torch.testing.assert_close(found, wanted, rtol=bound, atol=bound * 10)
        assert torch.equal(found[rows // 2 :, : rows // 2], found[: rows // 2, rows // 2 :].mT)


def test_a_step_by_halves_is_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "rule r(lr = 0.1):\n    precondition orthogonalize()\n    step lr\n"
    ends = []
    for blocks in ({}, {torch.float64: 2}):
        monkeypatch.setattr(matrices, "BLOCKS", blocks)
        monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
        generator = torch.Generator().manual_seed(1)
        p = torch.nn.Parameter(torch.randn(9, 12, generator=generator, dtype=torch.float64))
        opt = optc.loads(text)([p])
        for _ in range(3):
            p.grad = torch.sin(p.detach())
            opt.step()
        ends.append(p.detach())
    assert torch.allclose(*ends, rtol=1e-12, atol=1e-13)
