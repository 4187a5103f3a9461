"""Bound objectives: derivatives against torch's, axes, examples, batches, sources."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

import optc
from optc.runtime.closure import Closure
from optc.runtime.objective import Objective

HELD = {"w": None}
check = torch.testing.assert_close


@pytest.fixture(autouse=True)
def _as_in_a_step():
    torch.manual_seed(0)
    with torch.no_grad():
        yield


def network(dropout=0.0, norm=False):
    norm_layer = nn.BatchNorm1d(8) if norm else nn.Identity()
    parts = [nn.Linear(4, 8), norm_layer, nn.Dropout(dropout), nn.Tanh(), nn.Linear(8, 3)]
    return nn.Sequential(*parts).double()


def batch(n=12):
    return torch.randn(n, 4, dtype=torch.float64), torch.randint(0, 3, (n,))


def params(model):
    return {"w": list(model.parameters())}


def random_like(model, by=1.0):
    return [by * torch.randn_like(p) for p in model.parameters()]


def moved(model):
    return {"w": [p + d for p, d in zip(model.parameters(), random_like(model, 0.1), strict=True)]}


def bound(model, **more):
    return Objective(params(model), model, lambda b: cross_entropy(model(b[0]), b[1]), **more)


def as_function(model, data, loss=lambda out, y: cross_entropy(out, y)):
    """The loss as a function of the parameters, for torch.autograd.functional."""
    names = [n for n, _ in model.named_parameters()]

    def function(*values):
        out = torch.func.functional_call(model, dict(zip(names, values, strict=True)), data[0])
        return loss(out, data[1])

    return function


def point_of(model, points):
    return tuple(p.detach().clone() for p in (points["w"] or model.parameters()))


# Values and derivatives -----------------------------------------------------------------------


@pytest.mark.parametrize("where", ["held", "moved"])
@pytest.mark.parametrize("curvature", ["reverse", "forward", "finite"])
def test_derivatives_against_torch(where, curvature):
    model, data = network(), batch()
    points = HELD if where == "held" else moved(model)
    function, at = as_function(model, data), point_of(model, points)
    loop, v = bound(model, curvature=curvature), random_like(model)
    before = [p.clone() for p in model.parameters()]
    value, g = loop.evaluate("loss", points, data, value=True, gradients=("w",))
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
    loop.evaluate("loss", HELD, data, value=True, gradients=())
    before = [b.clone() for b in model.buffers()], torch.get_rng_state()
    h = loop.hvp("loss", HELD, data, "w", "w", v)
    check(loop.hvp("loss", HELD, data, "w", "w", v), h)
    _, g = loop.evaluate("loss", HELD, data, value=False, gradients=("w",))
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
    _, g = loop.evaluate("loss", HELD, data, value=False, gradients=("w",))
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
    _, g = loop.evaluate("loss", HELD, None, value=False, gradients=("w",))
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
    _, g = loop.evaluate("g", held, None, value=False, gradients=("gen", "critic"))
    _, d = loop.evaluate("d", held, None, value=False, gradients=("critic",))
    check(d["critic"], [-x for x in g["critic"]])
    v = [torch.randn_like(p) for p in targets["critic"]]
    mixed = loop.hvp("g", held, None, "gen", "critic", v)
    h = 1e-5
    sides = [
        loop.evaluate(
            "g",
            {**held, "critic": [p + s * h * q for p, q in zip(targets["critic"], v, strict=True)]},
            None,
            value=False,
            gradients=("gen",),
        )[1]["gen"]
        for s in (1, -1)
    ]
    check(mixed, [(p - q) / (2 * h) for p, q in zip(*sides, strict=True)], rtol=1e-5, atol=1e-8)


# Several losses, examples, populations -----------------------------------------------------------


@pytest.mark.parametrize("memory", [1 << 28, 1])
def test_vector_objectives_give_one_gradient_a_loss(memory):
    model, data = network(), batch()

    def losses(b):
        each = cross_entropy(model(b[0]), b[1], reduction="none")
        return torch.stack([each.mean(), each.square().mean(), each.max()])

    loop = Objective(params(model), model, losses, memory=memory)
    value, g = loop.evaluate("loss", HELD, data, value=True, gradients=("w",))
    for k in range(3):
        one = Objective(params(model), model, lambda b, k=k: losses(b)[k])
        v, h = one.evaluate("loss", HELD, data, value=True, gradients=("w",))
        check(value[k], v)
        check([x[k] for x in g["w"]], h["w"])
    weights = torch.tensor([1.0, -2.0, 0.5])
    combined = loop.vjp("loss", HELD, data, "w", weights)
    check(combined, [torch.tensordot(weights.double(), x, 1) for x in g["w"]])
    v = random_like(model)
    along = sum((x * y).flatten(1).sum(1) for x, y in zip(g["w"], v, strict=True))
    check(loop.jvp("loss", HELD, data, "w", v), along)


def test_a_matrix_of_outputs_and_losses_by_name():
    model, data = network(), batch(2)
    loop = Objective(
        params(model),
        model,
        lambda b: {"train": cross_entropy(model(b[0]), b[1]), "size": model(b[0]).square().mean()},
        outputs=lambda b: model(b[0]),
    )
    value, g = loop.evaluate("outputs", HELD, data, value=True, gradients=("w",))
    assert value.shape == (2, 3) and g["w"][0].shape == (2, 3, 8, 4)
    value, _ = loop.evaluate("size", HELD, data, value=True, gradients=())
    check(value, model(data[0]).square().mean())
    with pytest.raises(RuntimeError, match="no loss 'val'"):
        loop.evaluate("val", HELD, data, value=True, gradients=())


@pytest.mark.parametrize("memory", [1 << 28, 2000])
@pytest.mark.parametrize("way", ["vmap", "loop"])
def test_gradients_of_single_examples(way, memory):
    model, data = network(0.5), batch(5)
    loop = bound(model, memory=memory)
    loop.works["vmap"] = way == "vmap"
    examples = loop.data("each", [data], {})
    values, g = loop.evaluate_many("loss", HELD, examples, value=True, gradients=("w",))
    for k, one in enumerate(examples.items):
        value, h = loop.evaluate("loss", HELD, one, value=True, gradients=("w",))
        check(values[k], value)
        check([x[k] for x in g["w"]], h["w"])
    assert loop.works["vmap"] == (way == "vmap")


def test_examples_that_vmap_cannot_do():
    model, data = network(), batch(4)

    def loss(b):
        out = model(b[0])
        return cross_entropy(out, b[1]) * (2.0 if out[0, 0].item() > 0 else 1.0)

    loop = Objective(params(model), model, loss)
    _, g = loop.evaluate_many(
        "loss", HELD, loop.data("each", [data], {}), value=False, gradients=("w",)
    )
    assert g["w"][0].shape == (4, 8, 4) and loop.works == {"vmap": False}


@pytest.mark.parametrize("way", ["vmap", "loop"])
def test_a_population_of_points(way):
    model, data = network(0.5, norm=True), batch()
    loop = bound(model)
    loop.works["vmap"] = way == "vmap"
    before = [b.clone() for b in model.buffers()]
    many = {"w": [p + 0.1 * torch.randn(6, *p.shape).double() for p in model.parameters()]}
    values, g = loop.evaluate_many("loss", many, data, value=True, gradients=("w",), over=("w",))
    for k in range(6):
        there = {"w": [x[k] for x in many["w"]]}
        value, h = loop.evaluate("loss", there, data, value=True, gradients=("w",))
        check(values[k], value)
        check([x[k] for x in g["w"]], h["w"])
    check([*model.buffers()], before, rtol=0, atol=0)
    assert loop.works["vmap"] == (way == "vmap")
    only, none = loop.evaluate_many("loss", many, data, value=True, gradients=(), over=("w",))
    check(only, values)
    assert none == {}


# What is restored -----------------------------------------------------------------------------


def test_what_raises_midway_leaves_everything_to_the_bit():
    model, data = network(0.5, norm=True), batch()
    calls = []

    def loss(b):
        found = cross_entropy(model(b[0]), b[1])
        calls.append(1)
        if len(calls) > 1:
            raise FloatingPointError("midway")
        return found

    loop, there = Objective(params(model), model, loss), moved(model)
    every = [*model.parameters(), *model.buffers()]
    before, state = [x.detach().clone() for x in every], torch.get_rng_state()
    loop.evaluate("loss", HELD, data, value=True, gradients=("w",))
    for ask in (
        lambda: loop.evaluate("loss", there, data, value=True, gradients=("w",)),
        lambda: loop.hvp("loss", there, data, "w", "w", there["w"]),
        lambda: loop.jvp("loss", there, data, "w", there["w"]),
    ):
        with pytest.raises(FloatingPointError):
            ask()
    loop.finish()
    check([*every], before, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), state) and not torch.is_grad_enabled()


def test_the_first_value_is_of_this_step():
    model = network()
    loop = bound(model)
    for _ in range(2):
        data = batch()
        value, _ = loop.evaluate("loss", HELD, data, value=True, gradients=("w",))
        loop.evaluate("loss", moved(model), data, value=True, gradients=("w",))
        loop.finish()
        assert loop.first_value is value


def test_a_closure_with_the_bound_model_keeps_its_promises():
    model, data = network(0.5, norm=True), batch()
    hidden = {"model": model}  # nothing that a closure names

    def closure():
        hidden["model"].zero_grad()
        loss = cross_entropy(hidden["model"](data[0]), data[1])
        loss.backward()
        return loss

    whole = bound(model)
    for step in (1, 2):
        loop = Closure(params(model), closure, **whole.for_closure())
        loop.evaluate("loss", HELD, None, value=True, gradients=("w",))
        loop.evaluate("loss", moved(model), None, value=True, gradients=("w",))
        loop.finish()
        assert int(model[1].num_batches_tracked) == step


def test_a_scaler_scales_what_is_differentiated():
    model, data = network().float(), batch()
    data = data[0].float(), data[1]
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=1)
    _, g = bound(model).evaluate("loss", HELD, data, value=False, gradients=("w",))
    loop = bound(model, scaler=scaler)
    value, h = loop.evaluate("loss", HELD, data, value=True, gradients=("w",))
    check(h["w"], g["w"], rtol=1e-5, atol=1e-7)
    loop.finish()
    scaler.update()
    assert scaler.get_scale() == 2048 and loop.first_value is value
    loop.rebound(lambda b: cross_entropy(model(b[0]), b[1]) * float("inf"))
    loop.evaluate("loss", HELD, data, value=True, gradients=("w",))
    assert float(loop.found_inf) > 0
    loop.finish()
    scaler.update()
    assert scaler.get_scale() == 1024


# Data -----------------------------------------------------------------------------------------


def test_batches_in_pieces():
    loop = Objective({})
    whole = {
        "x": torch.arange(10.0),
        "y": [torch.arange(20).view(10, 2), "name"],
        "t": torch.ones(()),
    }
    parts = loop.data("split", [whole, torch.tensor(3.0)], {})
    assert [len(p["x"]) for p in parts.items] == [4, 3, 3]
    assert parts[1]["x"].tolist() == [4, 5, 6] and parts[1]["y"][1] == "name"
    examples = loop.data("each", [whole], {})
    assert len(examples) == 10 and examples[3]["y"][0].tolist() == [[6, 7]]
    attributes = {"stream": "2"}
    some = loop.data("subset", [whole, torch.tensor(0.3)], attributes)
    assert len(some["x"]) == 3 and torch.equal(some["y"][0][:, 0].float(), 2 * some["x"])
    again = loop.data("subset", [whole, torch.tensor(0.3)], attributes)
    assert torch.equal(some["x"], again["x"]), "a value, not a draw of its own"
    other = loop.data("subset", [whole, torch.tensor(0.3), torch.tensor(1.0)], attributes)
    loop.finish()
    later = loop.data("subset", [whole, torch.tensor(0.3)], attributes)
    assert not torch.equal(some["x"], later["x"]) or not torch.equal(some["x"], other["x"])
    with pytest.raises(ValueError, match="cannot be split into 11"):
        loop.data("split", [whole, torch.tensor(11.0)], {})
    with pytest.raises(ValueError, match=r"sizes \[2, 3\]"):
        loop.data("each", [(torch.ones(2), torch.ones(3))], {})
    assert loop.data("index", [{"index": torch.tensor([4])}], {}).tolist() == [4]


def test_sources_of_batches():
    loader = [torch.arange(4), torch.arange(4, 6)]
    rows = (torch.arange(100), torch.arange(100) * 2)
    loop = Objective({}, draw=loader, sources={"val": lambda size: size, "all": rows})
    drawn = [loop.data("draw", [], {}).tolist() for _ in range(3)]
    assert drawn == [[0, 1, 2, 3], [4, 5], [0, 1, 2, 3]]
    five = loop.data("draw", [torch.tensor(5.0)], {"sized": True})
    assert five.tolist() == [4, 5, 0, 1, 2]
    attributes = {"sized": True, "source": "val"}
    assert loop.data("draw", [torch.tensor(7.0)], attributes) == 7
    x, y = loop.data("draw", [torch.tensor(7.0)], {"sized": True, "source": "all"})
    assert len(set(x.tolist())) == 7 and torch.equal(2 * x, y)
    with pytest.raises(RuntimeError, match="sources={'test': loader}"):
        loop.data("draw", [], {"source": "test"})
    with pytest.raises(RuntimeError, match="draw=loader"):
        Objective({}).data("draw", [], {})
    with pytest.raises(RuntimeError, match="no batches"):
        Objective({}, draw=[]).data("draw", [], {})


def test_functions_of_the_user_and_what_is_missing():
    model = network()
    loop = bound(model, oracles={"score": lambda x: 2 * x})
    assert loop.call("score", [3]) == 6
    with pytest.raises(RuntimeError, match="oracles={'norm': function}"):
        loop.call("norm", [])
    with pytest.raises(RuntimeError, match="`loss` and `val`: pass a function for each"):
        loop.evaluate("loss", HELD, batch(), value=True, gradients=())
        loop.evaluate("val", HELD, batch(), value=True, gradients=())
    with pytest.raises(RuntimeError, match="rule evaluates `loss`: pass optimizer.bind"):
        Objective({}).evaluate("loss", {}, None, value=True, gradients=())
    with pytest.raises(RuntimeError, match="only run the model forward"):
        detached = Objective(params(model), model, lambda b: model(b[0]).mean().detach())
        detached.evaluate("loss", HELD, batch(), value=True, gradients=("w",))
    with pytest.raises(ValueError, match="Invalid curvature"):
        bound(model, curvature="exact")


@pytest.mark.parametrize("backend", ["eager", "auto"])
def test_a_loss_that_does_not_use_a_tensor_adds_nothing(backend: str) -> None:
    text = "rule r(lr = 0.1):\n    loss a, b\n    w <- w - lr * (grad[w](a) + grad[w](b))\n"
    params = [torch.nn.Parameter(torch.ones(2)) for _ in range(2)]
    opt = optc.loads(text)(params, backend=backend)
    opt.bind(objective={"a": lambda: (params[0] + params[1]).sum(), "b": lambda: params[1].sum()})
    opt.step()
    torch.testing.assert_close(params[0], torch.full((2,), 0.9))
    torch.testing.assert_close(params[1], torch.full((2,), 0.8))
