"""Closures on real models: points, restoration, gradients, dropout, statistics, scalers, ranks."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import textwrap

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from optc.runtime.closure import Closure
from optc.runtime.derivatives import finite_hvp
from optc.runtime.gradients import Gradients
from optc.runtime.inspection import modules_of
from optc.runtime.objective import Objective

HELD = {"w": None}


@pytest.fixture(autouse=True)
def _as_in_a_step():
    torch.manual_seed(0)
    with torch.no_grad():
        yield


def network(dropout=0.5, norm=True):
    norm_layer = nn.BatchNorm1d(8) if norm else nn.Identity()
    parts = [nn.Linear(4, 8), norm_layer, nn.Dropout(dropout), nn.Tanh(), nn.Linear(8, 3)]
    return nn.Sequential(*parts).double()


def data(n=16):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, 4, generator=generator, dtype=torch.float64)
    return x, torch.randint(0, 3, (n,), generator=generator)


def ordinary(model, set_to_none=True):
    x, y = data()

    def closure():
        model.zero_grad(set_to_none=set_to_none)
        loss = cross_entropy(model(x), y)
        loss.backward()
        return loss

    return closure


def params(model):
    return {"w": list(model.parameters())}


def moved(model, by=0.1):
    return {"w": [p.detach() + by * torch.randn_like(p) for p in model.parameters()]}


def ask(loop, points=HELD, name="loss"):
    value, gradients = loop.evaluate(name, points, None, value=True, gradients=("w",))
    return value, gradients["w"]


def copies(tensors):
    return [None if t is None else t.clone() for t in tensors]


def same(a, b):
    return all((x is None and y is None) or torch.equal(x, y) for x, y in zip(a, b, strict=True))


def everything(model):
    return [
        *(p.detach().clone() for p in model.parameters()),
        *(b.clone() for b in model.buffers()),
        torch.get_rng_state(),
    ]


# Points and restoration -----------------------------------------------------------------------


def test_a_point_is_where_the_loss_is_evaluated():
    model = network(0.0, norm=False)
    there = moved(model)
    other = network(0.0, norm=False)
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
    model = network()
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

    loop = Closure(params(model), closure)
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
    model = network(0.0)
    loop = Closure(params(model), ordinary(model))
    _, here = ask(loop)
    _, again = ask(loop, {"w": list(model.parameters())})
    assert same(here, again)


# Gradients ------------------------------------------------------------------------------------


@pytest.mark.parametrize("set_to_none", [True, False])
def test_the_first_gradient_survives_and_is_shown_after(set_to_none):
    model = network()
    loop = Closure(params(model), ordinary(model, set_to_none))
    _, first = ask(loop)
    kept = copies(first)
    ask(loop, moved(model))
    ask(loop, moved(model))
    assert same(first, kept)
    loop.finish()
    assert same([p.grad for p in model.parameters()], kept)


def test_without_the_held_point_the_first_evaluation_is_shown():
    model = network()
    loop = Closure(params(model), ordinary(model))
    _, first = ask(loop, moved(model))
    ask(loop, moved(model))
    loop.finish()
    assert same([p.grad for p in model.parameters()], first)


def test_gradients_that_share_a_storage_are_copied():
    model = network(norm=False)
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
    model = network()
    loop = Closure(params(model), ordinary(model))
    for _ in range(20):
        ask(loop, moved(model))


def test_accumulation_within_the_closure():
    model = network(0.0, norm=False)
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
    model = network(0.0, norm=False)
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
    _, g = loop.evaluate("loss", HELD, None, value=False, gradients=("w",))
    assert g["w"][1] is None and torch.equal(g["w"][0], torch.ones(2))
    with pytest.raises(RuntimeError, match="return it"):
        ask(loop)


def test_value_and_first_value():
    model = network()
    calls = []
    inner = ordinary(model)
    loop = Closure(params(model), lambda: (calls.append(1), inner())[1])
    value, _ = ask(loop)
    ask(loop, moved(model))
    loop.finish()
    assert loop.first_value is value and len(calls) == 2


# Dropout and statistics -----------------------------------------------------------------------


def test_the_same_mask_in_every_evaluation_and_the_generator_goes_on_once():
    model = network()
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
    model = network()
    loop = Closure(params(model), ordinary(model), seed="fresh")
    assert not torch.equal(ask(loop)[0], ask(loop)[0])


@pytest.mark.parametrize("order", ["held first", "held last"])
def test_running_statistics_are_written_once_at_the_held_point(order):
    model, twin = network(0.0), network(0.0)
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
        model = network()
        loop = Closure(params(model), ordinary(model), stats=stats)
        ask(loop, moved(model))
        ask(loop)
        assert int(model[1].num_batches_tracked) == count
    with pytest.raises(ValueError, match="Invalid stats"):
        Closure({}, lambda: None, stats="all")


# What a level cannot give ---------------------------------------------------------------------


def test_gradients_alone():
    model = network()
    with torch.enable_grad():
        ordinary(model)()
    loop = Gradients(params(model))
    _, g = loop.evaluate("loss", HELD, None, value=False, gradients=("w",))
    assert all(x is p.grad for x, p in zip(g["w"], model.parameters(), strict=True))
    with pytest.raises(RuntimeError, match=r"optimizer.step\(closure\)"):
        ask(loop)
    with pytest.raises(RuntimeError, match="at another point.*closure"):
        loop.evaluate("loss", moved(model), None, value=False, gradients=("w",))
    with pytest.raises(RuntimeError, match=r"curvature.*bind\(model=model, objective="):
        loop.hvp("loss", HELD, None, "w", "w", moved(model)["w"])
    with pytest.raises(RuntimeError, match="data of its own"):
        loop.data("draw", [], {})


def test_a_closure_gives_curvature_by_differences_only():
    model = network(norm=False)
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
    model = network(0.0)
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
    _, d = loop.evaluate("d", points, None, value=True, gradients=("critic",))
    _, g = loop.evaluate("g", points, None, value=True, gradients=("gen",))
    loop.finish()
    assert same([p.grad for p in critic.parameters()], d["critic"])
    assert same([p.grad for p in generator.parameters()], g["gen"])
    one = Closure(groups, loss(1, critic))
    one.evaluate("d", points, None, value=True, gradients=("critic",))
    with pytest.raises(RuntimeError, match="two objectives: pass step"):
        one.evaluate("g", points, None, value=True, gradients=("gen",))


# Mixed precision ------------------------------------------------------------------------------


def test_bfloat16_autocast():
    model = network().float()
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
    model = network()
    loop = Closure(params(model), ordinary(model), scaler=torch.amp.GradScaler("cpu"))
    with pytest.raises(RuntimeError, match="scaler.scale"):
        ask(loop)


def test_a_scaler_unscales_each_evaluation_and_hears_of_one_decision():
    model = network(0.0).float()
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


# Ranks ----------------------------------------------------------------------------------------

RANKS = """
    import sys, torch, torch.distributed as dist
    from torch import nn
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.nn.parallel import DistributedDataParallel as DDP
    from optc.runtime.closure import Closure
    from optc.runtime.objective import Objective

    rank, store = int(sys.argv[1]), sys.argv[2]
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method="file://" + store, rank=rank, world_size=2)
    torch.manual_seed(0)
    torch.set_grad_enabled(False)
    X, HELD = torch.randn(8, 4, dtype=torch.float64), {"w": None}
    x = X[4 * rank : 4 * rank + 4]

    def build():
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1)).double()

    whole = build()
    loss = lambda model: (lambda batch: model(batch).square().mean())

    def closure_of(model, batch):
        def closure():
            model.zero_grad()
            found = model(batch).square().mean()
            found.backward()
            return found
        return closure

    def ask(loop, point=HELD, batch=None):
        return loop.evaluate("loss", point, batch, value=True, gradients=("w",))[1]["w"]

    there = {"w": [p + 0.1 for p in whole.parameters()]}
    local = Closure({"w": list(whole.parameters())}, closure_of(whole, x))
    mine = ask(local)
    full = Closure({"w": list(whole.parameters())}, closure_of(whole, X))
    g0, g1 = ask(full), ask(full, there)
    check = torch.testing.assert_close
    for views in (False, True):
        with torch.enable_grad():
            model = DDP(build(), gradient_as_bucket_view=views)
        params = {"w": list(model.parameters())}
        loop = Closure(params, closure_of(model, x))
        first = ask(loop); second = ask(loop, there)
        check(first, g0); check(second, g1)
        loop.finish()
        check([p.grad for p in params["w"]], g0)
        loop = Closure(params, closure_of(model, x), sync="perturbed")
        first = ask(loop); second = ask(loop, there)
        check(first, mine); check(second, g1)
        loop.finish()
        ask(loop)
        try:
            loop.finish()
        except RuntimeError as e:
            assert "perturbed" in str(e)
        else:
            raise AssertionError("a gradient that no rank exchanged")
        bound = Objective(params, model, loss(model))
        plain = Objective({"w": list(whole.parameters())}, whole, loss(whole))
        check(ask(bound, HELD, x), g0); check(ask(bound, there, x), g1)
        v = [torch.ones_like(p) for p in params["w"]]
        for name in ("hvp", "jvp", "vjp"):
            more = {"hvp": ("w", "w", v), "jvp": ("w", v), "vjp": ("w", torch.tensor(2.0))}[name]
            expected = getattr(plain, name)("loss", HELD, X, *more)
            check(getattr(bound, name)("loss", HELD, x, *more), expected)
        bound.finish()
        check(ask(Closure(params, closure_of(model, x))), g0)  # DDP itself goes on

    with torch.enable_grad():
        model = build()
        fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
    params = {"w": list(model.parameters())}
    whole_of = lambda tensors: [t.full_tensor() for t in tensors]
    before = [p.detach().to_local().clone() for p in params["w"]]
    shards = {"w": [p + 0.1 for p in before]}
    loop = Closure(params, closure_of(model, x))
    first = ask(loop); second = ask(loop, shards)
    check(whole_of(first), g0); check(whole_of(second), g1)
    loop.finish()
    check(whole_of([p.grad for p in params["w"]]), g0)
    bound = Objective(params, model, loss(model))
    check(whole_of(ask(bound, shards, x)), g1)
    check([p.detach().to_local() for p in params["w"]], before, rtol=0, atol=0)
    try:
        bound.hvp("loss", HELD, x, "w", "w", shards["w"])
    except RuntimeError as e:
        assert "no other derivatives" in str(e)
    dist.destroy_process_group()
"""


def test_two_ranks(tmp_path):
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo"}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(RANKS), str(rank), str(tmp_path / "store")],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        for process in running:
            _, errors = process.communicate(timeout=120)
            assert process.returncode == 0, errors
    finally:
        for process in running:
            process.kill()


# What a closure names -------------------------------------------------------------------------


def test_modules_are_found_where_closures_have_them():
    model = network()

    class Trainer:
        def __init__(self):
            self.model = model

        def made(self):
            return lambda: self.model

    def outer():
        return ordinary(model)()

    def of(net):
        return None

    partials = (
        functools.partial(outer),
        functools.partial(of, model),
        functools.partial(of, net=model),
    )
    for closure in (outer, Trainer().made(), *partials, model.forward):
        assert modules_of(closure)[0] is model
    assert modules_of(len) == []
