"""What a rule means of several tensors: blocks, targets, groups."""

from __future__ import annotations

from typing import Any

import torch

from .loops import Autograd, largest_gap, machine, started, wavy
from .one_number import RULE, metric

ROUTED = """
rule r(lr = 0.1):
    state n = norm(w, over = model)
    for params where ndim == 2 and not named("head*"):
        state m = zeros(w)
        m <- m + 1
        w <- w + m
    for params where named("head*"):
        w <- w + 10
    for other params:
        w <- w + 100
"""


def test_each_tensor_goes_where_it_first_belongs() -> None:
    run = machine(ROUTED)
    before = run.tensors()
    run.step()
    run.step()
    moved = [float((a - b).reshape(-1)[0]) for a, b in zip(run.tensors(), before, strict=True)]
    assert [round(x) for x in moved] == [3, 200, 20, 200]
    assert len(run.slots["m"]) == 1


def test_parts_of_a_chain_see_the_same_versions() -> None:
    text = """
rule r():
    for params where named("scale"):
        w <- w * 0
    for other params:
        w <- w - grad(w)
"""
    run = machine(text, Autograd(loss=wavy))
    point = [x.clone().requires_grad_() for x in run.tensors()]
    wanted = torch.autograd.grad(wavy({"w": point}), point)
    run.step()
    moved = [p.detach() - g for p, g in zip(point, wanted, strict=True)]
    assert largest_gap(run.tensors()[:3], moved[:3]) == 0


def test_a_reduction_in_a_block_covers_its_cells() -> None:
    text = """
rule r():
    for params where named("body.*"):
        metric n = sum(ones(w), over = model)
        w <- w + 1
    for other params:
        w <- w
"""
    run = machine(text)
    run.step()
    assert metric(run, "n") == 6 + 3


def test_groups_have_their_own_options() -> None:
    tensors = started()
    tensors.groups = [0, 0, 1, 1]
    text = RULE + "    s = sum(ones(w), over = group)\n    w <- w * 0 + lr * s\n"
    run = machine(text, tensors=tensors, options=[{"lr": 1.0}, {"lr": 2.0}])
    run.step()
    assert [float(x.reshape(-1)[0]) for x in run.tensors()] == [9, 9, 10, 10]


def test_targets_are_disjoint_and_named() -> None:
    text = """
rule players(lr = 0.1):
    target critic = named("body.*"), gen = other
    loss d_loss, g_loss
    for critic:
        loss = d_loss
        step lr
    for gen:
        loss = g_loss
        step lr
"""

    def d_loss(points: Any, data: Any) -> torch.Tensor:
        return sum(x.sum() for x in points["critic"]) + 0 * sum(x.sum() for x in points["gen"])

    def g_loss(points: Any, data: Any) -> torch.Tensor:
        return sum((x * points["critic"][1][0]).sum() for x in points["gen"])

    run = machine(text, Autograd(d_loss=d_loss, g_loss=g_loss))
    before = [x.clone() for x in run.tensors()]
    run.step()
    moved = [a - b for a, b in zip(run.tensors(), before, strict=True)]
    assert all(torch.allclose(m, torch.full_like(m, -0.1)) for m in moved[:2])
    bias = before[1][0] - 0.1  # the critic moved first, and the generator sees it
    assert all(torch.allclose(m, torch.full_like(m, float(-0.1 * bias))) for m in moved[2:])
