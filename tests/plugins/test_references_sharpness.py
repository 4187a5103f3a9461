"""Sharpness-aware perturbations agree with pytorch_optimizer, and GAM with NumPy, step for step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import optc

theirs = pytest.importorskip("pytorch_optimizer", reason="an independent reference")
DTYPE = torch.float64
LR, STEPS = 0.01, 6
SGD = torch.optim.SGD


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).to(DTYPE)


def loss_of(net: nn.Module, step: int) -> torch.Tensor:
    x = torch.randn(12, 4, generator=torch.Generator().manual_seed(step), dtype=DTYPE)
    return (net(x) - x[:, :3].sin()).square().sum()


def ours(perturbation: str, stepping: str = "step lr") -> list[torch.Tensor]:
    net = network()
    rule = optc.loads(f"rule r(lr = {LR}):\n    perturb {perturbation}\n    {stepping}\n")
    opt = rule(list(net.parameters()))
    opt.bind(model=net, objective=lambda step: loss_of(net, step))
    for step in range(STEPS):
        opt.step(batch=step)
    return [p.detach() for p in net.parameters()]


def reference(make: Callable[[nn.Module], Any], backward_first: bool) -> list[torch.Tensor]:
    """pytorch_optimizer's; some of its classes want a backward pass before `step(closure)`."""
    net = network()
    opt = make(net)
    for step in range(STEPS):

        def closure(step: int = step) -> torch.Tensor:
            net.zero_grad()
            loss = loss_of(net, step)
            loss.backward()
            return loss

        if backward_first:
            closure()
        opt.step(closure)
    return [p.detach() for p in net.parameters()]


def gsam(net: nn.Module) -> Any:
    """Its closure also gives the outputs; its radius comes from a schedule."""
    fixed = type("Fixed", (), {"step": lambda self: 0.05})()
    return theirs.GSAM(net.parameters(), SGD(net.parameters(), lr=LR), net, fixed, alpha=0.4)


def sam(net: nn.Module, **options: Any) -> Any:
    return theirs.SAM(net.parameters(), SGD, lr=LR, **options)


CASES: dict[str, tuple[str, Callable[[nn.Module], Any], bool]] = {
    "sam": ("sam(0.05)", lambda n: sam(n, rho=0.05), True),
    "asam": ("asam(0.5)", lambda n: sam(n, rho=0.5, adaptive=True), True),
    "wsam": (
        "wsam(0.05, 0.9)",
        lambda n: theirs.WSAM(n, n.parameters(), SGD, rho=0.05, gamma=0.9, lr=LR),
        False,
    ),
    "looksam": (
        "looksam(0.1, k = 3, alpha = 0.7)",
        lambda n: theirs.LookSAM(n.parameters(), SGD, rho=0.1, k=3, alpha=0.7, lr=LR),
        True,
    ),
    "friendly_sam": (
        "friendly_sam(0.1, 1.0, 0.9)",
        lambda n: theirs.FriendlySAM(n.parameters(), SGD, rho=0.1, sigma=1.0, lmbda=0.9, lr=LR),
        True,
    ),
}
"""The steps of a rule, the reference, whether it wants gradients before `step`."""


def same(a: list[torch.Tensor], b: list[torch.Tensor], bound: float) -> None:
    start = network()
    for x, y, s in zip(a, b, start.parameters(), strict=True):
        assert (y - s).abs().max() > 1e-3
        torch.testing.assert_close(x, y, rtol=0, atol=bound)


@pytest.mark.parametrize("name", CASES)
def test_it_equals_pytorch_optimizers(name: str) -> None:
    """Their norm is kept in float32."""
    perturbation, make, first = CASES[name]
    same(ours(perturbation), reference(make, first), 1e-6)


def test_gsam_equals_pytorch_optimizers() -> None:
    net = network()
    opt = gsam(net)
    for step in range(STEPS):

        def closure(step: int = step) -> tuple[None, torch.Tensor]:
            net.zero_grad()
            with torch.enable_grad():
                loss = loss_of(net, step)
            loss.backward()
            return None, loss.detach()

        opt.step(closure)
    same(ours("gsam(0.05, 0.4)"), [p.detach() for p in net.parameters()], 1e-6)


