"""Saving and loading state: what torch's own functions would change or leave out."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from ..compiler import cells
from ..compiler.formats import rest_of
from ..compiler.program import Program, SlotSpec
from . import int8
from .state import to_local, type_of
from .tensors import local


def settled(optimizer: Any) -> None:
    """What is saved has been decided."""
    optimizer.settle()


def add_snapshots(optimizer: Any, state_dict: dict[str, Any]) -> dict[str, Any]:
    """What a rule may go back to is saved beside the state."""
    kept = {"snapshots": list(optimizer._snapshots)} if optimizer._snapshots else {}
    return {**state_dict, **kept}


def keep_types(optimizer: Any, state_dict: dict[str, Any]) -> dict[str, Any]:
    """Remember the state to load: torch casts every state to the type of its parameter.

    What does not fit this rule and these parameters is refused before anything is taken.
    """
    program, groups = optimizer.program, optimizer.param_groups
    _same_order(groups, state_dict["param_groups"])
    state = dict(named(program, state_dict["state"]))
    order = [i for group in state_dict["param_groups"] for i in group["params"]]
    params = [p for group in groups for p in group["params"]]
    names = [n for g in groups for n in g.get("param_names", [""] * len(g["params"]))]
    for k, (i, p) in enumerate(zip(order, params, strict=False)):
        if i in state:
            _same_shapes(program, state[i], p, names[k] or f"parameter {k}", len(groups))
            state[i] = as_kept(program, state[i], p)
    optimizer._saved = [state.get(i, {}) for i in order]
    kept = copy.deepcopy(state_dict.get("snapshots", []))
    optimizer._snapshots = deque(kept, program.snapshots)
    return {**state_dict, "state": state}


def named(program: Program, state: dict[Any, Any]) -> dict[Any, Any]:
    """A state whose slots have the rule's names, or the ends of them: `exp_avg`, `adam.exp_avg`.

    So AdamW goes on from a checkpoint of torch.optim.AdamW. Where slots are missing and others are
    there that cannot stand for them, the checkpoint is of another rule.
    """
    _same_form(program, state)
    found = {key for entries in state.values() for key in entries}
    rests = {rest_of(s) for s in program.slots}
    own = {s for s, spec in program.slots.items() if spec.kind == "state"} - rests
    missing, foreign = own - found, found - own - rests - {"step"}
    if not missing or not foreign:
        return state
    ends = by_end(missing)
    names = {key: ends.get(key, []) for key in foreign}
    if len(foreign) != len(missing) or any(len(slots) != 1 for slots in names.values()):
        raise ValueError(
            f"Invalid state: it is of another optimizer, which keeps {listed(found)}; "
            f"{program.name} keeps {listed(own | {'step'})}"
        )
    return {
        i: {names[key][0] if key in names else key: value for key, value in entries.items()}
        for i, entries in state.items()
    }


def _same_order(groups: list[dict[str, Any]], saved: list[dict[str, Any]]) -> None:
    """State is taken by places: where names say that these are others, it would be another's."""
    now, then = ([n for g in gs for n in g.get("param_names", ())] for gs in (groups, saved))
    if now != then and sorted(now) == sorted(then):
        a, b = next((x, y) for x, y in zip(then, now, strict=True) if x != y)
        raise ValueError(
            f"Invalid state: it was saved with `{a}` where `{b}` stands now: give the parameters "
            "and their groups in the order of the checkpoint"
        )


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


def _same_shapes(
    program: Program, entries: dict[str, Any], p: Tensor, name: str, groups: int
) -> None:
    """A state has the cells of its parameter, and as many places of its axes as the rule says."""
    for key, value in entries.items():
        if key not in program.slots or not isinstance(value, Tensor):
            continue
        found = tuple(local(value).shape)
        saved = min(groups, *found[:1]) if found else groups  # a group may have joined since
        wanted = _shape(program.slots[key], to_local(p), saved, program)
        fits = len(found) == len(wanted) and all(
            w is None or w == f for w, f in zip(wanted, found, strict=True)
        )
        if not fits:
            shown = ", ".join("any" if w is None else str(w) for w in wanted)
            raise ValueError(
                f"Invalid state: `{key}` of {name} was saved with the shape {list(found)}, and "
                f"{program.name} keeps [{shown}] for it"
            )


def _shape(spec: SlotSpec, like: Tensor, groups: int, program: Program) -> tuple[int | None, ...]:
    """The shape in which a slot is kept for a parameter; None where the host says the places."""
    if spec.reach == "block":
        codes = program.slots[spec.path.removesuffix(".size")]
        return (int8.sizes_like(like, codes.format).numel(),)
    axes = tuple(cells.SIDES[a](like) if isinstance(a, str) else a for a in spec.axes)
    first = (groups,) if spec.reach == "group" else ()
    return (*first, *axes, *cells.extent(like.shape, spec.reach))


def as_kept(program: Program, entries: dict[str, Any], p: Tensor) -> dict[str, Any]:
    """The state of a parameter in the types in which the schedule at hand keeps it."""
    result = dict(entries)
    for key, value in entries.items():
        spec, rest = program.slots.get(key), rest_of(key)
        if spec is None or not isinstance(value, Tensor) or not value.is_floating_point():
            continue
        if spec.reach == "block":  # the sizes of int8's blocks
            continue
        if rest in entries and rest not in program.slots:
            value = value.float() + result.pop(rest).float()
        result[key] = value.to(type_of(spec, to_local(p)))
        if spec.format.rounding == "kahan" and rest not in entries:
            result[rest] = (value.double() - result[key].double()).to(result[key].dtype)
    return result


def by_end(names: Iterable[str]) -> dict[str, list[str]]:
    """Names of slots by their ends: `adam.exp_avg` by `exp_avg`."""
    ends: dict[str, list[str]] = {}
    for name in names:
        ends.setdefault(name.rpartition(".")[2], []).append(name)
    return ends


def listed(names: Iterable[str]) -> str:
    """Names in a message, in order."""
    return ", ".join(f"`{name}`" for name in sorted(names)) or "nothing"


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
