"""Peers from libraries, where they are installed: optimi, pytorch_optimizer, HeavyBall, PSGD."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn, optim

from .peers import ADAMW, DECAY, Peer, Step, Trained, split


def libraries(kind: str, compiled: bool) -> dict[str, Peer]:
    """Those that have a kind of rule. HeavyBall is made to be compiled, which takes minutes."""
    found: dict[str, Peer] = {}
    for module, label, build in (
        ("optimi", "torch-optimi", OPTIMI),
        ("pytorch_optimizer", "pytorch_optimizer", PYTORCH_OPTIMIZER),
        ("psgd_torch", "psgd_torch", PSGD_TORCH),
    ):
        if kind in build and importlib.util.find_spec(module):
            found[label] = build[kind]
    if kind in HEAVYBALL and importlib.util.find_spec("heavyball"):
        found["HeavyBall, eager"] = lambda t: HEAVYBALL[kind](t, None)
        if compiled:
            found["HeavyBall"] = lambda t: HEAVYBALL[kind](t, "default")
    return found


def load(name: str) -> Any:
    """A library, without its advice."""
    with warnings.catch_warnings(), open(os.devnull, "w") as nowhere:
        warnings.simplefilter("ignore")
        with contextlib.redirect_stdout(nowhere):
            return importlib.import_module(name)


def _optimi(name: str, options: Mapping[str, Any]) -> Peer:
    def build(tensors: Trained) -> Step:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # `foreach` is to go; on a CPU there is nothing else
            return getattr(load("optimi"), name)(tensors.parameters, foreach=True, **options).step

    return build


OPTIMI: dict[str, Peer] = {
    "adamw": _optimi("AdamW", ADAMW),
    "sgd": _optimi("SGD", {"lr": 1e-3, "momentum": 0.9}),
}


def _muon(tensors: Trained) -> Step:
    matrices, others = split(tensors)
    groups = [{"params": others, "use_muon": False}]
    if matrices:
        groups.append({"params": matrices, "use_muon": True})
    # as the rule does; by default it decays nothing
    return load("pytorch_optimizer").Muon(groups, weight_decay=0.1, adamw_wd=0.1).step


def _sam(tensors: Trained) -> Step:
    build = load("pytorch_optimizer").SAM
    sam = build(tensors.parameters, optim.AdamW, rho=0.05, **ADAMW, fused=True)

    def step() -> None:
        tensors.give()
        sam.first_step()
        tensors.give()
        nn.utils.clip_grad_norm_(tensors.parameters, 1.0, foreach=True)
        sam.second_step()

    return step


def _kron(tensors: Trained) -> Step:
    """It whitens the gradients instead of fitting the Hessian: one gradient a step and no more."""
    one = torch.ones(())
    options = {"pre_conditioner_update_probability": lambda _: one}
    kron = load("pytorch_optimizer").Kron(tensors.parameters, lr=1e-3, **options)

    def step() -> None:
        tensors.give()
        kron.step()

    return step


PYTORCH_OPTIMIZER: dict[str, Peer] = {"muon_adamw": _muon, "sam_adamw": _sam, "psgd": _kron}
"""Its AdamW and SGD are torch's own; none of its optimizers does what `cautious_adamw` does."""


def _psgd(tensors: Trained) -> Step:
    options = {"preconditioner_init_scale": 1.0, "grad_clip_max_norm": 1.0}
    kron = load("psgd_torch").Kron(tensors.parameters, **options, preconditioner_max_skew=1.0)
    return lambda: kron.step(tensors.objective)


PSGD_TORCH: dict[str, Peer] = {"psgd": _psgd}
"""By the author of PSGD; exact products with the Hessian, as the rule's."""


Build = Callable[[Trained, str | None], Step]


def _heavyball(
    name: str, options: Mapping[str, Any], after: Any = None, sam: bool = False
) -> Build:
    """`mode` is how torch.compile treats its parts; None: not at all."""

    def build(tensors: Trained, mode: str | None) -> Step:
        library = load("heavyball")
        library.utils.compile_mode = mode
        optimizer = getattr(library, name)(tensors.parameters, **options)
        if sam:
            optimizer = library.SAMWrapper(tensors.parameters, optimizer, ball=0.05)
        then = after(tensors) if after else None

        def step() -> None:
            library.utils.compile_mode = mode
            if sam:
                optimizer.step(tensors.give)
            else:
                tensors.give()  # it takes the gradients away
                optimizer.step()
            if then:
                then()

        return step

    return build


def _averaging(tensors: Trained) -> Step:
    """A moving average of the weights, by torch's operations on lists."""
    ps = tensors.parameters
    mean = [p.detach().float() for p in ps]

    @torch.no_grad()
    def step() -> None:
        torch._foreach_lerp_(mean, [p.float() for p in ps], 1 - DECAY)

    return step


_CAUTIOUS = {**ADAMW, "caution": True, "gradient_clipping": "global_l2norm_clip"}
HEAVYBALL: dict[str, Build] = {
    "adamw": _heavyball("AdamW", ADAMW),
    "sgd": _heavyball("SGD", {"lr": 1e-3, "beta": 0.9}),
    "muon_adamw": _heavyball("MuonAdamW", {"lr": 1e-3}),
    "sam_adamw": _heavyball("AdamW", ADAMW, sam=True),
    "cautious_adamw": _heavyball("AdamW", _CAUTIOUS, after=_averaging),
    "psgd": _heavyball("PSGDKron", {"preconditioner_update_probability": 1.0}),
}
"""Its SAM perturbs by p^2 g and doesn't clip, its PSGD whitens, its Muon takes embeddings too."""
