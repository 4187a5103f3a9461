"""What loops mean: bounds, conditions, cells that are frozen."""

from __future__ import annotations

import pytest
import torch

from .loops import Autograd, largest_gap, machine, wavy
from .one_number import RULE, after, metric, w_of


def test_a_loop_stops_where_its_condition_holds() -> None:
    run = after("var a = 1.0\nrepeat 50 as i until a > 100:\n    a <- 2 * a\nw <- a")
    assert w_of(run) == 128


def test_a_loop_may_write_axes_in_another_order() -> None:
    body = """x = grid(a, 1, 3, 3)
y = grid(b, 1, 1, 3)
var P = x * y
repeat 2 until sum(P, over = (a, b)) > 100:
    P <- y * P
w <- sum(sum(P, over = b) * x, over = a)"""
    assert w_of(after(body)) == 42


def test_cells_whose_condition_holds_are_frozen() -> None:
    text = RULE + "    var a = w\n    repeat 90 until a > 3:\n        a <- a + 1\n    w <- a\n"
    run = machine(text)
    before = run.tensors()
    run.step()
    for old, new in zip(before, run.tensors(), strict=True):
        wanted = old.clone()
        for _ in range(90):
            wanted = torch.where(wanted > 3, wanted, wanted + 1)
        assert torch.equal(new, wanted)


TURNS = """state m = 0.0
var x = w
repeat {n} as i{until}:
    m <- 0.5 * m + i
    x <- x - lr * grad(x) + m
    {more}
w <- w + x"""


@pytest.mark.parametrize("more", ["w <- w + x", "precondition own()\n    step lr"])
def test_an_unrolled_loop_means_the_same_as_a_loop(more: str) -> None:
    own = "precondition own(g):\n    return 2 * g\n"
    bodies = [TURNS.format(n=4, until=u, more=more) for u in ("", " until m > 1e9")]
    ends = []
    for body in bodies:
        text = own + RULE + "".join(f"    {line}\n" for line in body.splitlines())
        run = machine(text, Autograd(loss=wavy))
        run.step()
        ends.append(run.tensors())
    assert largest_gap(*ends) < 1e-12


def test_a_line_search_halves_until_the_loss_falls() -> None:
    body = """g = grad(w)
var a = 64.0
repeat 20 until loss(w - a * g) < loss(w):
    a <- a / 2
w <- w - a * g
metric a = a"""
    assert metric(after(body), "a") == 1.0