def test_gam_equals_its_transcriptions() -> None:
    """The card's equations, by formulas and, apart from them, by the order of the released code."""
    scale = np.array([1.0, 4.0, 0.5])

    def gradient(w: np.ndarray) -> np.ndarray:
        return scale * w + 0.4 * w**3

    def by_formulas(w: np.ndarray) -> np.ndarray:
        norm = np.linalg.norm
        g0 = gradient(w)
        g1 = gradient(w + 0.02 * g0 / (norm(g0) + 1e-12))
        d = g1 - g0
        w2 = w + 0.2 * d / (norm(d) + 1e-12)
        g2 = gradient(w2)
        g3 = gradient(w2 + 0.02 * g2 / (norm(g2) + 1e-12))
        p, h = g0 + abs(1 - 0.5) * g2, 0.6 * g1 + (1 - 0.6) * g3
        c = p @ h / (norm(p) * norm(h) + 1e-12)
        return h - 0.03 * (p - c * norm(p) * h / (norm(h) + 1e-12))

    def in_place(w: np.ndarray) -> np.ndarray:
        """Points are moved and moved back, gradients kept in a list."""
        at, kept = w.copy(), [gradient(w)]
        first = kept[0] * (0.02 / np.sqrt((kept[0] ** 2).sum()))
        at += first
        kept.append(gradient(at))
        at -= first
        up = kept[1] - kept[0]
        at += up * (0.2 / np.sqrt((up**2).sum()))
        kept.append(gradient(at))
        at += kept[2] * (0.02 / np.sqrt((kept[2] ** 2).sum()))
        kept.append(gradient(at))
        total = 0.6 * kept[1] + 0.4 * kept[3]
        plain = kept[0] + 0.5 * kept[2]
        vertical = plain - total * ((plain * total).sum() / (total**2).sum())
        return total - 0.03 * vertical

    start = np.array([1.0, -2.0, 0.5])
    w = torch.nn.Parameter(torch.tensor(start))
    opt = optc.loads("rule r(lr = 0.05):\n    perturb gam()\n    step lr\n")([w])
    factor = torch.tensor(scale)
    opt.bind(objective=lambda: (factor * w**2).sum() / 2 + 0.1 * (w**4).sum())
    a, b = start.copy(), start.copy()
    for _ in range(10):
        opt.step()
        a -= 0.05 * by_formulas(a)
        b -= 0.05 * in_place(b)
    np.testing.assert_allclose(w.detach().numpy(), a, rtol=1e-10)
    np.testing.assert_allclose(w.detach().numpy(), b, rtol=1e-10)


def test_m_sharpness_of_single_parts_is_the_mean_of_sams() -> None:
    net, hand = network(), network()
    x = torch.randn(12, 4, generator=torch.Generator().manual_seed(9), dtype=DTYPE)
    opt = optc.loads("rule r(lr = 0.05):\n    perturb msam(3, 0.1)\n    step lr\n")(
        list(net.parameters())
    )
    opt.bind(model=net, objective=lambda b: (net(b) - b[:, :3].sin()).square().mean())
    opt.step(batch=x)
    total = [torch.zeros_like(p) for p in hand.parameters()]
    for part in x.chunk(3):
        moved = network()
        loss = (moved(part) - part[:, :3].sin()).square().mean()
        g = torch.autograd.grad(loss, list(moved.parameters()))
        size = torch.sqrt(sum((v**2).sum() for v in g))
        with torch.no_grad():
            for p, v in zip(moved.parameters(), g, strict=True):
                p += 0.1 * v / size
        loss = (moved(part) - part[:, :3].sin()).square().mean()
        for s, v in zip(total, torch.autograd.grad(loss, list(moved.parameters())), strict=True):
            s += v / 3
    for p, q, s in zip(net.parameters(), hand.parameters(), total, strict=True):
        torch.testing.assert_close(p, q - 0.05 * s, rtol=1e-10, atol=1e-12)
