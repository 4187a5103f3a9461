"""A veto that the host does not wait for: the numbers are those of a veto that it waits for.

The device is the CPU, told to be one that is waited for.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

import optc
from optc.runtime import optimizer, withheld

from .rules import ADAMW, RULES
from .test_scaler import BEGINS, LION, MATRIX, Problem

COUNTED = """rule counted(lr: nonnegative = 0.1):
    state m = zeros(w), s = zeros(w), n: model = 0, r: tensor = 0
    g = grad(w)
    k = sum(g^2, over = model)
    veto when not isfinite(k)
    always n <- n + where(isfinite(k), 0, 1)
    always s <- s + 1
    r <- 0.5 * r + sum(abs(g), over = tensor)
    m <- 0.9 * m + g
    w <- w - lr * m / (1 + n + r + 0.01 * s)
    metric skipped = n
"""
GUARDED = {"adamw": ADAMW, "lion": LION, "muon": MATRIX, "a state's first value": BEGINS}
GUARDED |= {"what is always written": COUNTED}


@contextmanager
def waiting() -> Iterator[None]:
    """Reading a number from a tensor has to wait, as on a GPU."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (withheld, optimizer):
            patch.setattr(module, "waited_for", lambda device: True)
        yield


def steps(rule: Any, spoilt: set[int], count: int = 6) -> Any:
    generator = torch.Generator().manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(s, generator=generator)) for s in ((3, 4), (5,), ())]
    opt = rule(params, backend="eager")
    for step in range(count):
        for p in params:
            p.grad = torch.cos(p.detach() * (step + 1))
        if step in spoilt:
            params[1].grad[2] = float("inf")
        opt.step()
    return opt


def same(a: Any, b: Any) -> None:
    one, two = a.state_dict(), b.state_dict()
    assert one["param_groups"] == two["param_groups"]
    for x, y in zip(one["state"].values(), two["state"].values(), strict=True):
        assert x.keys() == y.keys()
        assert all(torch.equal(x[key], y[key]) for key in x), x
    for x, y in zip(*(o.param_groups[0]["params"] for o in (a, b)), strict=True):
        assert torch.equal(x, y)


@pytest.mark.parametrize("spoilt", [{0}, {2}, {5}, {0, 1, 3}, set()], ids=str)
@pytest.mark.parametrize("name", GUARDED)
def test_it_is_the_veto_of_the_host(name: str, spoilt: set[int]) -> None:
    rule = optc.loads(GUARDED[name], guard=True)
    host = steps(rule, spoilt)
    with waiting():
        device = steps(rule, spoilt)
        assert device._withheld is not None
        same(host, device)
    assert device.param_groups[0]["steps"] == 6 - len(spoilt)


def test_the_first_step_is_not_waited_for_and_its_first_values_are_forgotten() -> None:
    rule = optc.loads(BEGINS, guard=True)
    with waiting():
        opt = steps(rule, {0}, 1)
        assert opt._open is not None and opt.param_groups[0]["steps"] == 1
        assert opt.state_dict()["param_groups"][0]["steps"] == 0
        assert not any("m" in kept for kept in opt.state.values())
        for p in opt.param_groups[0]["params"]:
            p.grad = torch.ones_like(p)
        opt.step()
        assert all(bool(x.isfinite().all()) for p in opt.state.values() for x in p.values())


def test_a_veto_of_the_rule() -> None:
    rule = optc.loads(RULES["veto"])
    host = steps(rule, {1})
    with waiting():
        same(host, steps(rule, {1}))


def test_a_state_in_int8() -> None:
    rule = optc.loads(
        """rule r(lr: nonnegative = 0.1):
    state m = zeros(w)
    m <- 0.9 * m + grad(w)
    w <- w - lr * m

schedule r:
    store m as int8(block = 16)
""",
        guard=True,
    )
    host = steps(rule, {2})
    with waiting():
        device = steps(rule, {2})
        assert device._withheld.here.item() == 0
        same(host, device)


@pytest.mark.parametrize("text", [ADAMW, LION, BEGINS, MATRIX])
def test_under_a_scaler(text: str) -> None:
    made = []
    for late in (False, True):
        problem = Problem(text, torch.float32, "eager")
        with waiting() if late else pytest.MonkeyPatch.context():
            for step in range(6):
                problem.backward(step, spoil=step in (0, 3))
                problem.scaler.step(problem.opt)
                problem.scaler.update()
            problem.opt.state_dict()
        made.append(problem)
    same(made[0].opt, made[1].opt)
    assert made[1].opt.param_groups[0]["steps"] == 4


def test_the_host_learns_of_it_before_it_looks() -> None:
    """By saving, copying, adding a group; a loaded state is not what was open."""
    rule = optc.loads(ADAMW, guard=True)
    with waiting():
        opt = steps(rule, {5})
        assert opt.param_groups[0]["steps"] == 6
        assert copy.deepcopy(opt).param_groups[0]["steps"] == 5
        opt = steps(rule, {5})
        assert opt.state_dict()["param_groups"][0]["steps"] == 5
        opt = steps(rule, {5})
        opt.add_param_group({"params": [torch.nn.Parameter(torch.ones(2))]})
        assert [group["steps"] for group in opt.param_groups] == [5, 5]
        saved, opt = steps(rule, set(), 3).state_dict(), steps(rule, {5})
        opt.load_state_dict(saved)
        opt.settle()
        assert opt.param_groups[0]["steps"] == 3
