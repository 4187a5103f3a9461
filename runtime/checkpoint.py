"""Saving and loading state: what torch's own functions would change or leave out."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def settled(optimizer: Any) -> None:
    """What is saved has been decided."""
    optimizer.settle()


def keep_types(optimizer: Any, state_dict: dict[str, Any]) -> None:
    """Remember saved state as it is: torch casts every state to the type of its parameter."""
    order = [i for group in state_dict["param_groups"] for i in group["params"]]
    optimizer._saved = [state_dict["state"].get(i, {}) for i in order]


def restore_types(optimizer: Any) -> None:
    """Put state back in the types that it was saved with."""
    params = [p for g in optimizer.param_groups for p in g["params"]]
    for p, entries in zip(params, optimizer.__dict__.pop("_saved", []), strict=False):
        for key, value in entries.items():
            now = optimizer.state[p].get(key)
            if isinstance(now, Tensor) and isinstance(value, Tensor) and now.dtype != value.dtype:
                optimizer.state[p][key] = value.detach().clone().to(now.device)
    for group in optimizer.param_groups:
        for name, default in optimizer.program.options.items():
            group.setdefault(name, default)
            if isinstance(group[name], list):
                group[name] = tuple(group[name])
        for name in ("calls", "steps", "seed", "maximize"):
            group.setdefault(name, 0)
    optimizer._layout = None
    optimizer._slots = None
    optimizer._open = None
    if optimizer._backward is not None:
        optimizer._backward.forget()
