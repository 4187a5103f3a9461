"""What only a GPU can show: nothing waits for it, graphs replay, memory and types."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import optc

EXAMPLES = Path(__file__).parents[2] / "examples"
PLAIN = ("adamw", "sgd", "clipped_adamw", "cautious_adamw", "muon_adamw", "schedule_free_adamw")
GUARDED = ("adamw", "clipped_adamw", "muon_adamw")
CAPTURED = "\nschedule {}:\n    run captured\n"

pytestmark = pytest.mark.cuda


def model(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    made = nn.Sequential(nn.Linear(33, 64), nn.GELU(), nn.Linear(64, 48), nn.LayerNorm(48))
    return made.to("cuda", dtype)


def batch(step: int, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(16, 33, generator=generator).to("cuda", dtype)


def loss(net: nn.Module, step: int) -> Tensor:
    return net(batch(step, next(net.parameters()).dtype)).float().square().mean()


def trained(rule: Any, steps: int = 8, spoilt: int = -1, **options: Any) -> tuple[Any, nn.Module]:
    net = model()
    opt = rule(optc.parameters(net), **options)
    for step in range(steps):
        # gradients keep their place, as a graph needs
        opt.zero_grad(set_to_none=step == 0)
        loss(net, step).backward()
        if step == spoilt:
            next(net.parameters()).grad[0, 0] = float("inf")
        opt.step()
    return opt, net


def same(a: nn.Module, b: nn.Module, bound: float = 1e-5) -> None:
    for x, y in zip(a.parameters(), b.parameters(), strict=True):
        torch.testing.assert_close(x, y, rtol=bound, atol=bound)


@contextmanager
def no_waiting() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("guard", [False, True])
@pytest.mark.parametrize("name", PLAIN)
def test_a_step_does_not_wait(name: str, guard: bool) -> None:
    if guard and name not in GUARDED:
        pytest.skip("one of them is enough")
    net = model()
    opt = optc.load(EXAMPLES / f"{name}.opt", guard=guard)(optc.parameters(net))
    for step in range(4):
        opt.zero_grad()
        loss(net, step).backward()
        opt.settle()  # the flag of a guard is read before the next step
        torch.cuda.synchronize()
        if step < 2:
            opt.step()
            continue
        with no_waiting():
            opt.step()


@pytest.mark.parametrize("name", PLAIN)
def test_kernels_agree_with_torch_operations(name: str) -> None:
    rule = optc.load(EXAMPLES / f"{name}.opt")
    same(trained(rule, backend="triton")[1], trained(rule, backend="eager")[1], 2e-3)


def test_adamw_is_that_of_torch() -> None:
    rule = optc.load(EXAMPLES / "adamw.opt")
    opt, net = trained(rule)
    theirs = model()
    reference = torch.optim.AdamW(
        theirs.parameters(), **{k: opt.defaults[k] for k in ("lr", "betas", "eps", "weight_decay")}
    )
    for step in range(8):
        reference.zero_grad()
        loss(theirs, step).backward()
        reference.step()
    same(net, theirs)


@pytest.mark.parametrize("name", ["adamw", "clipped_adamw", "sgd"])
def test_a_captured_run_is_the_plain_one(name: str) -> None:
    path = EXAMPLES / f"{name}.opt"
    plain = optc.load(path)
    captured = optc.loads(path.read_text() + CAPTURED.format(plain.program.name))
    opt, net = trained(captured, steps=12)
    assert opt.captures.variants and not opt.captures.refused
    same(net, trained(plain, steps=12)[1], 0.0)


@pytest.mark.parametrize("name", ["adamw", "clipped_adamw"])
def test_a_graph_of_the_user(name: str) -> None:
    rule = optc.load(EXAMPLES / f"{name}.opt")
    net, other = model(), model()
    opt, plain = rule(optc.parameters(net)), rule(optc.parameters(other))
    for p, q in zip(net.parameters(), other.parameters(), strict=True):
        p.grad = torch.ones_like(p)
        q.grad = torch.ones_like(q)
    opt.step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        opt.step()
    plain.step()
    for turn in range(4):
        for p, q in zip(net.parameters(), other.parameters(), strict=True):
            p.grad.fill_(turn - 1.5)
            q.grad.fill_(turn - 1.5)
        opt.advance()
        graph.replay()
        plain.step()
    same(net, other, 0.0)
    assert opt.param_groups[0]["steps"] == plain.param_groups[0]["steps"] == 5


@pytest.mark.parametrize("name", GUARDED)
@pytest.mark.parametrize("spoilt", [0, 3, 7])
def test_the_device_takes_a_step_back(name: str, spoilt: int) -> None:
    opt, net = trained(optc.load(EXAMPLES / f"{name}.opt", guard=True), spoilt=spoilt)
    assert opt.state_dict()["param_groups"][0]["steps"] == 7
    assert all(bool(p.isfinite().all()) for p in net.parameters())
    tensors = [x for entry in opt.state_dict()["state"].values() for x in entry.values()]
    assert all(bool(x.isfinite().all()) for x in tensors if x.is_floating_point())


def test_a_scaler() -> None:
    rule = optc.load(EXAMPLES / "clipped_adamw.opt")
    net = model()
    opt, scaler = rule(optc.parameters(net)), torch.amp.GradScaler("cuda", init_scale=2.0**24)
    before = copy.deepcopy(net)
    for step in range(30):
        opt.zero_grad()
        with torch.autocast("cuda", torch.float16):
            out = net(batch(step)).square().mean()
        scaler.scale(out).backward()
        scaler.step(opt)
        scaler.update()
    taken = opt.state_dict()["param_groups"][0]["steps"]
    assert 0 < taken <= 30 and all(bool(p.isfinite().all()) for p in net.parameters())
    assert any(
        not torch.equal(p, q) for p, q in zip(net.parameters(), before.parameters(), strict=True)
    )


def test_sam_asks_for_two_gradients() -> None:
    rule = optc.load(EXAMPLES / "sam_adamw.opt")

    def run(backend: str) -> nn.Module:
        net = model()
        opt = rule(optc.parameters(net), backend=backend)
        for step in range(6):

            def closure(step: int = step, net: nn.Module = net, opt: Any = opt) -> Tensor:
                opt.zero_grad()
                found = loss(net, step)
                found.backward()
                return found

            opt.step(closure)
        return net

    same(run("triton"), run("eager"))


def test_memory_is_that_of_torch() -> None:
    """Two states a parameter, and nothing of a parameter's size in a step."""

    def peak(build: Any) -> int:
        params = [nn.Parameter(torch.randn(1024, 1024, device="cuda")) for _ in range(8)]
        for p in params:
            p.grad = torch.randn_like(p)
        opt = build(params)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        for _ in range(3):
            opt.step()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before

    rule = optc.load(EXAMPLES / "adamw.opt")
    theirs = peak(lambda p: torch.optim.AdamW(p, fused=True))
    assert peak(rule) <= 1.02 * theirs


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_types(dtype: torch.dtype) -> None:
    rule = optc.load(EXAMPLES / "adamw.opt")

    def run(backend: str) -> list[Tensor]:
        params = [nn.Parameter(torch.linspace(-1, 1, n).to("cuda", dtype)) for n in (7, 4096, 1)]
        opt = rule(params, lr=0.01, backend=backend)
        for step in range(5):
            for p in params:
                p.grad = torch.cos(p.detach() * (step + 1))
            opt.step()
        return [p.detach() for p in params]

    for a, b in zip(run("triton"), run("eager"), strict=True):
        torch.testing.assert_close(a, b)
