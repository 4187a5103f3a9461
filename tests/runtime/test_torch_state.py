"""The way back: a torch optimizer goes on from the state of the rule that keeps the same slots."""

from __future__ import annotations

import copy
from collections import defaultdict
from typing import Any

import pytest
import torch

import optc
from optc.runtime.optimizer import optimizer_class

from .compare import SHAPES, compiled, made, start, train
from .rules import ADAMW, VETO

SGD = """
rule sgd(lr: nonnegative = 0.1, momentum: nonnegative = 0.9, weight_decay: nonnegative = 0.0):
    regularize l2(weight_decay)
    smooth momentum(momentum)
    step lr
"""
COMPACT = """
schedule adamw:
    store exp_avg as {}
"""


def twins(params: list[torch.nn.Parameter]) -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(p.detach().clone()) for p in params]


def both_go_on(params: list[Any], opt: Any, theirs: Any, within: float) -> None:
    """Three steps of each, from the same state."""
    others = [p for g in theirs.param_groups for p in g["params"]]
    theirs.load_state_dict(copy.deepcopy(optc.torch_state(opt, theirs)))
    train(params, opt, 3)
    train(others, theirs, 3)
    for p, q in zip(params, others, strict=True):
        torch.testing.assert_close(p, q, rtol=within, atol=within)


@pytest.mark.parametrize("fused", [True, False])
def test_adamw_of_torch_goes_on(fused: bool) -> None:
    params, opt = made(ADAMW, torch.float64, lr=0.02, betas=(0.8, 0.95), weight_decay=0.1)
    train(params, opt, 3)
    theirs = torch.optim.AdamW(twins(params), fused=fused)
    both_go_on(params, opt, theirs, 1e-12)
    group, entries = theirs.param_groups[0], theirs.state[theirs.param_groups[0]["params"][0]]
    assert (group["lr"], group["betas"], group["fused"]) == (0.02, (0.8, 0.95), fused)
    assert float(entries["step"]) == 6 and entries.keys() == {"step", "exp_avg", "exp_avg_sq"}


def test_sgd_of_torch_goes_on() -> None:
    params = [torch.nn.Parameter(v) for _, v in start()]
    opt = optc.loads(SGD)([{"params": params[:2], "lr": 0.02}, {"params": params[2:]}], lr=0.01)
    train(params, opt, 3)
    others = twins(params)
    theirs = torch.optim.SGD([{"params": others[:2]}, {"params": others[2:]}])
    both_go_on(params, opt, theirs, 1e-12)
    assert [g["lr"] for g in theirs.param_groups] == [0.02, 0.01]


@pytest.mark.parametrize(
    ("format", "within"), [("bf16(kahan)", 1e-5), ("bf16", 1e-3), ("int8", 1e-2)]
)
def test_state_that_is_stored_in_fewer_bits_goes_as_numbers(format: str, within: float) -> None:
    params, opt = made(ADAMW + COMPACT.format(format), lr=0.01)
    train(params, opt, 3)
    theirs = torch.optim.AdamW(twins(params))
    both_go_on(params, opt, theirs, within)
    assert theirs.state[theirs.param_groups[0]["params"][0]]["exp_avg"].dtype == torch.float32


def test_late_tensors_keep_their_own_clock() -> None:
    params, opt = made(ADAMW)
    for steps, count in ((2, 3), (1, 4)):
        for _ in range(steps):
            for p in params[:count]:
                p.grad = torch.ones_like(p)
            opt.step()
    theirs = torch.optim.AdamW(twins(params))
    theirs.load_state_dict(optc.torch_state(opt, theirs))
    assert [float(s["step"]) for s in theirs.state.values()] == [3, 3, 3, 1]


@pytest.mark.parametrize(
    ("text", "kind", "options", "says"),
    [
        (ADAMW, torch.optim.SGD, {"momentum": 0.9}, "SGD with these options keeps `momentum_buff"),
        (ADAMW, torch.optim.SGD, {}, "SGD with these options keeps nothing"),
        (ADAMW, torch.optim.AdamW, {"amsgrad": True}, "keeps `exp_avg`, .*`max_exp_avg_sq`"),
        (VETO, torch.optim.Adam, {}, "careful keeps `skipped`, `step` for a p"),
    ],
)
def test_slots_that_do_not_match_are_refused(text: str, kind: Any, options: Any, says: str) -> None:
    params, opt = made(text)
    train(params, opt, 1)
    with pytest.raises(ValueError, match=f"Invalid state: .*{says}"):
        optc.torch_state(opt, kind(twins(params), **options))


def test_other_parameters_are_refused() -> None:
    params, opt = made(ADAMW)
    train(params, opt, 1)
    with pytest.raises(ValueError, match=rf"groups hold \[1\] parameters, .* hold \[{len(SHAPES)}"):
        optc.torch_state(opt, torch.optim.AdamW(twins(params[:1])))


def test_before_the_first_step_there_is_no_state() -> None:
    params = [torch.nn.Parameter(v) for _, v in start()]
    opt = optimizer_class(compiled(ADAMW))(params, lr=0.5)
    theirs = torch.optim.AdamW(twins(params))
    theirs.load_state_dict(optc.torch_state(opt, theirs))
    assert theirs.param_groups[0]["lr"] == 0.5 and not theirs.state


def cleared(opt: torch.optim.Optimizer, p: torch.Tensor) -> None:
    opt.state.clear()


def replaced(opt: torch.optim.Optimizer, p: torch.Tensor) -> None:
    opt.state = defaultdict(dict)


def taken_out(opt: torch.optim.Optimizer, p: torch.Tensor) -> None:
    del opt.state[p]


def looked_at(opt: torch.optim.Optimizer, p: torch.Tensor) -> None:
    assert not opt.state[torch.ones(1)]


@pytest.mark.parametrize("change", [cleared, replaced, taken_out, looked_at])
def test_state_that_the_loop_changes_begins_anew_as_in_torch(change: Any) -> None:
    both = []
    for cls in (optimizer_class(compiled(ADAMW)), torch.optim.AdamW):
        params = [torch.nn.Parameter(torch.ones(3, dtype=torch.float64)) for _ in range(2)]
        opt = cls(params, lr=0.1, weight_decay=0.01)
        for step in range(6):
            if step == 3:
                change(opt, params[0])
            for p in params:
                p.grad = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64) * (1 + step)
            opt.step()
        both.append([*params, opt.state[params[0]]["step"].double()])
    torch.testing.assert_close(both[0], both[1], rtol=1e-12, atol=1e-12)
