"""The state of a rule as the torch optimizer of the same slots takes it: the way back."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..compiler.formats import rest_of, sizes_of
from ..compiler.program import Program
from . import int8
from .checkpoint import by_end, listed
from .tensors import local

TO_RUN = {"foreach": False, "fused": False, "capturable": False}
"""How a trial of one small tensor runs, whatever the optimizer itself does."""


def torch_state(optimizer: Any, theirs: torch.optim.Optimizer) -> dict[str, Any]:
    """A state_dict for the torch optimizer that keeps the same slots:
    `theirs.load_state_dict(optc.torch_state(optimizer, theirs))`.

    `theirs` is made over the same groups. It gets `step` and each slot by the end of its name, as
    plain numbers whatever the schedule stores, and the options that it has under the same name;
    its others stay. Slots that have no match, on either side, are refused. Both states share
    tensors, as with any state_dict: copy it where both go on.
    """
    saved, wanted = optimizer.state_dict(), theirs.state_dict()
    counts = [[len(g["params"]) for g in s["param_groups"]] for s in (saved, wanted)]
    if counts[0] != counts[1]:
        raise ValueError(
            f"Invalid optimizer: its groups hold {counts[1]} parameters, and those of "
            f"{optimizer.program.name} hold {counts[0]}"
        )
    state, groups = {}, []
    for own, other, held in zip(
        saved["param_groups"], wanted["param_groups"], optimizer.param_groups, strict=True
    ):
        taken = {k: v for k, v in own.items() if k in other or k == "initial_lr"}
        groups.append(group := {**other, **taken, "params": other["params"]})
        for i, j, p in zip(own["params"], other["params"], held["params"], strict=True):
            if entries := saved["state"].get(i):
                plain = _numbers(optimizer.program, entries)
                state[j] = _matched(optimizer.program.name, plain, p, theirs, group)
    return {"state": state, "param_groups": groups}


def _numbers(program: Program, entries: dict[str, Any]) -> dict[str, Any]:
    """The state of a parameter without formats: codes decoded, pairs summed."""
    result = dict(entries)
    for key in entries:
        format = program.slots[key].format if key in program.slots else None
        if format is not None and format.block:
            result[key] = int8.decode(entries[key], result.pop(sizes_of(key)), format)
        elif format is not None and format.rounding == "kahan":
            result[key] = entries[key].float() + result.pop(rest_of(key)).float()
    return result


def _matched(
    name: str, entries: dict[str, Any], p: Tensor, theirs: Any, group: dict[str, Any]
) -> dict[str, Any]:
    """A parameter's state under the names of another optimizer, one for each that it keeps."""
    trial = _trial(theirs, group, p)
    ends = by_end(entries)
    if "step" not in trial:
        ends.pop("step", None)
    same = ends.keys() == trial.keys() and all(len(keys) == 1 for keys in ends.values())
    if not same or any(not _fits(entries[ends[k][0]], trial[k], p) for k in trial):
        kind = type(theirs).__name__
        raise ValueError(
            f"Invalid state: {name} keeps {listed(entries)} for a parameter, and {kind} with "
            f"these options keeps {listed(trial)}"
        )
    return {key: entries[ends[key][0]] for key in trial}


def _small(p: Tensor) -> tuple[int, ...]:
    return tuple(min(n, 2) for n in p.shape)


def _trial(theirs: Any, group: dict[str, Any], p: Tensor) -> dict[str, Any]:
    """What an optimizer keeps for a parameter, seen by a step over a small one."""
    small = torch.nn.Parameter(torch.zeros(_small(p)))
    small.grad = torch.ones_like(small)
    one = type(theirs)([small])
    own = one.param_groups[0]
    own |= {k: v for k, v in group.items() if k not in ("params", "param_names")}
    own |= {k: v for k, v in TO_RUN.items() if k in own}
    one.step()
    return {k: v for k, v in one.state[small].items() if v is not None}


def _fits(value: Any, trial: Any, p: Tensor) -> bool:
    """Whether both have the cells of the parameter, or both are one number."""
    wanted = tuple(local(p).shape) if trial.dim() else ()
    return tuple(local(value).shape) == wanted and trial.shape in ((), _small(p))
