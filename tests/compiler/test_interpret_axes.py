"""What axes mean: losses, windows, probes, parts of a batch; and random numbers."""

from __future__ import annotations

import math
from typing import Any

import torch

from optc.compiler.interpret import Tensors

from .loops import Autograd, largest_gap, machine, quadratic
from .one_number import RULE, after, metric, one, w_of


def rows(points: Any, data: Any = None) -> torch.Tensor:
    """Three losses of the cells."""
    flat = torch.cat([x.reshape(-1) for x in points["w"]])
    return torch.stack([flat.sum(), (flat**2).sum(), torch.sin(flat).sum()])


def test_a_gramian_is_the_products_of_the_gradients() -> None:
    text = """
rule r(lr = 0.1):
    loss parts: model[losses]
    J = grad[w](parts)
    G = dot(J, J', over = model)
    metric G = sum(sum(G * G, over = losses'), over = losses)
    w <- w - lr * sum(J, over = losses)
"""
    run = machine(text, Autograd(parts=rows))
    flat = torch.cat([x.reshape(-1) for x in run.tensors()])
    jacobian = torch.stack([torch.ones_like(flat), 2 * flat, torch.cos(flat)])
    run.step()
    assert math.isclose(metric(run, "G"), float(((jacobian @ jacobian.T) ** 2).sum()))
    moved = flat - torch.cat([x.reshape(-1) for x in run.tensors()])
    assert torch.allclose(moved, 0.1 * jacobian.sum(0))


def test_a_window_holds_the_last_values() -> None:
    body = """state C: element[window(3)] = 0
i = (steps - 1) % 3
w <- w + 1
C[i] <- w
metric total = sum(sum(C, over = window), over = model)"""
    assert metric(after(body, steps=5), "total") == 3 + 4 + 5


def test_probes_are_evaluated_one_by_one() -> None:
    oracles = Autograd(loss=quadratic)
    body = """z = normal(w, probes(4))
f = loss(w + z)
metric f = sum(f, over = probes)
metric z = sum(sum((z - 1)^2 / 2, over = probes), over = model)
w <- w - lr * sum(z, over = probes)"""
    run = after(body, oracles=oracles)
    assert oracles.asked["value"] == 4
    assert math.isclose(metric(run, "f"), metric(run, "z"))


def test_parts_of_a_batch_give_a_gradient_each() -> None:
    def scaled(points: Any, data: Any) -> torch.Tensor:
        return (points["w"][0] * data).sum()

    text = RULE + "    parts = split(batch, 2)\n    g = grad[w](loss, on = parts)\n"
    text += "    w <- w - max(g, over = micro)\n"
    run = machine(text, Autograd(loss=scaled), tensors=one())
    run.step(torch.tensor([1.0, 2.0, 10.0, 20.0], dtype=torch.float64))
    assert w_of(run) == -30


def test_random_numbers_differ_by_line_and_by_step() -> None:
    run = machine(RULE + "    w <- normal(w) - normal(w)\n")
    run.step()
    first = run.tensors()
    run.step()
    assert largest_gap(first, run.tensors()) > 0.1
    assert all(float(x.abs().min()) > 0 for x in first)


def test_maximize_turns_the_gradient() -> None:
    run = after("w <- w - lr * grad(w)", maximize=True)
    assert math.isclose(w_of(run), -0.1)


def test_a_matrix_goes_back_in_whatever_order_its_axes_came() -> None:
    text = RULE + "    w <- back(sum(matrix(w), over = rows) * matrix(w))"
    x = torch.arange(6.0, dtype=torch.float64).reshape(2, 3)
    run = machine(text, tensors=Tensors(["w"], [x]))
    run.step()
    assert torch.equal(run.tensors()[0], x.sum(0) * x)
