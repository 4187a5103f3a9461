"""What a rule means: versions, clocks, absent gradients, outcomes, routing, loops, axes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from optc.compiler.interpret import Interpreter, Tensors

from .loops import Autograd, largest_gap, machine, quadratic, started, wavy

RULE = "rule r(lr = 0.1):\n"


def one(value: float = 0.0) -> Tensors:
    """A model of one number."""
    return Tensors(["w"], [torch.tensor(value, dtype=torch.float64)])


def after(body: str, steps: int = 1, start: float = 0.0, **more: Any) -> Interpreter:
    """A rule of these lines on a model of one number, whose gradient is w - 1."""
    text = RULE + "".join(f"    {line}\n" for line in body.splitlines())
    run = machine(text, tensors=one(start), **more)
    for _ in range(steps):
        run.step()
    return run


def w_of(run: Interpreter) -> float:
    return float(run.tensors()[0])


def metric(run: Interpreter, name: str) -> float:
    return float(run.metrics[name])


# Against torch ----------------------------------------------------------------------------------

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


# Versions ---------------------------------------------------------------------------------------


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


# Clocks, absence, outcomes ----------------------------------------------------------------------


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


# Routing and groups -----------------------------------------------------------------------------

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


# Loops ------------------------------------------------------------------------------------------


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


# Axes -------------------------------------------------------------------------------------------


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
