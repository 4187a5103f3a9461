"""Matrix phases take the tensors of one shape together: stacked, the phase mapped over the stack.

A small matrix costs its calls, not its arithmetic: a stack of hundreds takes as many as one does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..compiler.program import Compute
from .frame import Frame, number, working

STACKED = ("cell", "tensor", "slice", "draw")
"""The inputs that each tensor of a stack has its own of; the others are one for all."""

LARGEST = {"cpu": 1 << 18}
"""Up to how many elements a tensor is stacked. On two threads of a CPU five steps of Newton-Schulz
in bfloat16 take, against the tensors one by one, 0.3 (128 x 128), 0.8 (256 x 256, 216 x 872) and
1.0 (256 x 1024) of the time; on one thread 0.45, 0.95, 0.95 and 1.0. Elsewhere launches count for
longer: not measured."""
LARGEST_ELSEWHERE = 1 << 22
STACK = {"cpu": 1 << 20}
"""From how many elements on a stack is full: larger ones take more memory, and no less time."""
STACK_ELSEWHERE = 1 << 26


def batches(phase: Compute, frame: Frame, places: Sequence[int]) -> list[list[int]]:
    """Which places of the phase's domain run together: equal in shape, type, device and scalars."""
    own = any(p.how in STACKED for p in phase.inputs)
    if not phase.batched or not own or len(places) < 2:
        return [[k] for k in places]
    hosts = [int(p.source) for p in phase.inputs if p.how == "host"]
    grouped = any(p.how == "group" for p in phase.inputs)
    members = frame.members[phase.space]
    alike: dict[Any, list[int]] = {}
    result = []
    for k in places:
        i = members[k]
        t = frame.tensors[i]
        count = t.numel()
        if not 0 < count <= LARGEST.get(t.device.type, LARGEST_ELSEWHERE):
            result.append([k])
            continue
        scalars = tuple(frame.rows[i][at] for at in hosts) if hosts else ()
        key = (t.shape, t.dtype, t.device, scalars, frame.groups[i] if grouped else 0)
        batch = alike.get(key)
        if batch is None or len(batch) * count >= STACK.get(t.device.type, STACK_ELSEWHERE):
            batch = alike[key] = []
            result.append(batch)
        batch.append(k)
    return result


def together(
    phase: Compute, forward: Callable[..., Sequence[Any]], given: Sequence[Any], count: int
) -> list[Sequence[Any]]:
    """What the phase gives for each of some tensors: for each output, a value per tensor.

    What each tensor has of its own is `given` as a list.
    """
    ports = phase.inputs
    own = [p.how in STACKED for p in ports]
    if count == 1 or not any(own):
        row = [x[0] if each else x for x, each in zip(given, own, strict=True)]
        return [(x,) * count for x in forward(*map(ready, ports, row))]
    stack = [torch.stack(x) if each else x for x, each in zip(given, own, strict=True)]
    known: dict[int, Sequence[Any]] = {}  # a number, or an input as it came

    def mapped(*values: Any) -> tuple[Tensor, ...]:
        outcome = forward(*values)
        for at, x in enumerate(outcome):
            came = next((j for j, v in enumerate(values) if v is x and own[j]), -1)
            if came >= 0:
                known[at] = given[came]
            elif not isinstance(x, Tensor):
                known[at] = [x] * count
        return tuple(x for at, x in enumerate(outcome) if at not in known)

    dims = tuple(0 if each else None for each in own)
    whole = iter(torch.func.vmap(mapped, in_dims=dims)(*map(ready, ports, stack)))
    return [known[at] if at in known else next(whole).unbind() for at in range(len(phase.outputs))]


def ready(port: Any, value: Any) -> Any:
    """An input as the phase's graph takes it."""
    if port.how == "host":
        return number(value)
    return working(value) if port.how in ("cell", "like") and not port.low else value
