"""Bound objectives: several losses, examples, populations, and what is restored."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import optc
from optc.runtime.closure import Closure
from optc.runtime.loop import Question
from optc.runtime.objective import Objective

from .network import HELD, moved, network, params, random_like
from .objectives import batch, bound

pytestmark = pytest.mark.usefixtures("as_in_a_step")

check = torch.testing.assert_close


@pytest.mark.parametrize("memory", [1 << 28, 1])
def test_vector_objectives_give_one_gradient_a_loss(memory):
    model, data = network(), batch()

    def losses(b):
        each = cross_entropy(model(b[0]), b[1], reduction="none")
        return torch.stack([each.mean(), each.square().mean(), each.max()])

    loop = Objective(params(model), model, losses, memory=memory)
    value, g = loop.evaluate(Question("loss", HELD, data, value=True, gradients=("w",)))
    for k in range(3):
        one = Objective(params(model), model, lambda b, k=k: losses(b)[k])
        v, h = one.evaluate(Question("loss", HELD, data, value=True, gradients=("w",)))
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
    value, g = loop.evaluate(Question("outputs", HELD, data, value=True, gradients=("w",)))
    assert value.shape == (2, 3) and g["w"][0].shape == (2, 3, 8, 4)
    value, _ = loop.evaluate(Question("size", HELD, data, value=True, gradients=()))
    check(value, model(data[0]).square().mean())
    with pytest.raises(RuntimeError, match="no loss 'val'"):
        loop.evaluate(Question("val", HELD, data, value=True, gradients=()))


@pytest.mark.parametrize("memory", [1 << 28, 2000])
@pytest.mark.parametrize("way", ["vmap", "loop"])
def test_gradients_of_single_examples(way, memory):
    model, data = network(0.5), batch(5)
    loop = bound(model, memory=memory)
    loop.works["vmap"] = way == "vmap"
    examples = loop.data("each", [data], {})
    values, g = loop.evaluate_many(Question("loss", HELD, examples, value=True, gradients=("w",)))
    for k, one in enumerate(examples.items):
        value, h = loop.evaluate(Question("loss", HELD, one, value=True, gradients=("w",)))
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
        Question("loss", HELD, loop.data("each", [data], {}), value=False, gradients=("w",))
    )
    assert g["w"][0].shape == (4, 8, 4) and loop.works == {"vmap": False}


@pytest.mark.parametrize("way", ["vmap", "loop"])
def test_a_population_of_points(way):
    model, data = network(0.5, norm=True), batch()
    loop = bound(model)
    loop.works["vmap"] = way == "vmap"
    before = [b.clone() for b in model.buffers()]
    many = {"w": [p + 0.1 * torch.randn(6, *p.shape).double() for p in model.parameters()]}
    values, g = loop.evaluate_many(
        Question("loss", many, data, value=True, gradients=("w",), over=("w",))
    )
    for k in range(6):
        there = {"w": [x[k] for x in many["w"]]}
        value, h = loop.evaluate(Question("loss", there, data, value=True, gradients=("w",)))
        check(values[k], value)
        check([x[k] for x in g["w"]], h["w"])
    check([*model.buffers()], before, rtol=0, atol=0)
    assert loop.works["vmap"] == (way == "vmap")
    only, none = loop.evaluate_many(
        Question("loss", many, data, value=True, gradients=(), over=("w",))
    )
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
    loop.evaluate(Question("loss", HELD, data, value=True, gradients=("w",)))
    for ask in (
        lambda: loop.evaluate(Question("loss", there, data, value=True, gradients=("w",))),
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
        value, _ = loop.evaluate(Question("loss", HELD, data, value=True, gradients=("w",)))
        loop.evaluate(Question("loss", moved(model), data, value=True, gradients=("w",)))
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
        loop.evaluate(Question("loss", HELD, None, value=True, gradients=("w",)))
        loop.evaluate(Question("loss", moved(model), None, value=True, gradients=("w",)))
        loop.finish()
        assert int(model[1].num_batches_tracked) == step


def test_a_scaler_scales_what_is_differentiated():
    model, data = network().float(), batch()
    data = data[0].float(), data[1]
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=1)
    _, g = bound(model).evaluate(Question("loss", HELD, data, value=False, gradients=("w",)))
    loop = bound(model, scaler=scaler)
    value, h = loop.evaluate(Question("loss", HELD, data, value=True, gradients=("w",)))
    check(h["w"], g["w"], rtol=1e-5, atol=1e-7)
    loop.finish()
    scaler.update()
    assert scaler.get_scale() == 2048 and loop.first_value is value
    loop.rebound(lambda b: cross_entropy(model(b[0]), b[1]) * float("inf"))
    loop.evaluate(Question("loss", HELD, data, value=True, gradients=("w",)))
    assert float(loop.found_inf) > 0
    loop.finish()
    scaler.update()
    assert scaler.get_scale() == 1024


# What is missing ------------------------------------------------------------------------------


def test_functions_of_the_user_and_what_is_missing():
    model = network()
    loop = bound(model, oracles={"score": lambda x: 2 * x})
    assert loop.call("score", [3]) == 6
    with pytest.raises(RuntimeError, match="oracles={'norm': function}"):
        loop.call("norm", [])
    with pytest.raises(RuntimeError, match="`loss` and `val`: pass a function for each"):
        loop.evaluate(Question("loss", HELD, batch(), value=True, gradients=()))
        loop.evaluate(Question("val", HELD, batch(), value=True, gradients=()))
    with pytest.raises(RuntimeError, match="rule evaluates `loss`: pass optimizer.bind"):
        Objective({}).evaluate(Question("loss", {}, None, value=True, gradients=()))
    with pytest.raises(RuntimeError, match="only run the model forward"):
        detached = Objective(params(model), model, lambda b: model(b[0]).mean().detach())
        detached.evaluate(Question("loss", HELD, batch(), value=True, gradients=("w",)))
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


PAST = {
    "gradients of examples": """
    J = grad(w, on = each(batch))
    w <- w - lr * mean(J / (1 + norm(J, over = model)), over = examples)
