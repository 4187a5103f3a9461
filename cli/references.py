"""Other implementations of rules: by the name of a rule, an optimizer of torch and its options."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch

Named = Sequence[tuple[str, Any]]
Options = Mapping[str, Any]
Factory = Callable[[Named, dict[str, Any]], list[torch.optim.Optimizer]]


@dataclass(frozen=True)
class Reference:
    """An implementation to compare with. `loose` says why it agrees only roughly, if so."""

    name: str
    make: Factory
    options: tuple[str, ...]
    loose: str = ""


def _torch(name: str, *options: str, **fixed: Any) -> Reference:
    """The class of torch.optim, whose options have the names that the rule gives them."""

    def make(named: Named, chosen: dict[str, Any]) -> list[torch.optim.Optimizer]:
        cls = getattr(torch.optim, name)
        return [cls([p for _, p in named], **chosen, **fixed)]

    return Reference(f"torch.optim.{name}", make, options)


def _muon_adamw(named: Named, chosen: dict[str, Any]) -> list[torch.optim.Optimizer]:
    """Muon for matrices that are no embedding and no head, AdamW for the others."""
    shared = {"weight_decay": chosen["weight_decay"]}
    hidden = [
        (n, p)
        for n, p in named
        if p.dim() == 2 and not any(fnmatchcase(n, x) for x in ("*embed*", "*head*"))
    ]
    chosen_ones = {id(p) for _, p in hidden}
    others = [p for _, p in named if id(p) not in chosen_ones]
    muon = {"lr": chosen["lr"], "momentum": chosen["momentum"]}
    adam = {"lr": chosen["adam_lr"], "betas": chosen["betas"]}
    return [
        torch.optim.Muon([p for _, p in hidden], **muon, **shared),
        torch.optim.AdamW(others, **adam, **shared),
    ]


def _sign(named: Named, chosen: dict[str, Any]) -> list[torch.optim.Optimizer]:
    return [_Sign([p for _, p in named], dict(chosen))]


class _Sign(torch.optim.Optimizer):
    """A step along the sign of the averaged gradient."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        if closure is not None:
            with torch.enable_grad():
                closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    m = self.state[p].setdefault("m", torch.zeros_like(p))
                    m.mul_(group["beta"]).add_(p.grad, alpha=1 - group["beta"])
                    p.sub_(group["lr"] * torch.sign(m))


REFERENCES: dict[str, Reference] = {
    "sgd": _torch("SGD", "lr", "momentum", "dampening", "weight_decay"),
    "nesterov": _torch("SGD", "lr", "momentum", "weight_decay", nesterov=True),
    "adam": _torch("Adam", "lr", "betas", "eps", "weight_decay"),
    "adamw": _torch("AdamW", "lr", "betas", "eps", "weight_decay"),
    "amsgrad": _torch("Adam", "lr", "betas", "eps", "weight_decay", amsgrad=True),
    "adagrad": _torch("Adagrad", "lr", "eps", "weight_decay"),
    "rmsprop": _torch("RMSprop", "lr", "alpha", "eps", "weight_decay"),
    "rmsprop_centered": _torch("RMSprop", "lr", "alpha", "eps", "weight_decay", centered=True),
    "sign_momentum": Reference("the paper's box in torch", _sign, ("lr", "beta")),
    "muon_adamw": Reference(
        "torch.optim.Muon and AdamW",
        _muon_adamw,
        ("lr", "momentum", "weight_decay", "adam_lr", "betas"),
        "torch orthogonalizes in bfloat16",
    ),
}
"""Rule -> what it claims to be."""


def reference(rule: str, options: Options) -> Reference | None:
    """What a rule of this name is compared with, if it understands all of the rule's options."""
    found = REFERENCES.get(rule)
    return found if found is not None and set(options) <= set(found.options) else None
