"""Element-wise phases through torch.compile: the `inductor` printer, one call a tensor.

For comparison, and for devices that have no other printer: `c` makes one call a phase. The phase's
graph is compiled over flat tensors with scalars as tensors, so that neither shapes nor the values
of options make a new version of it; a type, a device, or a tensor of one element does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..compiler.program import Compute, Plan
from .computing import tensorwise
from .frame import Frame

CELLS = ("cell", "like", "draw")


class Inductor:
    """The compiled phases of one optimizer."""

    def __init__(self) -> None:
        self.phases: dict[int, tuple[Compute, Callable[..., Any]]] = {}

    def ahead(self, plan: Plan, frame: Frame) -> None:
        """Nothing: torch.compile compiles what it is called with."""

    def run(self, phase: Compute, frame: Frame) -> bool:
        """Run a phase over all tensors of its domain; False where it has to be run otherwise."""
        if frame.functional:
            return False
        known = self.phases.get(id(phase))
        if known is None or known[0] is not phase:
            known = self.phases[id(phase)] = (phase, compiled(phase))
        tensorwise(phase, frame, known[1])
        return True


def compiled(phase: Compute) -> Callable[..., Sequence[Any]]:
    """The phase's function of one tensor's values, compiled."""
    plain = phase.module.forward
    fast = torch.compile(plain, dynamic=True, fullgraph=True)
    flat = [port.how in CELLS for port in phase.inputs]

    def forward(*row: Any) -> Sequence[Any]:
        shaped = next((x for x, cell in zip(row, flat, strict=True) if cell), None)
        if not isinstance(shaped, Tensor) or not shaped.numel():
            return plain(*row)
        given = [
            x.reshape(-1) if cell else _scalar(x, shaped) for x, cell in zip(row, flat, strict=True)
        ]
        results = fast(*given)
        return [
            r if output.combine or not isinstance(r, Tensor) else r.reshape(shaped.shape)
            for r, output in zip(results, phase.outputs, strict=True)
        ]

    return forward


def _scalar(value: Any, like: Tensor) -> Tensor:
    """A number as a tensor: torch.compile makes a new version for some values of plain numbers."""
    if isinstance(value, Tensor):
        return value.to(like.device)
    kind = torch.bool if isinstance(value, bool) else torch.float64
    return torch.tensor(value, dtype=kind, device=like.device)
