"""Whole optimizers in real loops: precision, accumulation, clipping, masks, errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import optc

RHO, LR = 0.05, 0.1
SAM = f"rule r(lr = {LR}):\n    perturb sam(rho = {RHO})\n    step lr\n"
SAM_ADAM = "rule r(lr = 0.01):\n    perturb sam()\n    precondition adam()\n    step lr\n"
PLAIN = "rule r(lr = 0.01):\n    precondition adam()\n    step lr\n"
CLIPPED = (
    "rule r(lr = 0.1):\n    perturb sam(rho = 0.05)\n    clip global_norm(max = 0.1)\n    step lr\n"
)
EARLY = """
rule early(lr = 0.1):
    state m = zeros(w)
    m <- 0.9 * m + grad(w)
    w <- w - lr * m
    w <- w - lr * grad(w)
"""


def network(dropout: float = 0.0, norm: bool = False, dtype: Any = torch.float64) -> nn.Module:
    torch.manual_seed(0)
    middle = nn.BatchNorm2d(4) if norm else nn.Identity()
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        middle,
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(4 * 16, 3),
    ).to(dtype)


def data(n: int = 8, dtype: Any = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, 1, 6, 6, generator=generator, dtype=torch.float64)
    return x.to(dtype), torch.randint(0, 3, (n,), generator=generator)


def values(net: nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in net.parameters()]


def sam_by_hand(
    net: nn.Module,
    loss: Callable[[], torch.Tensor],
    clip: tuple[float, float] = (float("inf"), float("inf")),
) -> None:
    """One step of SAM on SGD as a loop writes it; `clip` bounds its first and second gradient."""
    params = list(net.parameters())

    def gradients(bound: float) -> list[torch.Tensor]:
        g = torch.autograd.grad(loss(), params)
        n = torch.stack([x.norm() for x in g]).norm()
        return [x * min(1.0, bound / (float(n) + 1e-6)) for x in g]

    g = gradients(clip[0])
    n = torch.stack([x.norm() for x in g]).norm()
    old = values(net)
    with torch.no_grad():
        for p, x in zip(params, g, strict=True):
            p += RHO * x / (n + 1e-12)
    g = gradients(clip[1])
    with torch.no_grad():
        for p, w, x in zip(params, old, g, strict=True):
            p.copy_(w - LR * x)


# Mixed precision ------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [SAM_ADAM, EARLY])
@pytest.mark.parametrize("bad", [1, 2])
@pytest.mark.parametrize("backend", ["eager", "c"])
def test_float16_one_decision_over_both_gradients(text: str, bad: int, backend: str) -> None:
    net = network(dtype=torch.float32)
    x, y = data(dtype=torch.float32)
    opt = optc.loads(text)(net.named_parameters(), backend=backend)
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0, growth_interval=100)
    opt.bind(model=net, scaler=scaler)
    calls, broken = [0], [0]

    def closure() -> torch.Tensor:
        calls[0] += 1
        opt.zero_grad()
        with torch.autocast("cpu", torch.float16):
            loss = cross_entropy(net(x).float(), y)
        scaler.scale(loss * (float("inf") if calls[0] == broken[0] else 1.0)).backward()
        return loss

    opt.step(closure)
    scaler.update()
    assert scaler.get_scale() == 256 and calls[0] == 2
    before, state = values(net), opt.state_dict()
    kept = {k: {n: v.clone() for n, v in s.items()} for k, s in state["state"].items()}
    broken[0] = 2 + bad
    opt.step(closure)
    scaler.update()
    assert scaler.get_scale() == 128, "the scaler heard of it"
    assert all(map(torch.equal, before, net.parameters()))
    for k, entries in opt.state_dict()["state"].items():
        assert all(torch.equal(v, kept[k][n]) for n, v in entries.items())
    assert opt.param_groups[0]["steps"] == 1 and opt.param_groups[0]["calls"] == 2
    opt.step(closure)
    scaler.update()
    assert scaler.get_scale() == 128 and not torch.equal(before[0], values(net)[0])
    assert float(opt.state[next(net.parameters())]["step"]) == 2


def test_float16_unscales_once_and_steps_as_float32_does() -> None:
    nets = [network(dtype=torch.float32) for _ in range(2)]
    x, y = data(dtype=torch.float32)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    opts = [optc.loads(SAM_ADAM)(n.named_parameters()) for n in nets]
    opts[0].bind(model=nets[0], scaler=scaler)

    def closure(net: nn.Module, opt: Any, scaled: bool) -> torch.Tensor:
        opt.zero_grad()
        loss = cross_entropy(net(x), y)
        (scaler.scale(loss) if scaled else loss).backward()
        return loss

    for _ in range(3):
        for net, opt, scaled in zip(nets, opts, (True, False), strict=True):
            opt.step(lambda n=net, o=opt, s=scaled: closure(n, o, s))
        scaler.update()
    torch.testing.assert_close(values(nets[0]), values(nets[1]), rtol=1e-5, atol=1e-6)


def test_float16_with_the_loop_of_the_documentation() -> None:
    nets = [network(dtype=torch.float32) for _ in range(2)]
    x, y = data(dtype=torch.float32)
    ours = optc.loads(PLAIN)(nets[0].named_parameters())
    theirs = torch.optim.Adam(nets[1].parameters(), lr=0.01)
    for net, opt in ((nets[0], ours), (nets[1], theirs)):
        scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
        for _ in range(3):
            opt.zero_grad()
            with torch.autocast("cpu", torch.float16):
                loss = cross_entropy(net(x).float(), y)
            scaler.scale(loss).backward()
            scaler.unscale_(opt)
            torch.nn.utils.clip_grad_norm_(net.parameters(), 0.5)
            scaler.step(opt)
            scaler.update()
    torch.testing.assert_close(values(nets[0]), values(nets[1]), rtol=1e-5, atol=1e-6)


def test_bfloat16_autocast_is_the_step_by_hand() -> None:
    a, b = network(dtype=torch.float32), network(dtype=torch.float32)
    x, y = data(dtype=torch.float32)
    opt = optc.loads(SAM)(a.named_parameters())

    def loss(net: nn.Module) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            out = net(x)
        return cross_entropy(out.float(), y)

    for _ in range(3):
        opt.step(_closure(opt, lambda: loss(a)))
        sam_by_hand(b, lambda: loss(b))
    # a rounding of the point may turn a bit of bfloat16
    torch.testing.assert_close(values(a), values(b), rtol=1e-2, atol=1e-3)


def _closure(opt: Any, loss: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
    def closure() -> torch.Tensor:
        opt.zero_grad()
        found = loss()
        found.backward()
        return found

    return closure


# Accumulation and clipping --------------------------------------------------------------------


def test_accumulation_at_both_points() -> None:
    a, b = network(), network()
    x, y = data()
    opt = optc.loads(SAM)(a.named_parameters())

    def closure() -> float:
        opt.zero_grad()
        total = 0.0
        for part, label in zip(x.chunk(4), y.chunk(4), strict=True):
            loss = cross_entropy(a(part), label) / 4
            loss.backward()
            total += loss.item()
        return total

    for _ in range(3):
        opt.step(closure)
        sam_by_hand(b, lambda: cross_entropy(b(x), y))
    torch.testing.assert_close(values(a), values(b), rtol=1e-9, atol=1e-11)


def test_accumulation_over_backward_passes_before_the_step() -> None:
    a, b = network(), network()
    x, y = data()
    ours, theirs = optc.loads(PLAIN)(a.named_parameters()), torch.optim.Adam(b.parameters(), 0.01)
    for _ in range(3):
        for net, opt in ((a, ours), (b, theirs)):
            opt.zero_grad()
            for part, label in zip(x.chunk(4), y.chunk(4), strict=True):
                (cross_entropy(net(part), label) / 4).backward()
            opt.step()
    torch.testing.assert_close(values(a), values(b), rtol=1e-9, atol=1e-11)


def test_clipping_before_and_after_the_perturbation() -> None:
    x, y = data()
    inf = float("inf")
    before, after, both = network(), network(), network()
    rule, by_hand = network(), [network() for _ in range(3)]
    opts = [optc.loads(SAM)(n.named_parameters()) for n in (before, after, both)]
    ruled = optc.loads(CLIPPED)(rule.named_parameters())

    def clipping(net: nn.Module, opt: Any, bounds: tuple[float, float]) -> Callable[[], Any]:
        calls = [0]

        def closure() -> torch.Tensor:
            opt.zero_grad()
            loss = cross_entropy(net(x), y)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), bounds[calls[0] % 2])
            calls[0] += 1
            return loss

        return closure

    bounds = [(0.1, inf), (inf, 0.1), (0.1, 0.1)]
    closures = [
        clipping(n, o, c) for n, o, c in zip((before, after, both), opts, bounds, strict=True)
    ]
    for _ in range(3):
        for opt, closure, hand, bound in zip(opts, closures, by_hand, bounds, strict=True):
            opt.step(closure)
            sam_by_hand(hand, lambda h=hand: cross_entropy(h(x), y), bound)
        ruled.step(_closure(ruled, lambda: cross_entropy(rule(x), y)))
    for net, hand in zip((before, after, both), by_hand, strict=True):
        torch.testing.assert_close(values(net), values(hand), rtol=1e-9, atol=1e-11)
    # a rule that clips below the perturbation is the loop that clips the second gradient
    torch.testing.assert_close(values(rule), values(by_hand[1]), rtol=1e-5, atol=1e-6)


# Masks and statistics -------------------------------------------------------------------------


@pytest.mark.parametrize("seed", ["same", "fresh"])
def test_dropout_at_the_second_evaluation(seed: str) -> None:
    """The same mask by default: SAM's paper differentiates one loss twice. `fresh` is a choice."""
    a, b = network(0.5), network(0.5)
    x, y = data()
    opt = optc.loads(SAM)(a.named_parameters())
    opt.bind(model=a, seed=seed)
    masks: list[torch.Tensor] = []
    a[4].register_forward_hook(lambda m, args, out: masks.append(out.detach() != 0))
    torch.manual_seed(5)
    opt.step(_closure(opt, lambda: cross_entropy(a(x), y)))
    kept = (masks[0] == masks[1]).double().mean()
    assert (kept > 0.95) == (seed == "same")  # a perturbation may turn a ReLU
    torch.manual_seed(5)
    state = torch.get_rng_state()

    def loss() -> torch.Tensor:
        if seed == "same":
            torch.set_rng_state(state)
        return cross_entropy(b(x), y)

    sam_by_hand(b, loss)
    torch.testing.assert_close(values(a), values(b), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("way", ["closure", "objective", "losses by name", "given to the step"])
def test_running_statistics_are_those_of_the_held_point(way: str) -> None:
    a, b = network(norm=True), network(norm=True)
    x, y = data()
    opt = optc.loads(SAM)(a.named_parameters())

    def loss(batch: Any) -> torch.Tensor:
        return cross_entropy(a(batch[0]), batch[1])

    if way in ("objective", "losses by name"):
        opt.bind(**({"model": a, "objective": loss} if way == "objective" else {"loss": loss}))
    for step in range(1, 4):
        b.load_state_dict(a.state_dict())
        b(x)
        if way == "given to the step":
            opt.step(objective=loss, batch=(x, y))
        elif way != "closure":
            opt.step(batch=(x, y))
        else:
            opt.step(_closure(opt, lambda: cross_entropy(a(x), y)))
        for ours, theirs in zip(a.buffers(), b.buffers(), strict=True):
            assert torch.equal(ours, theirs)
        assert int(a[1].num_batches_tracked) == step


# Errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("evaluation", [1, 2])
@pytest.mark.parametrize("way", ["closure", "objective"])
@pytest.mark.parametrize("text", [SAM_ADAM, EARLY])
def test_a_loss_that_raises_midway_leaves_the_model_to_the_bit(
    way: str, evaluation: int, text: str
) -> None:
    net = network(0.3, norm=True)
    x, y = data()
    opt = optc.loads(text)(net.named_parameters())
    calls, broken = [0], [0]

    def loss(batch: Any = None) -> torch.Tensor:
        calls[0] += 1
        found = cross_entropy(net(x), y)
        if calls[0] == broken[0]:
            raise FloatingPointError("midway")
        return found

    if way == "objective":
        opt.bind(model=net, objective=loss)

    def step() -> None:
        opt.step() if way == "objective" else opt.step(_closure(opt, loss))

    step()
    before = [t.detach().clone() for t in (*net.parameters(), *net.buffers())]
    random = torch.get_rng_state()
    entries = [(p, n, v.clone()) for p, s in opt.state.items() for n, v in s.items()]
    broken[0] = 2 + evaluation
    with pytest.raises(FloatingPointError):
        step()
    assert all(map(torch.equal, before, (*net.parameters(), *net.buffers())))
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(opt.state[p][n], v) for p, n, v in entries)
    assert opt.param_groups[0]["steps"] == opt.param_groups[0]["calls"] == 1
    step()
    assert opt.param_groups[0]["steps"] == 2
