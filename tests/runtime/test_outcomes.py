"""What a step that is taken back leaves: nothing, but what is always written."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import optc
from optc.runtime.functional import Step
from optc.runtime.native import compiler

BACKENDS = ["eager", *(["c"] if compiler() else [])]
EARLY = """
rule early(lr = 0.1):
    input big
    g = grad(w)
    state s = zeros(w), m = zeros(w)
    veto when big > 100
    always s <- s + 1
    m <- 0.9 * m + g
    w <- w - lr * m - 0.001 * s
"""
"""The outcome is known before any kernel runs."""
BEGINS = """rule begins(lr = 0.01):
    state m = grad(w), n: model = sum(grad(w)^2, over = model)
    m <- 0.9 * m + 0.1 * grad(w)
    n <- 0.9 * n
    w <- w - lr * m / sqrt(1 + n)
"""


def steps(opt: Any, p: torch.Tensor, gradients: list[float], **inputs: list[float]) -> None:
    for turn, value in enumerate(gradients):
        p.grad = torch.full_like(p, value)
        opt.supply(**{name: values[turn] for name, values in inputs.items()})
        opt.step()


@pytest.mark.parametrize("backend", BACKENDS)
def test_always_is_written_where_the_outcome_is_known_early(backend: str) -> None:
    p = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
    opt = optc.loads(EARLY)([p], backend=backend)
    steps(opt, p, [1.0, 1.0, 1.0], big=[1.0, 200.0, 1.0])
    state = opt.state[p]
    assert state["s"].tolist() == [3.0] * 3 and int(state["step"]) == 2
    assert torch.allclose(state["m"], torch.full_like(p, 1.9))
    assert torch.allclose(p.detach(), torch.full_like(p, 1 - 0.1 - 0.19 - 0.004), atol=1e-15)


@pytest.mark.parametrize("backend", BACKENDS)
def test_first_values_of_a_step_that_is_taken_back_are_forgotten(backend: str) -> None:
    """As in the interpreter: state begins in the first step that counts."""
    p = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
    opt = optc.loads(BEGINS, guard=True)([p], backend=backend)
    steps(opt, p, [float("nan")])
    assert opt.state[p].keys() == {"step"} and p.tolist() == [1.0] * 3
    steps(opt, p, [2.0, 3.0])

    plain = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
    other = optc.loads(BEGINS)([plain], backend=backend)
    steps(other, plain, [2.0, 3.0])
    assert torch.equal(p, plain) and torch.equal(opt.state[p]["m"], other.state[plain]["m"])


def test_a_group_that_joins_later_keeps_the_state_of_the_others() -> None:
    p, q = (torch.nn.Parameter(torch.ones(3, dtype=torch.float64)) for _ in range(2))
    opt = optc.loads(BEGINS, guard=True)([p])
    steps(opt, p, [2.0])
    kept = opt.state[p]["m"].clone()
    opt.add_param_group({"params": [q]})
    q.grad = torch.full_like(q, float("inf"))
    steps(opt, p, [1.0])
    assert torch.equal(opt.state[p]["m"], kept) and "m" not in opt.state[q]
    q.grad = torch.full_like(q, 4.0)
    steps(opt, p, [1.0])
    assert opt.state[q]["m"].tolist() == [4.0] * 3  # 0.9 * 4 + 0.1 * 4


def test_a_functional_step_forgets_first_values() -> None:
    step = Step(optc.loads(BEGINS, guard=True).program)
    w = torch.ones(3, dtype=torch.float64)
    w, state, _ = step(w, step.init(w), gradient=torch.full_like(w, float("nan")))
    assert "m" not in state["slots"] and state["steps"] == 0
    w, state, _ = step(w, state, gradient=torch.full_like(w, 2.0))
    assert state["slots"]["m"][0].tolist() == [2.0] * 3


LOOPED = """
rule looped(lr = 0.1, turns = 3):
    state m = zeros(w), met: model = 0
    g = grad(w)
    m <- 0.5 * m + g
    var v = m / 2
    repeat turns:
        v <- 0.5 * v + sin(v)
    w <- w - lr * v
    {}
    veto when call == 2
"""
SIZE = "metric size = norm(v, over = model)"
MET = "always met <- met + sum(v, over = model)\n    metric seen = met"


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("line", ["", SIZE, MET], ids=["", "metric", "always"])
def test_a_loop_behind_a_write_is_left_out_or_not_with_it(line: str, backend: str) -> None:
    """It is run where a metric, or what is always written, needs what it gives."""
    p = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
    opt = optc.loads(LOOPED.format(line))([p], backend=backend)
    m, size, met = 0.0, 0.0, 0.0
    for turn, gradient in enumerate((1.0, 2.0)):
        kept = p.detach().clone()
        steps(opt, p, [gradient])
        v = (m / 2 + gradient) / 2
        for _ in range(3):
            v = 0.5 * v + math.sin(v)
        m, size, met = m / 2 + gradient, v * math.sqrt(3), met + 3 * v
        assert torch.equal(kept, p.detach()) is bool(turn)
        if line == SIZE:
            assert float(opt.metrics["size"]) == pytest.approx(size, rel=1e-12)
        if line == MET:
            assert float(opt.state[p]["met"]) == pytest.approx(met, rel=1e-12)
    assert opt.state[p]["m"].tolist() == [1.0] * 3


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("guarded", [False, True])
def test_a_step_that_is_taken_back_leaves_out_what_needs_its_writes(
    backend: str, guarded: bool
) -> None:
    """The window is written behind the pass that writes the parameter, from what that made."""
    text = "rule r(lr = 0.1):\n    clip global_norm(1)\n    smooth grokfast_ma()\n    step lr\n"
    text += "    veto when call == 2\n"
    p = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
    opt = optc.loads(text, guard=guarded)([p], backend=backend)
    steps(opt, p, [1.0])
    kept = {k: v.clone() for k, v in opt.state[p].items()}
    held = p.detach().clone()
    steps(opt, p, [float("inf")])
    assert torch.equal(p, held) and opt.param_groups[0]["steps"] == 1
    assert all(torch.equal(v, opt.state[p][k]) for k, v in kept.items())
    steps(opt, p, [1.0])
    assert opt.param_groups[0]["steps"] == 2 and bool((p < held).all())
