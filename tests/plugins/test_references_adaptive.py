"""Adaptive steps that many look for agree with torch and pytorch_optimizer over twenty steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import optc

theirs = pytest.importorskip("pytorch_optimizer", reason="an independent reference")
STEPS = 20


def network(dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(0)
    layers = (
        nn.Conv2d(1, 3, 2),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(12, 6),
        nn.Tanh(),
        nn.Linear(6, 3),
    )
    return nn.Sequential(*layers).to(dtype)


def flat_network(dtype: torch.dtype) -> nn.Module:
    """Without tensors of more dimensions than two."""
    torch.manual_seed(0)
    layers = nn.Flatten(), nn.Linear(9, 6), nn.Tanh(), nn.Linear(6, 3)
    return nn.Sequential(*layers).to(dtype)


def trained(net: nn.Module, opt: Any) -> list[Tensor]:
    dtype = next(net.parameters()).dtype
    for step in range(STEPS):
        make = torch.Generator().manual_seed(step)
        x = torch.randn(8, 1, 3, 3, generator=make, dtype=torch.float64).to(dtype)
        y = torch.randint(3, (8,), generator=make)
        opt.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        opt.step()
    return [p.detach().clone() for p in net.parameters()]


def gap(a: Iterable[Tensor], b: Iterable[Tensor]) -> float:
    return max(float((x - y).detach().abs().max()) for x, y in zip(a, b, strict=True))


def rule(*lines: str) -> Callable[[Any], Any]:
    body = "".join(f"    {line}\n" for line in lines)
    return optc.loads(f"rule steps():\n{body}")


MARS = (
    "smooth mars()",
    "state m = zeros(w), v = zeros(w)",
    "m <- 0.95 * m + 0.05 * d",
    "v <- 0.99 * v + 0.01 * d^2",
    # pytorch_optimizer has eps before the correction, and 1e-15 below the root
    "d = m / (1 - 0.95^t) / (sqrt(v + 1e-15) + 1e-8) * sqrt(1 - 0.99^t)",
    "step 3e-3",
)
LAMB = (
    "state m = zeros(w), v = zeros(w)",
    "m <- 0.9 * m + 0.1 * d",
    "v <- 0.999 * v + 0.001 * d^2",
    "d = m / (sqrt(v) + 1e-6)",  # pytorch_optimizer corrects the mean alone
    "regularize l2(0.01)",
    "normalize trust_ratio(limit = 10, eps = 1e-6)",
    "step 1e-3 / (1 - 0.9^t)",
)
CASES: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any], float]] = {
    "adabelief": (
        rule("precondition adabelief(eps = 1e-6)", "step 1e-2"),
        lambda p: theirs.AdaBelief(p, lr=1e-2, eps=1e-6, rectify=False),
        1e-13,
    ),
    "adan": (
        rule("precondition adan()", "step 1e-2", "w <- w / (1 + 1e-2 * 0.1)"),
        lambda p: theirs.Adan(p, lr=1e-2, weight_decay=0.1),
        1e-13,
    ),
    "adopt": (
        rule("precondition adopt()", "step 1e-2"),
        # its counter is one ahead of the authors'
        lambda p: theirs.ADOPT(p, lr=1e-2, clip_lambda=lambda step: (step - 1) ** 0.25),
        1e-13,
    ),
    "yogi": (
        rule("precondition yogi()", "step 1e-2"),
        lambda p: theirs.Yogi(p, lr=1e-2),
        1e-13,
    ),
    "qhadam": (
        rule("precondition qhadam((0.9, 0.99), (0.7, 0.9))", "step 1e-2"),
        lambda p: theirs.QHAdam(p, lr=1e-2, betas=(0.9, 0.99), nus=(0.7, 0.9)),
        1e-7,  # it keeps the weights of its means in float32
    ),
    "novograd": (
        rule("precondition novograd(weight_decay = 0.01)", "step 1e-2"),
        lambda p: theirs.NovoGrad(p, lr=1e-2, weight_decay=0.01),
        1e-13,
    ),
    "mars": (
        rule(*MARS),
        lambda p: theirs.MARS(p, lr=3e-3, optimize_1d=True),
        1e-13,
    ),
    "lamb": (
        rule(*LAMB),
        lambda p: theirs.Lamb(p, lr=1e-3, weight_decay=0.01, weight_decouple=False),
        1e-13,
    ),
    "lars": (
        rule("normalize lars(weight_decay = 1e-2)", "smooth momentum(0.9)", "step 0.1"),
        lambda p: theirs.LARS(p, lr=0.1, weight_decay=1e-2),
        1e-13,
    ),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("name", CASES)
def test_the_steps_agree(name: str, dtype: torch.dtype) -> None:
    ours, reference, within = CASES[name]
    net, other = network(dtype), network(dtype)
    found = trained(net, ours(net.parameters()))
    wanted = trained(other, reference(other.parameters()))
    begin = network(dtype)
    assert gap(begin.parameters(), found) > 1e-3
    assert gap(found, wanted) < (within if dtype == torch.float64 else max(within, 5e-6))


def test_adafactor_is_that_of_torch() -> None:
    """Of tensors with more than two dimensions torch takes the last two as rows and columns."""
    net, other = flat_network(torch.float64), flat_network(torch.float64)
    ours = rule("precondition adafactor()", "step relative_step()")
    found = trained(net, ours(net.parameters()))
    wanted = trained(other, torch.optim.Adafactor(other.parameters(), lr=1e-2))
    assert gap(found, wanted) < 1e-13


def test_centralized_gradients_are_those_of_the_reference() -> None:
    net, other = network(torch.float64), network(torch.float64)
    found = trained(net, rule("normalize centralize()", "step 0.1")(net.parameters()))
    plain = torch.optim.SGD(other.parameters(), lr=0.1)

    def centralize(*_: Any) -> None:
        for p in other.parameters():
            assert p.grad is not None
            if p.dim() > 1:
                p.grad -= p.grad.mean(dim=tuple(range(1, p.dim())), keepdim=True)

    plain.register_step_pre_hook(centralize)
    wanted = trained(other, plain)
    assert gap(found, wanted) < 1e-13


def test_averaged_weights_are_those_of_torch() -> None:
    net, other = network(torch.float64), network(torch.float64)
    opt = rule("step 0.1", "average swa(start = 5, interval = 3)")(net.parameters())
    trained(net, opt)
    opt.eval()
    model = torch.optim.swa_utils.AveragedModel(other)
    plain, taken = torch.optim.SGD(other.parameters(), lr=0.1), iter(range(1, STEPS + 1))

    def average(*_: Any) -> None:
        step = next(taken)
        if step >= 5 and (step - 5) % 3 == 0:
            model.update_parameters(other)

    plain.register_step_post_hook(average)
    trained(other, plain)
    assert gap(net.parameters(), model.module.parameters()) < 1e-13


def test_gradient_noise_has_its_variance() -> None:
    w = nn.Parameter(torch.zeros(40_000, dtype=torch.float64))
    opt = rule("perturb gradient_noise(eta = 0.3)", "step 1")([w])
    before = w.detach().clone()
    for t in (1, 2, 3):
        w.grad = torch.ones_like(w)
        opt.step()
        moved = before - w.detach()
        before = w.detach().clone()
        assert float(moved.mean()) == pytest.approx(1, abs=0.01)
        assert float(moved.var()) == pytest.approx(0.3 / (1 + t) ** 0.55, rel=0.03)
