"""What a rule means: versions, clocks, absent gradients, outcomes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from .loops import Autograd, largest_gap, machine, quadratic, started, wavy
from .one_number import RULE, after, metric, one, w_of

ADAMW = """
rule adamw(lr = 0.01, betas = (0.9, 0.99), eps = 1e-8, weight_decay = 0.1):
    precondition adam(betas, eps)
    regularize decoupled_decay(weight_decay)
    step lr
"""
SGD = """
rule sgd(lr = 0.05, momentum = 0.8, dampening = 0.3, weight_decay = 0.02):
    regularize l2(weight_decay)
    smooth momentum(momentum, dampening)
    step lr
"""


@pytest.mark.parametrize(
    "text, make",
    [
        (ADAMW, lambda p: torch.optim.AdamW(p, 0.01, (0.9, 0.99), 1e-8, 0.1)),
        (SGD, lambda p: torch.optim.SGD(p, 0.05, 0.8, 0.3, 0.02)),
    ],
    ids=["adamw", "sgd"],
)
def test_it_agrees_with_torch_in_float64(text: str, make: Any) -> None:
    run = machine(text, Autograd(loss=wavy))
    params = [torch.nn.Parameter(v.clone()) for v in started().values]
    opt = make(params)
    for _ in range(20):
        run.step()
        opt.zero_grad()
        wavy({"w": params}).backward()
        opt.step()
    assert largest_gap(run.tensors(), [p.detach() for p in params]) < 1e-12


# Versions -------------------------------------------------------------------------------------


def test_a_line_reads_the_version_above_it() -> None:
    run = after("state m = 0\nm <- m + 1\nw <- w + m\nm <- 10 * m\nmetric m = m", steps=2)
    assert w_of(run) == 1 + 11 and metric(run, "m") == 110


def test_a_name_keeps_the_version_it_was_given() -> None:
    run = after("state m = 3.0\nold = m\nm <- 5\nw <- w + old\nmetric m = m")
    assert (w_of(run), metric(run, "m")) == (3, 5)


def test_both_right_sides_are_read_first() -> None:
    run = after("state a = 1.0, b = 2.0\na, b <- b, a\nw <- 10 * a + b", steps=3)
    assert w_of(run) == 10 * 2 + 1


def test_the_gradient_is_taken_where_w_stands() -> None:
    run = after("w <- w - lr * grad(w)\nw <- w - lr * grad(w)")
    assert math.isclose(w_of(run), 1 - 0.9**2)


def test_a_projection_that_asks_the_loss_is_still_the_new_w() -> None:
    text = "project lower(w, loss):\n    return where(loss(2 * w) < loss(w), 2 * w, w)\n"
    text += RULE + "    step lr\n    project lower()\n"
    run = machine(text, tensors=one())
    found = [(run.step(), w_of(run))[1] for _ in range(4)]
    assert found == pytest.approx([0.2, 0.56, 1.208, 1.1872])


def test_equal_points_are_evaluated_once() -> None:
    oracles = Autograd(loss=quadratic)
    after("g = grad(w)\nh = grad(w + 0 * g)\nw <- w - lr * (grad(w) + g) + h * 0", oracles=oracles)
    assert oracles.asked["gradient"] == 2


# Clocks, absence, outcomes --------------------------------------------------------------------


def test_three_clocks_under_a_veto() -> None:
    body = "metric call = call\nmetric steps = steps\nw <- w + t\nveto when call == 2"
    run = after(body, steps=4)
    assert (metric(run, "call"), metric(run, "steps")) == (4, 3)
    assert w_of(run) == 1 + 2 + 3


def test_a_tensor_without_gradient_takes_no_part() -> None:
    text = RULE + "    metric n = norm(grad(w), over = model)\n    w <- w - t * grad(w)\n"
    run = machine(text, Autograd(absent=(1,), loss=quadratic))
    before = [x.clone() for x in run.tensors()]
    run.step()
    gradients = [(k + 1) * (x - 1) for k, x in enumerate(before) if k != 1]
    wanted = torch.cat([g.reshape(-1) for g in gradients]).norm()
    assert math.isclose(metric(run, "n"), float(wanted))
    assert torch.equal(run.tensors()[1], before[1]) and not torch.equal(run.tensors()[0], before[0])
    assert run.t == [2, 1, 2, 2]


def test_a_veto_leaves_everything_but_what_is_always_written() -> None:
    body = """state m = 0.0, seen = 0
m <- m + 1
always seen <- seen + 1
w <- w + m
veto when call == 1
metric m = m
metric seen = seen"""
    run = after(body, steps=1)
    assert (w_of(run), "m" in run.slots, float(run.slots["seen"])) == (0, False, 1)
    run.step()
    assert (w_of(run), float(run.slots["m"]), float(run.slots["seen"])) == (1, 1, 2)


def test_restore_goes_back_to_the_last_but_one_snapshot() -> None:
    body = """state n = 0.0
n <- n + 1
metric n = n
w <- w + 1
snapshot when call <= 3
restore 2 when call == 5"""
    run = after(body, steps=4)
    assert w_of(run) == 4
    run.step()  # snapshots are of the beginnings of the steps 1, 2 and 3: 0, 1, 2
    assert (w_of(run), float(run.slots["n"])) == (1, 1)


def test_the_first_outcome_that_holds_decides() -> None:
    body = "snapshot when call == 1\nw <- w + 1\nveto when call == 3\nrestore 1 when call == 3"
    assert w_of(after(body, steps=3)) == 2


def test_every_counts_calls() -> None:
    body = "state m = 0.0\nevery 3:\n    m <- m + 1\nelse:\n    m <- m + 100\nw <- m"
    assert [w_of(after(body, steps=n)) for n in (1, 2, 3, 4, 5)] == [1, 101, 201, 202, 302]


def test_every_counts_vetoed_calls_too() -> None:
    body = "state m = 0.0\nevery 2:\n    m <- m + 1\nveto when call == 3\nw <- m"
    assert w_of(after(body, steps=5)) == 2  # due at 1, 3 (vetoed) and 5


def test_only_the_side_taken_is_evaluated() -> None:
    oracles = Autograd(loss=quadratic)
    after("if loss(w) > 100:\n    w <- w - grad(w)\nelse:\n    w <- w + 1", oracles=oracles)
    assert oracles.asked == {"value": 1}


def test_an_if_merges_versions_cell_by_cell() -> None:
    run = machine(RULE + "    if w > 0:\n        w <- 1\n    else:\n        w <- w - 1\n")
    before = [x.clone() for x in run.tensors()]
    run.step()
    for old, new in zip(before, run.tensors(), strict=True):
        assert torch.equal(new, torch.where(old > 0, torch.ones_like(old), old - 1))


def test_evaluation_holds_what_eval_says() -> None:
    run = after("state mean = w\nw <- w + 1\nmean <- 0.5 * mean + 0.5 * w\neval mean", steps=2)
    assert float(run.evals["w"][0]) == 0.5 * 0.5 + 0.5 * 2


def test_state_may_begin_with_a_gradient() -> None:
    run = after("state g0 = grad(w)\nw <- w - lr * g0", steps=2)
    assert math.isclose(w_of(run), 0.2)  # the gradient at the first step, -1, twice
