"""State goes to files, copies and other processes, and comes back to the bit."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch

import optc
from optc.runtime.optimizer import optimizer_class

from .compare import compiled, difference, interpreted, made, train
from .rules import ADAMW, AVERAGED, MOMENTUM, VETO


@pytest.mark.parametrize("text", [ADAMW, VETO, AVERAGED])
def test_save_and_resume_to_the_bit(text: str) -> None:
    params, opt = made(text)
    train(params, opt, 3)
    others = [torch.nn.Parameter(p.detach().clone()) for p in params]
    resumed = optimizer_class(compiled(text))(others)
    file = io.BytesIO()
    torch.save(opt.state_dict(), file)
    file.seek(0)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    train(params, opt, 3)
    train(others, resumed, 3)
    for p, q in zip(params, others, strict=True):
        assert torch.equal(p, q)
    leaves = [v for s in opt.state_dict()["state"].values() for v in s.values()]
    assert all(isinstance(v, torch.Tensor | int | float) for v in leaves)


def test_distributed_checkpoints_flatten_it() -> None:
    from torch.distributed.checkpoint.state_dict import (
        StateDictOptions,
        get_optimizer_state_dict,
        set_optimizer_state_dict,
    )

    model = torch.nn.Linear(3, 2)
    cls = optimizer_class(compiled(ADAMW))
    opt = cls(model.parameters())
    options = StateDictOptions(flatten_optimizer_state_dict=True)
    before = [p.detach().clone() for p in model.parameters()]
    state = get_optimizer_state_dict(model, opt, options=options)
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))
    fresh = cls(model.parameters())
    set_optimizer_state_dict(model, fresh, state, options=options)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_state_is_float32_and_stays(dtype: torch.dtype) -> None:
    params, opt = made(dtype=dtype)
    train(params, opt, 2)
    assert opt.state[params[0]]["adam.exp_avg"].dtype == torch.float32
    again = optimizer_class(compiled(ADAMW))(
        [torch.nn.Parameter(p.detach().clone()) for p in params]
    )
    again.load_state_dict(opt.state_dict())
    kept = again.state[again.param_groups[0]["params"][0]]["adam.exp_avg"]
    assert kept.dtype == torch.float32
    assert torch.equal(kept, opt.state[params[0]]["adam.exp_avg"])


def test_deepcopy_and_pickle() -> None:
    params, opt = made()
    train(params, opt, 2)
    for twin in (copy.deepcopy(opt), pickle.loads(pickle.dumps(opt))):
        own = [p for g in twin.param_groups for p in g["params"]]
        train(own, twin, 2)
        assert all(p.grad is not None for p in own)
    train(params, opt, 2)
    for p, q in zip(params, own, strict=True):
        assert torch.equal(p, q)


MOMENTS = """
precondition adam(g):
    state exp_avg = zeros(g), exp_avg_sq = zeros(g)
    exp_avg <- 0.9 * exp_avg + 0.1 * g
    exp_avg_sq <- 0.999 * exp_avg_sq + 0.001 * g^2
    return exp_avg / (1 - 0.9^t) / (sqrt(exp_avg_sq / (1 - 0.999^t)) + 1e-8)

rule a(lr = 0.1):
    precondition adam()
    step lr
