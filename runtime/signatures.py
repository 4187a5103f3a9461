"""The types that kernels are printed for, and those that a step is going to ask for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from ..compiler import cells
from ..compiler.program import Compute, Evaluate, Plan
from .frame import Frame, working_type

CODES = {
    torch.float32: "f32",
    torch.float64: "f64",
    torch.bfloat16: "bf16",
    torch.float16: "f16",
    torch.bool: "bool",
    torch.int8: "i8",
}


def signature(key: Sequence[torch.dtype]) -> tuple[str, ...]:
    """What a kernel is printed for: the type of computing, and those of its columns."""
    return ("f64" if key[0] == torch.float64 else "f32", *(CODES[d] for d in key[1:]))


def foreseen(plan: Plan, frame: Frame) -> list[tuple[Compute, tuple[str, ...]]]:
    """The kernels that a step will ask for, as far as they are known before it runs.

    That is where the parameters have one type, and their gradients have it too.
    """
    types = {t.dtype for t in frame.tensors}
    if len(types) != 1:
        return []
    own, work = types.pop(), working_type(frame.tensors[0])
    known: dict[str, torch.dtype] = {}
    found = []
    for phase in plan.phases:
        if isinstance(phase, Evaluate):
            known |= dict.fromkeys((r.value for r in phase.reads), own)
        if not isinstance(phase, Compute):
            continue
        for output, sure in zip(phase.outputs, _sure(phase), strict=True):
            if sure:
                low = output.low and work == torch.float32
                known[output.value] = torch.bfloat16 if low else work
        if phase.mode == "kernel" and phase.space:
            names, _ = phase.columns()
            key = [_held(n, frame) if n.startswith("slot:") else known.get(n) for n in names]
            there = [dtype for dtype in key if dtype is not None]
            if len(there) == len(key):
                found.append((phase, signature([own, *there])))
    return found


def _sure(phase: Compute) -> list[bool]:
    """Whether the outputs of a phase are in the type of computing, or `low` as they say.

    Torch operations may also give truth values, or products that are left in bfloat16.
    """
    if phase.mode == "kernel":
        return [True] * len(phase.outputs)
    if not isinstance(phase.module, fx.GraphModule):
        return [False] * len(phase.outputs)
    nodes = phase.module.graph.nodes
    rounded = any(n.target in (cells.low, cells.bf16) for n in nodes)
    results: Any = phase.module.graph.output_node().args[0]
    sources = [x.meta.get("node") if isinstance(x, fx.Node) else None for x in results]
    return [not (rounded or s is None or s.type.logical) for s in sources]


def _held(name: str, frame: Frame) -> torch.dtype | None:
    """The type in which a slot is kept."""
    return next((x.dtype for x in frame.kept(name[5:]) if x is not None), None)
