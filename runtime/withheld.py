"""Writes that the device withholds: a veto that the host does not wait for.

A kernel reads a flag before it writes, and writes nothing where it is set; torch operations choose
by it. The host counts the step, and takes the count back when it reads the flag, which is before
the next step or the next look at the optimizer's state. By then a loop has queued a whole forward
and backward pass behind the flag, so the device is not idle while the host learns of it.
"""

from __future__ import annotations

from typing import Any

import torch

from ..compiler.program import Plan
from .tensors import pinned


class Withheld:
    """The flag of one optimizer; its memory keeps its place, so that a CUDA graph can hold it."""

    def __init__(self, device: torch.device):
        self.flag = torch.zeros(1, dtype=torch.int32, device=device)
        self.here = pinned(torch.zeros(1, dtype=torch.int32, device="cpu"), device)
        self.event = torch.cuda.Event() if device.type == "cuda" else None
        self.asked = False

    def add(self, condition: Any) -> None:
        """Withhold the writes of this step where a condition holds, of the model or of groups."""
        for value in condition if isinstance(condition, list) else [condition]:
            flag = torch.as_tensor(value, device=self.flag.device).ne(0).reshape(1)
            self.flag.copy_(flag if not self.asked else flag.logical_or(self.flag))
            self.asked = True

    def send(self) -> None:
        """Let the flag follow to the host."""
        self.here.copy_(self.flag, non_blocking=True)

    def mark(self) -> None:
        """From here on the flag of the step is on its way."""
        if self.event is not None:
            self.event.record()

    def read(self, replayed: bool) -> bool:
        """Whether the step was taken back; waits for the flag, or for a graph replayed by now."""
        if replayed:
            self.mark()
        if self.event is not None:
            self.event.synchronize()
        return bool(self.here)


def decides(plan: Plan, device: torch.device) -> bool:
    """Whether the device can settle a step alone: it has no place to go back to but the last."""
    vetoes = all(kind == "veto" for kind, _, _ in plan.outcomes)
    return waited_for(device) and vetoes and not plan.late


def waited_for(device: torch.device) -> bool:
    """Whether who reads a number of a device has to wait for it."""
    return device.type == "cuda"
