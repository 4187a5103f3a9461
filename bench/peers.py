"""Hand-written optimizers that do what a rule does: torch's own, and what one writes with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn, optim

Step = Callable[[], Any]
ADAMW: dict[str, Any] = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01}
DECAY = 0.999
"""Of the moving average of the weights."""


class Trained(Protocol):
    """Parameters, and a closure that puts gradients in place and returns the loss."""

    parameters: list[nn.Parameter]
    inside: float

    def named(self) -> list[tuple[str, nn.Parameter]]: ...
    def give(self) -> Tensor: ...
    def objective(self) -> Tensor: ...


Peer = Callable[[Trained], Step]


def peers(kind: str, compiled: bool = False) -> dict[str, Peer]:
    """The peers of a kind of rule by the name to show; `compiled` adds those that take minutes."""
    from .libraries import libraries

    found = torchs(kind)
    if compiled and "torch foreach" in found:
        plain = found["torch foreach"]
        found["torch.compile"] = lambda t: torch.compile(plain(t))
    return {**found, **libraries(kind, compiled)}


def torchs(kind: str) -> dict[str, Peer]:
    """torch's own: no optimizer there is fused for every kind."""
    if kind == "psgd":
        return {}
    if kind == "cautious_adamw":
        return {"torch foreach": _cautious}
    return {
        "torch fused": lambda t: _torch(kind, t, fused=True),
        "torch foreach": lambda t: _torch(kind, t, foreach=True),
    }


def _torch(kind: str, tensors: Trained, **how: bool) -> Step:
    ps = tensors.parameters
    if kind == "sgd":
        return optim.SGD(ps, lr=1e-3, momentum=0.9, **how).step
    if kind == "muon_adamw":
        return _muon(tensors, **how)
    inner = optim.AdamW(ps, **ADAMW, **how)
    if kind == "clipped_adamw":
        return lambda: (nn.utils.clip_grad_norm_(ps, 1.0, foreach=True), inner.step())
    if kind == "sam_adamw":
        return _sam(tensors, inner)
    return inner.step


def _muon(tensors: Trained, **how: bool) -> Step:
    matrices, others = split(tensors)
    steps = []
    if matrices:
        steps.append(optim.Muon(matrices, lr=0.02, momentum=0.95, weight_decay=0.1).step)
    if others:
        steps.append(optim.AdamW(others, lr=3e-4, betas=(0.9, 0.95), **how).step)
    return lambda: [step() for step in steps]


def split(tensors: Trained) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The matrices of the hidden layers, and everything else."""
    hidden = [p.ndim == 2 and "embed" not in n and "head" not in n for n, p in tensors.named()]
    both = list(zip(tensors.parameters, hidden, strict=True))
    return [p for p, inner in both if inner], [p for p, inner in both if not inner]


def _sam(tensors: Trained, inner: optim.Optimizer) -> Step:
    """What is commonly written by hand, with torch's operations on lists."""
    ps = tensors.parameters

    @torch.no_grad()
    def step() -> None:
        evaluate(tensors)
        gradients = [p.grad for p in ps if p.grad is not None]
        norm: Tensor = nn.utils.get_total_norm(gradients, foreach=True)
        before = [p.clone() for p in ps]
        torch._foreach_add_(ps, torch._foreach_mul(gradients, 0.05 / (norm + 1e-12)))
        evaluate(tensors)
        torch._foreach_copy_(ps, before)
        nn.utils.clip_grad_norm_(ps, 1.0, foreach=True)
        inner.step()

    return step


def evaluate(tensors: Trained) -> Tensor:
    """The closure, with gradients on."""
    with torch.enable_grad():
        return tensors.give()


def _cautious(tensors: Trained) -> Step:
    """Clipped, cautious AdamW over bfloat16 parameters with a mean of the weights, on lists."""
    ps = tensors.parameters
    first, second = ([torch.zeros_like(p, dtype=torch.float32) for p in ps] for _ in range(2))
    mean = [p.detach().float() for p in ps]
    lr, (beta1, beta2), decay = ADAMW["lr"], ADAMW["betas"], ADAMW["weight_decay"]
    turn = 0

    @torch.no_grad()
    def step() -> None:
        nonlocal turn
        turn += 1
        given = [p.grad for p in ps if p.grad is not None]
        norm: Tensor = nn.utils.get_total_norm(given, foreach=True)
        gs = [g.float() for g in given]
        torch._foreach_mul_(gs, torch.clamp(1 / (norm.float() + 1e-6), max=1.0))
        torch._foreach_lerp_(first, gs, 1 - beta1)
        torch._foreach_mul_(second, beta2)
        torch._foreach_addcmul_(second, gs, gs, 1 - beta2)
        root = torch._foreach_sqrt(second)
        torch._foreach_div_(root, (1 - beta2**turn) ** 0.5)
        torch._foreach_add_(root, ADAMW["eps"])
        update = torch._foreach_div(first, root)
        torch._foreach_div_(update, 1 - beta1**turn)
        agree = [(x > 0).float() for x in torch._foreach_mul(update, gs)]
        torch._foreach_mul_(update, agree)
        torch._foreach_div_(update, [a.mean().clamp_(min=1e-3) for a in agree])
        ws = [p.float() for p in ps]
        torch._foreach_mul_(ws, 1 - lr * decay)
        torch._foreach_add_(ws, update, alpha=-lr)
        torch._foreach_lerp_(mean, ws, 1 - DECAY)
        torch._foreach_copy_(ps, [by_chance(w) for w in ws])

    return step


def by_chance(x: Tensor) -> Tensor:
    """Rounded to bfloat16, up or down by chance."""
    bits = x.view(torch.int32) + torch.randint_like(x, 1 << 16, dtype=torch.int32)
    return bits.bitwise_and_(-(1 << 16)).view(torch.float32).bfloat16()
