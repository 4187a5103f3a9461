"""Saving and loading state: what torch's own functions would change or leave out."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from ..compiler.program import Program


def settled(optimizer: Any) -> None:
    """What is saved has been decided."""
    optimizer.settle()


def add_snapshots(optimizer: Any, state_dict: dict[str, Any]) -> dict[str, Any]:
    """What a rule may go back to is saved beside the state."""
    kept = {"snapshots": list(optimizer._snapshots)} if optimizer._snapshots else {}
    return {**state_dict, **kept}


def keep_types(optimizer: Any, state_dict: dict[str, Any]) -> dict[str, Any]:
    """Remember saved state as it is: torch casts every state to the type of its parameter."""
    state = named(optimizer.program, state_dict["state"])
    order = [i for group in state_dict["param_groups"] for i in group["params"]]
    optimizer._saved = [state.get(i, {}) for i in order]
    optimizer._snapshots = copy.deepcopy(state_dict.get("snapshots", []))
    return {**state_dict, "state": state}


def named(program: Program, state: dict[Any, Any]) -> dict[Any, Any]:
    """A state whose slots have the rule's names, or the ends of them: `exp_avg`, `adam.exp_avg`.

    So AdamW goes on from a checkpoint of torch.optim.AdamW. Where slots are missing and others are
    there that cannot stand for them, the checkpoint is of another rule.
    """
    _same_form(program, state)
    found = {key for entries in state.values() for key in entries}
    own = {s for s, spec in program.slots.items() if spec.kind == "state"}
    missing, foreign = own - found, found - own - {"step"}
    if not missing or not foreign:
        return state
    ends: dict[str, list[str]] = {}
    for slot in missing:
        ends.setdefault(slot.rpartition(".")[2], []).append(slot)
    names = {key: ends.get(key, []) for key in foreign}
    if len(foreign) != len(missing) or any(len(slots) != 1 for slots in names.values()):
        raise ValueError(
            f"Invalid state: it is of another optimizer, which keeps {_listed(found)}; "
            f"{program.name} keeps {_listed(own | {'step'})}"
        )
    return {
        i: {names[key][0] if key in names else key: value for key, value in entries.items()}
        for i, entries in state.items()
    }


def _same_form(program: Program, state: dict[Any, Any]) -> None:
    """Codes mean nothing without the sizes of their blocks, nor numbers as codes."""
    for entries in state.values():
        for key, value in entries.items():
            if key not in program.slots or not isinstance(value, Tensor):
                continue
            block = bool(program.slots[key].format.block)
            if block != (value.dtype == torch.int8):
                saved, kept = ("numbers", "int8 codes") if block else ("int8 codes", "numbers")
                raise ValueError(
                    f"Invalid state: `{key}` was saved as {saved}, and {program.name} keeps "
                    f"{kept}: load the rule with the schedule that it was saved with"
                )


def _listed(names: set[str]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names))


def restore_types(optimizer: Any) -> None:
    """Put state back in the types that it was saved with."""
    params = [p for g in optimizer.param_groups for p in g["params"]]
    for p, entries in zip(params, optimizer.__dict__.pop("_saved", []), strict=False):
        for key, value in entries.items():
            now = optimizer.state[p].get(key)
            if isinstance(now, Tensor) and isinstance(value, Tensor) and now.dtype != value.dtype:
                optimizer.state[p][key] = value.detach().clone().to(now.device)
    taken = max((int(x["step"]) for x in optimizer.state.values() if "step" in x), default=0)
    for group in optimizer.param_groups:
        for name, default in optimizer.program.options.items():
            group.setdefault(name, default)
            if isinstance(group[name], list):
                group[name] = tuple(group[name])
        for name, begin in {"calls": taken, "steps": taken, "seed": 0, "maximize": False}.items():
            group.setdefault(name, begin)
    optimizer._layout = None
    optimizer._slots = None
    optimizer._open = None
    if optimizer._backward is not None:
        optimizer._backward.forget()
