"""Steps in a CUDA graph: kernels read their scalars where `advance` writes them between replays.

    optimizer.step()                      # builds the tables
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        optimizer.step()                  # recorded, not counted
    for batch in batches:
        fill(batch)                       # gradients keep their place
        optimizer.advance()
        graph.replay()

No GPU was at hand: the tests record the launches in Triton's interpreter and replay them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from ..compiler.program import Call, Compute, Evaluate, Loop, Plan


def capturing(device: torch.device) -> bool:
    """Whether what is launched now becomes a part of a graph."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def obstacle(plan: Plan, withheld: Any) -> str:
    """Why a recorded step would not be the next one, or ""."""
    if plan.outcomes and withheld is None:
        return "it may be taken back, which the host decides"
    for phase in _all(plan.phases):
        if isinstance(phase, Loop) and any(map(_kernel, _all(phase.body))):
            return "a kernel in a loop reads other memory at each turn"
        if isinstance(phase, Evaluate) and (phase.axes or any(phase.points.values())):
            return "it evaluates a loss at another point"
        if isinstance(phase, Call) and phase.op == "random":
            return "its numbers are drawn on the host"
        if isinstance(phase, Compute) and any(p.how in ("host", "draw") for p in phase.inputs):
            if not _kernel(phase) or phase.coded:
                return f"{phase.name} is no kernel and reads a scalar of the host"
    return ""


def _kernel(phase: Any) -> bool:
    return isinstance(phase, Compute) and phase.mode == "kernel" and bool(phase.space)


def _all(phases: list[Any]) -> Iterator[Any]:
    for phase in phases:
        yield phase
        if isinstance(phase, Loop):
            yield from _all(phase.body)


def write(kernels: Any, rows: Any, call: int) -> None:
    """The scalars of a step to where the recorded kernels read them."""
    for prepared in kernels.phases.values():
        for part in prepared.parts:
            part.scalars(rows)
            part.launch.write(call)