"""


def test_training_goes_on_from_a_checkpoint_of_torch() -> None:
    params, opt = made(MOMENTS, torch.float64)
    theirs = torch.optim.Adam(params, lr=0.01)
    train(params, theirs, 3)
    opt.load_state_dict(copy.deepcopy(theirs.state_dict()))
    twins = [torch.nn.Parameter(p.detach().clone()) for p in params]
    again = torch.optim.Adam(twins)
    again.load_state_dict(copy.deepcopy(theirs.state_dict()))
    train(params, opt, 3)
    train(twins, again, 3)
    assert opt.param_groups[0]["lr"] == 0.01 and opt.param_groups[0]["steps"] == 6
    for p, q in zip(params, twins, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-12)


def test_a_checkpoint_of_another_rule_is_refused() -> None:
    params, opt = made(MOMENTS)
    _, other = made(MOMENTUM)
    for stranger in (other, torch.optim.SGD(params, momentum=0.9), torch.optim.Adagrad(params)):
        train([p for g in stranger.param_groups for p in g["params"]], stranger, 1)
        with pytest.raises(ValueError, match="of another optimizer, which keeps .*a keeps `adam"):
            opt.load_state_dict(stranger.state_dict())


def test_the_copy_of_a_scheduled_optimizer_steps_itself() -> None:
    params, opt = made()
    torch.optim.lr_scheduler.ConstantLR(opt)
    train(params, opt, 1)
    for twin in (copy.deepcopy(opt), pickle.loads(pickle.dumps(opt))):
        theirs = twin.param_groups[0]["params"]
        before = [p.detach().clone() for p in (*params, *theirs)]
        train(theirs, twin, 1)
        moved = [not torch.equal(p, q) for p, q in zip((*params, *theirs), before, strict=True)]
        assert not any(moved[: len(params)]) and any(moved[len(params) :])


BFLOAT16 = MOMENTS + "\nschedule a:\n    store exp_avg as bf16\n"
PAIR = MOMENTS + "\nschedule a:\n    store exp_avg as bf16(kahan)\n"


@pytest.mark.parametrize("saved", [MOMENTS, BFLOAT16, PAIR])
@pytest.mark.parametrize("wanted", [MOMENTS, BFLOAT16, PAIR])
def test_a_schedule_at_hand_says_how_loaded_state_is_kept(saved: str, wanted: str) -> None:
    params, opt = made(saved)
    train(params, opt, 3)
    twins, resumed = made(wanted)
    for p, q in zip(params, twins, strict=True):
        q.data.copy_(p.data)
    resumed.load_state_dict(copy.deepcopy(opt.state_dict()))
    kept, was = resumed.state[twins[0]], opt.state[params[0]]
    assert kept["adam.exp_avg"].dtype == (torch.float32 if wanted is MOMENTS else torch.bfloat16)
    assert ("adam.exp_avg.rest" in kept) == (wanted is PAIR)
    whole = [
        s["adam.exp_avg"].float() + s.get("adam.exp_avg.rest", torch.zeros(())) for s in (kept, was)
    ]
    within = 2**-8 if wanted is BFLOAT16 else 2**-15
    torch.testing.assert_close(whole[0], whole[1].float(), rtol=within, atol=0)
    train(params, opt, 1)
    train(twins, resumed, 1)
    for p, q in zip(params, twins, strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=2e-3)


def test_a_pair_goes_on_from_a_checkpoint_of_torch() -> None:
    params, opt = made(PAIR)
    theirs = torch.optim.Adam(params, lr=0.01)
    train(params, theirs, 3)
    opt.load_state_dict(copy.deepcopy(theirs.state_dict()))
    kept, mean = opt.state[params[0]], theirs.state[params[0]]["exp_avg"]
    assert kept["adam.exp_avg"].dtype == kept["adam.exp_avg.rest"].dtype == torch.bfloat16
    whole = kept["adam.exp_avg"].float() + kept["adam.exp_avg.rest"]
    torch.testing.assert_close(whole, mean, rtol=2**-15, atol=0)


FACTORS = """
rule a(lr = 0.1):
    state P: tensor[rows, rows'] = 0, v: row = 0, n = norm(w, over = tensor)
    state C: element[window(4)] = 0, total: model[losses(2)] = 0
    P <- P + matrix(grad(w)) @ transpose(matrix(grad(w)))
    C[0] <- grad(w)
    v <- 0.5 * v + mean(grad(w), over = row)
    n <- n + sum(v, over = tensor) + sum(P, over = (rows, rows')) + sum(total, over = losses)
    w <- w - lr * (grad(w) + sum(C, over = window) + 0 * n)
"""


@pytest.mark.parametrize("slot", ["P", "v", "n", "C", "total"])
def test_a_state_of_another_shape_is_refused_at_load(slot: str) -> None:
    params, opt = made(FACTORS)
    train(params, opt, 2)
    state = copy.deepcopy(opt.state_dict())
    opt.load_state_dict(state)
    train(params, opt, 1)
    before = copy.deepcopy(opt.state_dict())
    state["state"][0][slot] = state["state"][0][slot].new_zeros(7, 7)
    state["param_groups"][0]["lr"] = 5.0
    with pytest.raises(ValueError, match=rf"Invalid state: `{slot}` of parameter 0 .*\[7, 7\]"):
        opt.load_state_dict(state)
    after = opt.state_dict()
    assert before["param_groups"] == after["param_groups"]
    for i, entries in before["state"].items():
        assert all(torch.equal(x, after["state"][i][key]) for key, x in entries.items())


def test_state_of_groups_is_loaded_though_one_is_empty_or_has_just_joined() -> None:
    text = """
rule a(lr = 0.1):
    state n: group = 0
    n <- n + norm(grad(w), over = group)
    w <- w - lr * grad(w) / n
"""
    params, _ = made(text)
    cls = optimizer_class(compiled(text))
    opt = cls([{"params": params[:2]}, {"params": []}])
    train(params, opt, 1)
    opt.load_state_dict(copy.deepcopy(opt.state_dict()))
    opt.add_param_group({"params": params[2:]})
    opt.load_state_dict(copy.deepcopy(opt.state_dict()))
    train(params, opt, 1)
    assert opt.state[params[0]]["n"].shape == (3,)
    sizes = opt.state[params[0]]["n"]
    assert sizes[0] > 0 and sizes[1] == 0 and sizes[2] > 0
    state = copy.deepcopy(opt.state_dict())
    state["state"][0]["n"] = torch.zeros(5)
    with pytest.raises(ValueError, match=r"`n` of parameter 0 was saved with the shape \[5\]"):
        opt.load_state_dict(state)


@pytest.mark.parametrize("backend", ["eager", "c"])
def test_a_state_of_rows_that_begins_as_a_number_has_a_number_a_row(backend: str) -> None:
    text = """
rule a(lr = 0.1):
    state v: row = 0
    v <- 0.5 * v + mean(grad(w)^2, over = row)
    w <- w - lr * grad(w) / (sqrt(v) + 1)
"""
    params, opt = made(text, torch.float64, backend=backend)
    train(params, opt, 3)
    assert [tuple(opt.state[p]["v"].shape) for p in params] == [(5, 1), (2, 1), (5,), ()]
    assert difference(params, interpreted(text, 3).tensors()) < 1e-12


def test_what_is_bound_stays_so_when_state_is_loaded() -> None:
    """The step would take what is in `.grad`, nothing, and train no more without a word."""
    p = torch.nn.Parameter(torch.ones(3))
    opt = optc.loads("rule r(lr = 0.1):\n    smooth momentum(0.9)\n    step lr\n")([p])
    opt.bind(objective=lambda: (p**2).sum())
    opt.step()
    opt.load_state_dict(opt.state_dict())
    before = p.detach().clone()
    opt.step()
    assert not torch.equal(before, p)


def test_a_state_of_the_same_parameters_in_another_order_is_refused() -> None:
    """They would take each other's without a word; what has no names cannot be told apart."""
    rule = optc.loads("rule r(lr = 0.1):\n    smooth momentum(0.9)\n    step lr\n")
    pairs = [(name, torch.nn.Parameter(torch.ones(3))) for name in "ab"]
    saved = rule([{"params": [pair]} for pair in pairs]).state_dict()
    other = rule([{"params": [pair]} for pair in reversed(pairs)])
    with pytest.raises(ValueError, match="saved with `a` where `b` stands now"):
        other.load_state_dict(saved)
    rule([p for _, p in pairs]).load_state_dict(rule([p for _, p in reversed(pairs)]).state_dict())
