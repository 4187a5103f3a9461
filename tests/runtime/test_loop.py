"""What each loop gives, and what it says where it cannot."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from optc.runtime.closure import Closure
from optc.runtime.derivatives import finite_hvp
from optc.runtime.gradients import Gradients
from optc.runtime.loop import Question
from optc.runtime.objective import Objective

from .closures import ask, data, ordinary, same
from .network import HELD, moved, network, params

pytestmark = pytest.mark.usefixtures("as_in_a_step")


def test_gradients_alone():
    model = network(0.5, norm=True)
    with torch.enable_grad():
        ordinary(model)()
    loop = Gradients(params(model))
    _, g = loop.evaluate(Question("loss", HELD, None, value=False, gradients=("w",)))
    assert all(x is p.grad for x, p in zip(g["w"], model.parameters(), strict=True))
    with pytest.raises(RuntimeError, match=r"optimizer.step\(closure\)"):
        ask(loop)
    with pytest.raises(RuntimeError, match="at another point.*closure"):
        loop.evaluate(Question("loss", moved(model), None, value=False, gradients=("w",)))
    with pytest.raises(RuntimeError, match=r"curvature.*bind\(model=model, objective="):
        loop.hvp("loss", HELD, None, "w", "w", moved(model)["w"])
    with pytest.raises(RuntimeError, match="data of its own"):
        loop.data("draw", [], {})


def test_a_closure_gives_curvature_by_differences_only():
    model = network(0.5)
    v = moved(model)["w"]
    exact = Closure(params(model), ordinary(model))
    with pytest.raises(RuntimeError, match=r"bind\(model=model, objective=.*curvature='finite'"):
        exact.hvp("loss", HELD, None, "w", "w", v)
    loop = Closure(params(model), ordinary(model), curvature="finite", seed="same")

    def loss(batch):
        return cross_entropy(model(batch[0]), batch[1])

    objective = Objective(params(model), model, loss)
    state = torch.get_rng_state()
    found = loop.hvp("loss", HELD, None, "w", "w", v)
    torch.set_rng_state(state)
    expected = objective.hvp("loss", HELD, data(), "w", "w", v)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)
    assert finite_hvp(loop, "loss", HELD, None, "w", "w", [None] * len(v))[0].abs().max() == 0


def test_jvp_and_vjp_of_a_scalar_closure_are_exact():
    model = network(norm=True)
    loop = Closure(params(model), ordinary(model))
    v = moved(model)["w"]
    _, g = ask(loop)
    expected = sum((a * b).sum() for a, b in zip(g, v, strict=True))
    torch.testing.assert_close(loop.jvp("loss", HELD, None, "w", v), expected)
    torch.testing.assert_close(
        loop.vjp("loss", HELD, None, "w", torch.tensor(2.0)), [2 * x for x in g]
    )


def test_two_objectives_are_two_closures():
    generator, critic = nn.Linear(2, 2).double(), nn.Linear(2, 1).double()
    z = torch.randn(5, 2, dtype=torch.float64)

    def loss(sign, module):
        def closure():
            generator.zero_grad()
            critic.zero_grad()
            value = sign * critic(generator(z)).mean()
            value.backward()
            return value

        return closure

    groups = {"gen": list(generator.parameters()), "critic": list(critic.parameters())}
    loop = Closure(groups, {"d": loss(1, critic), "g": loss(-1, generator)})
    points = {"gen": None, "critic": None}
    _, d = loop.evaluate(Question("d", points, None, value=True, gradients=("critic",)))
    _, g = loop.evaluate(Question("g", points, None, value=True, gradients=("gen",)))
    loop.finish()
    assert same([p.grad for p in critic.parameters()], d["critic"])
    assert same([p.grad for p in generator.parameters()], g["gen"])
    one = Closure(groups, loss(1, critic))
    one.evaluate(Question("d", points, None, value=True, gradients=("critic",)))
    with pytest.raises(RuntimeError, match="two objectives: pass step"):
        one.evaluate(Question("g", points, None, value=True, gradients=("gen",)))
