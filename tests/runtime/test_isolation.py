"""An evaluation leaves no trace: points, dropout masks, running statistics."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import optc
from optc.runtime.closure import Closure

from .closures import ask, copies, everything, ordinary, same
from .network import HELD, moved, network, params

pytestmark = pytest.mark.usefixtures("as_in_a_step")


def test_a_point_is_where_the_loss_is_evaluated():
    model = network()
    there = moved(model)
    other = network()
    for p, x in zip(other.parameters(), there["w"], strict=True):
        p.copy_(x)
    with torch.enable_grad():
        expected = ordinary(other)()
    before, places = everything(model), [p.data_ptr() for p in model.parameters()]
    value, g = ask(Closure(params(model), ordinary(model)), there)
    assert torch.equal(value, expected) and not value.requires_grad
    assert same(g, [p.grad for p in other.parameters()])
    assert same(before, everything(model))
    assert places == [p.data_ptr() for p in model.parameters()], "swapped, not copied"


@pytest.mark.parametrize("evaluation", [0, 1])
@pytest.mark.parametrize("set_to_none", [True, False])
def test_what_raises_midway_leaves_everything_to_the_bit(evaluation, set_to_none):
    model = network(0.5, norm=True)
    with torch.enable_grad():
        ordinary(model)()
    there, gradients = moved(model), copies([p.grad for p in model.parameters()])
    before = everything(model)
    inner, calls = ordinary(model, set_to_none), []

    def closure():
        calls.append(1)
        loss = inner()
        if len(calls) > evaluation:
            raise FloatingPointError("midway")
        return loss

    loop = Closure(params(model), closure, modules=[model])
    with pytest.raises(FloatingPointError):
        if evaluation:
            ask(loop)
        ask(loop, there)
    loop.finish()
    assert same(before, everything(model))
    assert same(gradients, [p.grad for p in model.parameters()])
    assert not torch.is_grad_enabled()


def test_views_of_a_flat_buffer_are_copied_in_place():
    flat = torch.randn(6, dtype=torch.float64)
    w = nn.Parameter(flat[:3])
    before = flat.clone()

    def closure():
        w.grad = None
        (flat[:3].detach() @ w).backward()  # a module that reads its buffer and not the parameter
        return flat.sum()

    loop = Closure({"w": [w]}, closure)
    value, _ = ask(loop, {"w": [torch.ones(3, dtype=torch.float64)]})
    assert value == 3 + before[3:].sum() and torch.equal(flat, before)


def test_a_parameter_given_as_its_own_point_stands():
    model = network(norm=True)
    loop = Closure(params(model), ordinary(model))
    _, here = ask(loop)
    _, again = ask(loop, {"w": list(model.parameters())})
    assert same(here, again)


def test_the_same_mask_in_every_evaluation_and_the_generator_goes_on_once():
    model = network(0.5, norm=True)
    model[1].eval()
    state = torch.get_rng_state()
    with torch.enable_grad():
        ordinary(model)()
    after = torch.get_rng_state()
    torch.set_rng_state(state)
    loop = Closure(params(model), ordinary(model), modules=[model])
    there = {"w": [p.detach().clone() for p in model.parameters()]}
    (v1, g1), (v2, g2), (v3, g3) = ask(loop), ask(loop, there), ask(loop)
    assert torch.equal(v1, v2) and torch.equal(v1, v3) and same(g1, g2) and same(g1, g3)
    assert torch.equal(torch.get_rng_state(), after)
    loop.finish()
    assert not torch.equal(ask(loop)[0], v1), "the next step has masks of its own"


def test_fresh_masks_where_asked_for():
    model = network(0.5, norm=True)
    loop = Closure(params(model), ordinary(model), seed="fresh")
    assert not torch.equal(ask(loop)[0], ask(loop)[0])


@pytest.mark.parametrize("order", ["held first", "held last"])
def test_running_statistics_are_written_once_at_the_held_point(order):
    model, twin = network(norm=True), network(norm=True)
    twin.load_state_dict(model.state_dict())
    with torch.enable_grad():
        ordinary(twin)()
    points = [HELD, moved(model), HELD, moved(model)]
    loop = Closure(params(model), ordinary(model))
    for point in points if order == "held first" else points[::-1]:
        ask(loop, point)
    assert same(model.buffers(), twin.buffers())


def test_statistics_by_option():
    for stats, count in (("first", 1), ("none", 0)):
        model = network(0.5, norm=True)
        loop = Closure(params(model), ordinary(model), stats=stats)
        ask(loop, moved(model))
        ask(loop)
        assert int(model[1].num_batches_tracked) == count
    with pytest.raises(ValueError, match="Invalid stats"):
        Closure({}, lambda: None, stats="all")


def test_a_first_step_that_finds_out_how_to_map_moves_the_generator_on():
    """Without a model the places of an axis are asked one by one."""
    model, x = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5)), torch.randn(5, 4)
    text = (
        "rule r(lr = 0.1):\n    z = normal(w, probes(3))\n"
        "    w <- w - lr * mean(z * loss(w + 0.1 * z), over = probes)\n"
    )
    opt = optc.loads(text)(model.parameters())
    torch.manual_seed(0)
    model(x)
    after = torch.get_rng_state()
    torch.manual_seed(0)
    opt.step(objective=lambda: model(x).sum())
    assert torch.equal(torch.get_rng_state(), after)
