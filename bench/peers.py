"""Hand-written optimizers that do what a rule does: torch's own, and libraries where installed."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn, optim

from .sets import Tensors

Step = Callable[[], Any]
Peer = Callable[[Tensors], Step]

KINDS = ("adamw", "sgd", "muon_adamw", "sam_adamw", "clipped_adamw")
OPTIONS: dict[str, dict[str, Any]] = {"sgd": {"momentum": 0.9}}
"""What a rule is set to, where it has the option, so that it does what its peers do."""
ADAMW: dict[str, Any] = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01}


def peers(kind: str, compiled: bool = False) -> dict[str, Peer]:
    """The peers of a kind of rule by the name to show; `compiled` adds those that take minutes."""
    found: dict[str, Peer] = {
        "torch fused": lambda t: _torch(kind, t, fused=True),
        "torch foreach": lambda t: _torch(kind, t, foreach=True),
    }
    if compiled:
        found["torch.compile"] = lambda t: torch.compile(_torch(kind, t, foreach=True))
    for module, label, build in (
        ("optimi", "torch-optimi", _optimi),
        ("pytorch_optimizer", "pytorch_optimizer", _pytorch_optimizer),
    ):
        if kind in build and importlib.util.find_spec(module):
            found[label] = build[kind]
    if kind in _heavyball and importlib.util.find_spec("heavyball"):
        found["HeavyBall, eager"] = lambda t: _heavyball[kind](t, None)
        if compiled:
            found["HeavyBall"] = lambda t: _heavyball[kind](t, "default")
    return found


def _torch(kind: str, tensors: Tensors, **how: bool) -> Step:
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


def _muon(tensors: Tensors, **how: bool) -> Step:
    matrices, others = split(tensors)
    steps = []
    if matrices:
        steps.append(optim.Muon(matrices, lr=0.02, momentum=0.95, weight_decay=0.1).step)
    steps.append(optim.AdamW(others, lr=3e-4, betas=(0.9, 0.95), **how).step)
    return lambda: [step() for step in steps]


def split(tensors: Tensors) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The matrices of the hidden layers, and everything else."""
    hidden = [p.ndim == 2 and "embed" not in n and "head" not in n for n, p in tensors.named()]
    both = list(zip(tensors.parameters, hidden, strict=True))
    return [p for p, inner in both if inner], [p for p, inner in both if not inner]


def _sam(tensors: Tensors, inner: optim.Optimizer) -> Step:
    """What is commonly written by hand, with torch's operations on lists."""
    ps = tensors.parameters

    @torch.no_grad()
    def step() -> None:
        tensors.give()
        gradients = [p.grad for p in ps if p.grad is not None]
        norm: Tensor = nn.utils.get_total_norm(gradients, foreach=True)
        before = [p.clone() for p in ps]
        torch._foreach_add_(ps, torch._foreach_mul(gradients, 0.05 / (norm + 1e-12)))
        tensors.give()
        torch._foreach_copy_(ps, before)
        nn.utils.clip_grad_norm_(ps, 1.0, foreach=True)
        inner.step()

    return step


def _optimi_of(name: str, options: Mapping[str, Any]) -> Peer:
    return lambda t: getattr(importlib.import_module("optimi"), name)(t.parameters, **options).step


_optimi: dict[str, Peer] = {
    "adamw": _optimi_of("AdamW", {**ADAMW, "foreach": True}),
    "sgd": _optimi_of("SGD", {"lr": 1e-3, "momentum": 0.9, "foreach": True}),
}


def _pytorch_optimizer_muon(tensors: Tensors) -> Step:
    matrices, others = split(tensors)
    groups = [{"params": others, "use_muon": False}]
    if matrices:
        groups.append({"params": matrices, "use_muon": True})
    return importlib.import_module("pytorch_optimizer").Muon(groups).step


def _pytorch_optimizer_sam(tensors: Tensors) -> Step:
    build = importlib.import_module("pytorch_optimizer").SAM
    sam = build(tensors.parameters, optim.AdamW, rho=0.05, **ADAMW, fused=True)

    def step() -> None:
        tensors.give()
        sam.first_step()
        tensors.give()
        nn.utils.clip_grad_norm_(tensors.parameters, 1.0, foreach=True)
        sam.second_step()

    return step


_pytorch_optimizer: dict[str, Peer] = {
    "muon_adamw": _pytorch_optimizer_muon,
    "sam_adamw": _pytorch_optimizer_sam,
}


def _heavyball_of(name: str, options: Mapping[str, Any]) -> Callable[[Tensors, str | None], Step]:
    def build(tensors: Tensors, mode: str | None) -> Step:
        library = importlib.import_module("heavyball")
        optimizer = getattr(library, name)(tensors.parameters, **options)

        def step() -> None:
            library.utils.compile_mode = mode
            tensors.give()  # it takes the gradients away
            optimizer.step()

        return step

    return build


_heavyball: dict[str, Callable[[Tensors, str | None], Step]] = {
    "adamw": _heavyball_of("AdamW", ADAMW),
    "sgd": _heavyball_of("SGD", {"lr": 1e-3, "beta": 0.9}),
}
