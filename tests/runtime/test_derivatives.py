"""Derivatives of a bound objective against torch's: gradients, curvature, along vectors."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

from optc.runtime.loop import Question
from optc.runtime.objective import Objective

from .network import HELD, moved, network, params, random_like
from .objectives import batch, bound

pytestmark = pytest.mark.usefixtures("as_in_a_step")

check = torch.testing.assert_close


def as_function(model, data, loss=lambda out, y: cross_entropy(out, y)):
    """The loss as a function of the parameters, for torch.autograd.functional."""
    names = [n for n, _ in model.named_parameters()]

    def function(*values):
        out = torch.func.functional_call(model, dict(zip(names, values, strict=True)), data[0])
        return loss(out, data[1])

    return function


def point_of(model, points):
    return tuple(p.detach().clone() for p in (points["w"] or model.parameters()))


@pytest.mark.parametrize("where", ["held", "moved"])
@pytest.mark.parametrize("curvature", ["reverse", "forward", "finite"])
def test_derivatives_against_torch(where, curvature):
    model, data = network(), batch()
    points = HELD if where == "held" else moved(model)
    function, at = as_function(model, data), point_of(model, points)
    loop, v = bound(model, curvature=curvature), random_like(model)
    before = [p.clone() for p in model.parameters()]
    value, g = loop.evaluate(Question("loss", points, data, value=True, gradients=("w",)))
    hvp = loop.hvp("loss", points, data, "w", "w", v)
    jvp = loop.jvp("loss", points, data, "w", v)
    vjp = loop.vjp("loss", points, data, "w", torch.tensor(3.0))
    with torch.enable_grad():
        expected, h = torch.autograd.functional.vhp(function, at, tuple(v))
        g0 = torch.autograd.functional.jacobian(function, at)
        j = torch.autograd.functional.jvp(function, at, tuple(v))[1]
    check(value, expected)
    check(g["w"], list(g0))
    loose = {"rtol": 1e-5, "atol": 1e-7} if curvature == "finite" else {}
    check(hvp, list(h), **loose)
    check(jvp, j)
    check(vjp, [3 * x for x in g0])
    assert all(p.grad is None for p in model.parameters())
    check([*model.parameters()], before, rtol=0, atol=0)
    assert not any(x.requires_grad for x in (value, jvp, *g["w"], *hvp, *vjp))
    assert all(loop.works.values())


@pytest.mark.parametrize("curvature", ["reverse", "forward"])
def test_derivatives_with_dropout_and_batch_norm_leave_no_trace(curvature):
    model, data = network(0.5, norm=True), batch()
    loop, v = bound(model, curvature=curvature), random_like(model)
    loop.evaluate(Question("loss", HELD, data, value=True, gradients=()))
    before = [b.clone() for b in model.buffers()], torch.get_rng_state()
    h = loop.hvp("loss", HELD, data, "w", "w", v)
    check(loop.hvp("loss", HELD, data, "w", "w", v), h)
    _, g = loop.evaluate(Question("loss", HELD, data, value=False, gradients=("w",)))
    pairs = zip(g["w"], v, strict=True)
    check(loop.jvp("loss", HELD, data, "w", v), sum((a * b).sum() for a, b in pairs))
    check([*model.buffers()], before[0], rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), before[1])


def test_statistics_are_kept_where_the_first_evaluation_is_a_derivative():
    model, twin, data = network(norm=True), network(norm=True), batch()
    twin.load_state_dict(model.state_dict())
    twin(data[0])
    loop = bound(model)
    for _ in range(2):
        loop.jvp("loss", HELD, data, "w", random_like(model))
    check(model[1].running_mean, twin[1].running_mean)
    assert int(model[1].num_batches_tracked) == 1 and loop.works == {"forward": True}


def test_what_has_no_forward_mode_falls_back():
    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        def backward(ctx, g):
            return 2 * ctx.saved_tensors[0] * g

    model, data = network(), batch()
    loop = Objective(params(model), model, lambda b: Square.apply(model(b[0])).mean())
    v = random_like(model)
    _, g = loop.evaluate(Question("loss", HELD, data, value=False, gradients=("w",)))
    pairs = zip(g["w"], v, strict=True)
    check(loop.jvp("loss", HELD, data, "w", v), sum((a * b).sum() for a, b in pairs))
    assert loop.works == {"forward": False}


def test_attention_can_be_differentiated_twice():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Linear(8, 24)

        def forward(self, x):
            q, k, v = self.w(x).view(2, 5, 1, 24).transpose(1, 2).chunk(3, -1)
            return scaled_dot_product_attention(q, k, v, is_causal=True)

    model, x = Attention(), torch.randn(2, 5, 8)
    loop = Objective(params(model), model, lambda b: model(b).square().mean())
    v = random_like(model)
    h = loop.hvp("loss", HELD, x, "w", "w", v)
    loop.curvature = "finite"
    check(loop.hvp("loss", HELD, x, "w", "w", v), h, rtol=1e-2, atol=1e-3)


def test_parameters_outside_a_module():
    x = torch.randn(5, dtype=torch.float64)
    w, unused, frozen = (nn.Parameter(torch.ones(5, dtype=torch.float64)) for _ in range(3))
    frozen.requires_grad_(False)
    loop = Objective({"w": [w, unused, frozen]}, objective=lambda: (w * w * x * frozen).sum())
    _, g = loop.evaluate(Question("loss", HELD, None, value=False, gradients=("w",)))
    check(g["w"][0], 2 * x)
    assert g["w"][1:] == [None, None]
    v = [torch.ones(5).double()] * 3
    h = loop.hvp("loss", HELD, None, "w", "w", v)
    check(h[0], 2 * x)
    assert h[1:] == [None, None]
    check(loop.jvp("loss", HELD, None, "w", v), (2 * x).sum())
    linear = Objective({"w": [w]}, objective=lambda: (w * x).sum())
    check(linear.hvp("loss", HELD, None, "w", "w", v[:1]), [torch.zeros(5).double()])


def test_two_targets_and_mixed_derivatives():
    a, b = nn.Linear(3, 2).double(), nn.Linear(2, 1).double()
    model, x = nn.Sequential(a, nn.Tanh(), b), torch.randn(7, 3, dtype=torch.float64)
    targets = {"gen": list(a.parameters()), "critic": list(b.parameters())}
    both = {"d": lambda: -model(x).square().mean(), "g": lambda: model(x).square().mean()}
    loop = Objective(targets, model, both)
    held = {"gen": None, "critic": None}
    _, g = loop.evaluate(Question("g", held, None, value=False, gradients=("gen", "critic")))
    _, d = loop.evaluate(Question("d", held, None, value=False, gradients=("critic",)))
    check(d["critic"], [-x for x in g["critic"]])
    v = [torch.randn_like(p) for p in targets["critic"]]
    mixed = loop.hvp("g", held, None, "gen", "critic", v)
    h = 1e-5
    sides = [
        loop.evaluate(
            Question(
                "g",
                {
                    **held,
                    "critic": [p + s * h * q for p, q in zip(targets["critic"], v, strict=True)],
                },
                None,
                value=False,
                gradients=("gen",),
            )
        )[1]["gen"]
        for s in (1, -1)
    ]
    check(mixed, [(p - q) / (2 * h) for p, q in zip(*sides, strict=True)], rtol=1e-5, atol=1e-8)