""",
    "a population": """
    z = normal(w, probes(3))
    w <- w - lr * mean(z * loss(w + 0.1 * z), over = probes)
""",
    "a direction": "    z = normal(w)\n    w <- w - lr * z * jvp(loss, w, z)\n",
    "curvature": "    w <- w - lr * hvp(loss, w, grad(w))\n",
}


@pytest.mark.parametrize("kind", [nn.Linear, nn.LSTM])
@pytest.mark.parametrize("rule", PAST.values(), ids=PAST)
def test_a_loss_may_read_parameters_past_the_model(rule: str, kind: type[nn.Module]) -> None:
    """A penalty on a list of them, or a module that keeps one, as recurrent ones do."""
    found = []
    for past in (False, True):
        torch.manual_seed(0)
        model = nn.ModuleList([kind(3, 2), nn.Linear(2, 1)]).double()
        x = torch.randn(4, 5, 3, dtype=torch.float64)
        mine = list(model.parameters())

        def loss(b, model=model, past=past, mine=mine):
            penalty = sum((p**2).sum() for p in (mine if past else model.parameters()))
            inner = model[0](b)
            inner = inner[0] if isinstance(inner, tuple) else torch.tanh(inner)
            return (model[1](inner) ** 2).mean() + 0.1 * penalty

        opt = optc.loads(f"rule r(lr = 0.1):\n{rule.lstrip(chr(10))}")(mine)
        opt.bind(model if past else None, loss, curvature="forward" if past else "reverse")
        for _ in range(2):
            opt.step(batch=x)
        found.append([p.detach() for p in mine])
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("way", ["examples", "curvature"])
def test_a_parameter_that_the_loss_never_reads_is_absent_however_it_is_computed(way: str) -> None:
    """vmap and forward mode give it zeros, which noise or decay would make a step of."""
    text = {
        "examples": "    J = grad(w, on = each(batch))\n    d = mean(J, over = examples)\n",
        "curvature": "    d = hvp(loss, w, w)\n",
    }[way]
    model = nn.ModuleDict({"used": nn.Linear(3, 1), "idle": nn.Linear(2, 1)}).double()
    opt = optc.loads(f"rule r(lr = 0.1):\n{text}    w <- w - lr * (d + w)\n")(model.parameters())
    opt.bind(model, lambda b: (model["used"](b) ** 2).mean(), curvature="forward")
    before = [p.clone() for p in model.parameters()]
    opt.step(batch=torch.randn(4, 3, dtype=torch.float64))
    moved = [not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)]
    assert moved == [True, True, False, False]


def test_without_a_batch_the_defaults_of_an_objective_stay() -> None:
    """As a lambda in a loop has them, `lambda x=x: ...`."""
    p = nn.Parameter(torch.ones(2))
    opt = optc.loads("rule r(lr = 0.1):\n    step lr\n")([p])
    opt.bind(objective=lambda factor=2.0: (factor * p).sum())
    opt.step()
    check(p.detach(), torch.full((2,), 0.8))


@pytest.mark.parametrize("first", ["objective", "loss"])
def test_the_objective_of_a_step_is_the_one_that_is_given(first: str) -> None:
    """Not one that was bound by the loss's name."""
    p = nn.Parameter(torch.ones(2))
    opt = optc.loads("rule r(lr = 0.1):\n    step lr\n")([p])
    opt.bind(**{first: lambda: p.sum()})
    opt.step()
    opt.step(objective=lambda: 3 * p.sum())
    check(p.detach(), torch.full((2,), 0.6))


@pytest.mark.parametrize("way", ["examples", "curvature"])
def test_hooks_of_gradients_are_called_however_it_is_computed(way: str) -> None:
    """A mask on what is pruned, say."""
    text = {
        "examples": "    J = grad(w, on = each(batch))\n    d = mean(J, over = examples)\n",
        "curvature": "    d = hvp(loss, w, w)\n",
    }[way]
    model = nn.Linear(3, 1).double()
    model.weight.register_hook(lambda g: 0 * g)
    opt = optc.loads(f"rule r(lr = 0.1):\n{text}    w <- w - lr * d\n")(model.parameters())
    opt.bind(model, lambda b: (model(b) ** 2).mean(), curvature="forward")
    before = [p.clone() for p in model.parameters()]
    opt.step(batch=torch.randn(4, 3, dtype=torch.float64))
    moved = [not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)]
    assert moved == [False, True]


@pytest.mark.parametrize("way", ["examples", "split in examples", "population"])
def test_an_empty_batch_has_no_examples(way: str) -> None:
    """As sampling by chance may draw it: sums over none are zero."""
    text = {
        "examples": "    d = sum(grad(w, on = each(batch)), over = examples)\n",
        "split in examples": """    J = grad(w, on = each(batch))
    n = 1 + norm(J, over = model)
    d = sum(J / n, over = examples) + sum(loss(w, on = each(batch)), over = examples)
""",
        "population": "    z = normal(w, probes(2))\n    d = sum(z * loss(w + z), over = probes)\n",
    }[way]
    model = nn.Linear(3, 1).double()
    before = [p.detach().clone() for p in model.parameters()]
    opt = optc.loads(f"rule r(lr = 0.1):\n{text}    w <- w - lr * d\n")(model.parameters())
    opt.bind(model, lambda b: (model(b) ** 2).sum())
    opt.step(batch=torch.zeros(0, 3, dtype=torch.float64))
    check([p.detach() for p in model.parameters()], before)
