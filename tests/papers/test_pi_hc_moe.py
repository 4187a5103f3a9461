"""Hard constraints by basis functions: -u'' = 1 on nine points; the numbers of the card."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import optc
from optc.compiler.check import check
from optc.compiler.interpret import Interpreter, Tensors
from optc.compiler.parse import parse
from optc.compiler.source import Source
from optc.plugins.registry import library

LAYER = """function weighed(b: model[mesh, basis], v: model[basis]):
    return b @ v

rule layer(ridge = 1e-4):
    input D: model[points, rows], y: model[mesh]
    f = 1 + 0 * sum(D, over = rows)
    u = p -> weighed(matrix(p), hard_constraint_layer(D @ matrix(p), f, ridge = ridge))
    L = p -> sum(sum((u(p) - y)^2, over = mesh), over = model) / 2
    g = grad(L, w)
    metric L = L(w)
    metric slope = norm(g, over = model)
    w <- w - g
"""


def mesh() -> tuple[Tensor, Tensor]:
    """Nine points, and minus the second differences at the seven inner ones."""
    x = torch.linspace(0, 1, 9, dtype=torch.float64)
    D = torch.zeros(7, 9, dtype=torch.float64)
    for i in range(7):
        D[i, i : i + 3] = -64 * torch.tensor([1.0, -2.0, 1.0])
    return x, D


def stepped() -> tuple[Any, Tensor, Tensor]:
    """The interpreter's metrics of a step from two sines, and the basis before and after it."""
    x, D = mesh()
    basis = torch.stack([torch.sin(torch.pi * x), torch.sin(2 * torch.pi * x)], 1)
    graph = check(parse(Source("layer.opt", LAYER)), library())
    inputs = {"D": D, "y": 0.1 * torch.sin(torch.pi * x)}
    run = Interpreter(graph, Tensors(["w"], [basis]), inputs=inputs)
    metrics = run.step()
    return metrics, basis, run.tensors()[0]


def test_the_derivative_is_that_of_the_implicit_function() -> None:
    metrics, _, _ = stepped()
    assert float(metrics["L"]) == pytest.approx(1.681211e-3, abs=1e-9)
    assert float(metrics["slope"]) == pytest.approx(0.0266315, abs=1e-7)


def test_compiled_it_is_the_same() -> None:
    metrics, basis, after = stepped()
    x, D = mesh()
    w = basis.clone().requires_grad_()
    opt = optc.loads(LAYER)([w])
    opt.supply(D=D, y=0.1 * torch.sin(torch.pi * x))
    opt.step()
    assert torch.allclose(w.detach(), after, rtol=0, atol=1e-12)
    assert float(opt.metrics["slope"]) == pytest.approx(float(metrics["slope"]), abs=1e-12)


def test_it_is_the_adjoint_formula() -> None:
    _, b, after = stepped()
    x, D = mesh()
    A = D @ b
    G = A.T @ A + 1e-8 * torch.eye(2, dtype=torch.float64)
    w = torch.linalg.solve(G, A.sum(0))
    e = b @ w - 0.1 * torch.sin(torch.pi * x)
    lam = torch.linalg.solve(G, b.T @ e)
    r = A @ w - 1
    slope = torch.outer(e, w) - D.T @ (torch.outer(r, lam) + torch.outer(A @ lam, w))
    assert torch.allclose(b - after, slope, atol=1e-12)
