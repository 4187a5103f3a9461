"""Step sizes, averages and line searches agree with torch, pytorch_optimizer and SciPy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import optc

theirs = pytest.importorskip("pytorch_optimizer", reason="an independent reference")
EXAMPLES = Path(__file__).parents[2] / "examples"
DTYPE = torch.float64
STEPS = 12


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).to(DTYPE)


def loss_of(net: nn.Module, step: int) -> Tensor:
    x = torch.randn(12, 4, generator=torch.Generator().manual_seed(step), dtype=DTYPE)
    return (net(x) - x[:, :3].sin()).square().mean()


def trained(net: nn.Module, opt: Any, evaluate: bool = False) -> list[Tensor]:
    for step in range(STEPS):

        def closure(step: int = step) -> Tensor:
            opt.zero_grad()
            with torch.enable_grad():
                loss = loss_of(net, step)
                loss.backward()
            return loss

        opt.step(closure)
    if evaluate:
        opt.eval()
    return [p.detach().clone() for p in net.parameters()]


def steps(*lines: str) -> Callable[[Any], Any]:
    body = "".join(f"    {line}\n" for line in lines)
    return optc.loads(f"rule steps():\n{body}")


CASES: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any], float, bool]] = {
    "lookahead over sgd": (
        steps("smooth lookahead(0.1, 5, 0.5)", "step 1"),
        lambda p: theirs.Lookahead(torch.optim.SGD(p, lr=0.1), k=5, alpha=0.5),
        1e-12,
        False,
    ),
    "lookahead over adam": (
        steps("precondition adam()", "smooth lookahead(0.01, 3, 0.8)", "step 1"),
        lambda p: theirs.Lookahead(torch.optim.Adam(p, lr=0.01), k=3, alpha=0.8),
        1e-11,
        False,
    ),
    "ali_g": (
        steps("step ali_g(lr = 0.5, eps = 1e-6)"),
        lambda p: theirs.AliG(p, max_lr=0.5),
        1e-6,
        False,
    ),
    "schedule-free sgd, held": (
        steps("smooth schedule_free(0.3, 0.9, 4)", "step 1"),
        lambda p: theirs.ScheduleFreeSGD(p, lr=0.3, momentum=0.9, warmup_steps=4),
        1e-12,
        False,
    ),
    "schedule-free sgd, evaluated": (
        steps("smooth schedule_free(0.3, 0.9)", "step 1"),
        lambda p: theirs.ScheduleFreeSGD(p, lr=0.3, momentum=0.9),
        1e-12,
        True,
    ),
    "schedule-free adamw": (
        lambda p: optc.load(EXAMPLES / "schedule_free_adamw.opt")(
            p, lr=0.02, weight_decay=0.1, warmup=3
        ),
        lambda p: theirs.ScheduleFreeAdamW(p, lr=0.02, weight_decay=0.1, warmup_steps=3),
        1e-8,  # they add 1e-15 to the running square
        True,
    ),
    "decoupled decay, the paper's": (
        steps(
            "precondition adam()",
            "regularize decoupled_weight_decay(0.01, 0.002)",
            "step 1",
        ),
        lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.2),
        1e-11,
        False,
    ),
    "prodigy": (
        steps("precondition prodigy(weight_decay = 0.1, d0 = 1e-3)", "step 1"),
        lambda p: theirs.Prodigy(p, weight_decay=0.1, d0=1e-3),
        1e-5,
        False,
    ),
}
"""Ours, theirs, the bound (their sums are float32), whether evaluation is compared."""


@pytest.mark.parametrize("name", CASES)
def test_it_equals_pytorch_optimizers(name: str) -> None:
    make, reference, bound, evaluate = CASES[name]
    a, b = network(), network()
    found = trained(a, make(list(a.parameters())), evaluate)
    expected = trained(b, reference(list(b.parameters())), evaluate)
    for x, y, start in zip(found, expected, network().parameters(), strict=True):
        assert (y - start).abs().max() > 1e-3
        torch.testing.assert_close(x, y, rtol=0, atol=bound)


def test_cosine_restarts_are_torchs() -> None:
    w = nn.Parameter(torch.zeros(1, dtype=DTYPE))
    sgd = torch.optim.SGD([w], lr=0.5)
    schedule = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(sgd, 3, 2, eta_min=0.1)
    rates = []
    for _ in range(20):
        rates.append(sgd.param_groups[0]["lr"])
        sgd.step()
        schedule.step()
    opt = steps("step cosine_restarts(period = 3, lr = 0.5, floor = 0.1)")([w])
    for rate in rates:
        before = w.item()
        w.grad = torch.ones_like(w)
        opt.step()
        assert before - w.item() == pytest.approx(rate, abs=1e-12)


# Line searches ----------------------------------------------------------------------------------


def valley(x: Any) -> Any:
    """Rosenbrock's function, and its gradient for SciPy below."""
    return 100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2


def slope(x: Any) -> np.ndarray:
    a, b = x
    return np.array([-400 * a * (b - a**2) - 2 * (1 - a), 200 * (b - a**2)])


@pytest.mark.parametrize("start", [(-1.2, 1.0), (0.0, 2.0), (2.0, -1.0), (0.3, 0.1)])
@pytest.mark.parametrize("first", [1e-6, 1e-3, 1.0, 100.0])
def test_strong_wolfe_steps_satisfy_their_conditions(
    start: tuple[float, float], first: float
) -> None:
    w = nn.Parameter(torch.tensor(start, dtype=DTYPE))
    rule = steps(f"step strong_wolfe(lr = {first}, curvature = 0.3, turns = 60)")
    opt = rule([w])
    opt.bind(objective=lambda: valley(w))
    opt.step()
    x, g = np.array(start), slope(start)
    a = float((x - w.detach().numpy()) @ g / (g @ g))
    assert a > 0
    assert valley(x - a * g) <= valley(x) - 1e-4 * a * (g @ g)
    assert abs(slope(x - a * g) @ g) <= 0.3 * (g @ g)


def test_a_strict_wolfe_step_is_scipys_minimum() -> None:
    """With a small curvature constant only steps near the minimum along the line are left."""
    reference = pytest.importorskip("scipy.optimize", reason="an independent reference")
    start = np.array([-1.2, 1.0])
    g = slope(start)
    expected = reference.minimize_scalar(lambda a: valley(start - a * g), bracket=(0.0, 1e-4)).x
    w = nn.Parameter(torch.tensor(start))
    rule = steps("step strong_wolfe(lr = 1e-4, curvature = 1e-6, turns = 100)")
    opt = rule([w])
    opt.bind(objective=lambda: valley(w))
    opt.step()
    found = float((start - w.detach().numpy()) @ g / (g @ g))
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    "search",
    [
        "armijo_reset(lr = 1.0, turns = 60)",
        "nonmonotone_armijo(lr = 1.0, turns = 60)",
        "strong_wolfe(lr = 1e-3)",
    ],
)
def test_a_search_makes_descent_safe(search: str) -> None:
    """From a rate at which plain descent diverges at once."""
    w = nn.Parameter(torch.tensor([-1.2, 1.0], dtype=DTYPE))
    opt = steps(f"step {search}")([w])
    opt.bind(objective=lambda: valley(w))
    for _ in range(200):
        opt.step()
    assert valley(w.detach()) < 0.1 * valley((-1.2, 1.0))
