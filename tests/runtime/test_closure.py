"""Closures: which gradients are read, kept and shown, and what a scaler hears."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from optc.runtime.closure import Closure
from optc.runtime.loop import Question

from .closures import ask, copies, data, ordinary, same
from .network import HELD, moved, network, params

pytestmark = pytest.mark.usefixtures("as_in_a_step")


@pytest.mark.parametrize("set_to_none", [True, False])
def test_the_first_gradient_survives_and_is_shown_after(set_to_none):
    model = network(0.5, norm=True)
    loop = Closure(params(model), ordinary(model, set_to_none))
    _, first = ask(loop)
    kept = copies(first)
    ask(loop, moved(model))
    ask(loop, moved(model))
    assert same(first, kept)
    loop.finish()
    assert same([p.grad for p in model.parameters()], kept)


def test_without_the_held_point_the_first_evaluation_is_shown():
    model = network(0.5, norm=True)
    loop = Closure(params(model), ordinary(model))
    _, first = ask(loop, moved(model))
    ask(loop, moved(model))
    loop.finish()
    assert same([p.grad for p in model.parameters()], first)


def test_gradients_that_share_a_storage_are_copied():
    model = network(0.5)
    x, y = data()
    flat = torch.zeros(sum(p.numel() for p in model.parameters()), dtype=torch.float64)

    def closure():  # as DDP(gradient_as_bucket_view=True) does
        loss = cross_entropy(model(x), y)
        grads = torch.autograd.grad(loss, list(model.parameters()))
        start = 0
        for p, g in zip(model.parameters(), grads, strict=True):
            p.grad = flat[start : start + p.numel()].view_as(p)
            p.grad.copy_(g)
            start += p.numel()
        return loss

    loop = Closure(params(model), closure)
    _, first = ask(loop)
    kept = copies(first)
    ask(loop, moved(model))
    assert same(first, kept)


def test_a_gradient_that_is_written_over_is_an_error():
    w = nn.Parameter(torch.ones(3))
    buffer = torch.ones(3)

    def closure():
        w.grad = buffer
        return w.sum()

    loop = Closure({"w": [w]}, closure)
    _, first = ask(loop)
    with pytest.raises(RuntimeError, match="wrote its gradients over"):
        ask(loop, {"w": [torch.zeros(3)]})
    assert first


def test_many_evaluations_whose_gradients_are_freed():
    model = network(0.5, norm=True)
    loop = Closure(params(model), ordinary(model))
    for _ in range(20):
        ask(loop, moved(model))


def test_accumulation_within_the_closure():
    model = network()
    x, y = data()

    def closure():
        model.zero_grad()
        total = 0.0
        for part, label in zip(x.chunk(4), y.chunk(4), strict=True):
            loss = cross_entropy(model(part), label) / 4
            loss.backward()
            total += loss.item()
        return total

    whole = Closure(params(model), ordinary(model))
    there = moved(model)
    for point in (HELD, there):
        value, g = ask(Closure(params(model), closure), point)
        expected, h = ask(whole, point)
        torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=0)
        torch.testing.assert_close(g, h)


def test_gradients_gathered_before_the_step_are_part_of_each_evaluation():
    model = network()
    x, y = data()

    def backward():
        loss = cross_entropy(model(x), y)
        loss.backward()
        return loss

    with torch.enable_grad():
        backward()
    earlier = copies([p.grad for p in model.parameters()])
    there = moved(model)
    loop = Closure(params(model), backward)
    _, first = ask(loop)
    _, second = ask(loop, there)
    _, alone = ask(Closure(params(model), ordinary(model)), there)
    torch.testing.assert_close(first, [2 * g for g in earlier])
    torch.testing.assert_close(second, [g + h for g, h in zip(earlier, alone, strict=True)])


def test_absent_gradients_stay_absent_and_the_loss_may_be_missing():
    w, unused = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))

    def closure():
        w.grad = None
        w.sum().backward()

    loop = Closure({"w": [w, unused]}, closure)
    _, g = loop.evaluate(Question("loss", HELD, None, value=False, gradients=("w",)))
    assert g["w"][1] is None and torch.equal(g["w"][0], torch.ones(2))
    with pytest.raises(RuntimeError, match="return it"):
        ask(loop)


def test_value_and_first_value():
    model = network(0.5, norm=True)
    calls = []
    inner = ordinary(model)
    loop = Closure(params(model), lambda: (calls.append(1), inner())[1])
    value, _ = ask(loop)
    ask(loop, moved(model))
    loop.finish()
    assert loop.first_value is value and len(calls) == 2


# Mixed precision ------------------------------------------------------------------------------


def test_bfloat16_autocast():
    model = network(0.5, norm=True).float()
    x, y = data()

    def closure():
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = cross_entropy(model(x.float()), y)
        loss.backward()
        return loss

    loop = Closure(params(model), closure)
    there = {"w": [p.detach().clone() for p in model.parameters()]}
    (_, g), (_, h) = ask(loop), ask(loop, there)
    assert g[0].dtype == torch.float32 and same(g, h)


def test_a_scaler_that_the_closure_does_not_use():
    model = network(0.5, norm=True)
    loop = Closure(params(model), ordinary(model), scaler=torch.amp.GradScaler("cpu"))
    with pytest.raises(RuntimeError, match="scaler.scale"):
        ask(loop)


def test_a_scaler_unscales_each_evaluation_and_hears_of_one_decision():
    model = network(norm=True).float()
    x, y = data()
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=1)
    factor = [1.0]

    def closure():
        model.zero_grad()
        loss = factor[0] * cross_entropy(model(x.float()), y)
        scaler.scale(loss).backward()
        return loss

    def plain():
        model.zero_grad()
        loss = cross_entropy(model(x.float()), y)
        loss.backward()
        return loss

    there = moved(model)
    expected = [ask(Closure(params(model), plain), p)[1] for p in (HELD, there)]
    loop = Closure(params(model), closure, scaler=scaler)
    for point, g in zip((HELD, there), expected, strict=True):
        torch.testing.assert_close(ask(loop, point)[1], g, rtol=1e-5, atol=1e-7)
    assert float(loop.found_inf) == 0
    loop.finish()
    scaler.update()
    assert scaler.get_scale() == 2048
    torch.testing.assert_close(
        [p.grad for p in model.parameters()], expected[0], rtol=1e-5, atol=1e-7
    )
    ask(loop)
    factor[0] = float("inf")
    ask(loop, there)
    assert float(loop.found_inf) == 1
    loop.finish()
    scaler.update()
    assert scaler.get_scale() == 1024


def test_a_scaler_hears_of_the_gradients_that_are_asked_for():
    """Not of those that the closure makes where the rule reads the loss alone."""
    w = nn.Parameter(torch.ones(2))
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)

    def closure():
        w.grad = None
        loss = (w * (1.0 if w[0] == 1 else float("nan"))).sum()
        scaler.scale(loss).backward()
        return loss

    loop = Closure({"w": [w]}, closure, scaler=scaler)
    ask(loop)
    loop.evaluate(Question("loss", {"w": [torch.zeros(2)]}, None, value=True, gradients=()))
    assert float(loop.found_inf) == 0
    ask(loop, {"w": [torch.zeros(2)]})
    assert float(loop.found_inf) == 1
