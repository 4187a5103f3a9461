"""The point of evaluation (an average of the weights, say), swapped into the parameters."""

from __future__ import annotations

from typing import Any

import torch

from .state import to_local


@torch.no_grad()
def swap(optimizer: Any, to_eval: bool) -> None:
    """Put the point of evaluation into the parameters and keep the held one, or put that back."""
    layout, program = optimizer._arrange(), optimizer.program
    for slot in program.evals.values():
        for i in layout.members[program.slots[slot].domain]:
            p = layout.params[i]
            state = optimizer.state[p]
            if to_eval and "held" not in state and slot in state:
                state["held"] = p.detach().clone()
                to_local(p).copy_(state[slot].to(p.dtype))
            elif not to_eval and "held" in state:
                p.copy_(state.pop("held"))


def refuse_swapped(optimizer: Any) -> None:
    """A step from the point of evaluation would be lost by `train()`."""
    if optimizer.program.evals and any("held" in state for state in optimizer.state.values()):
        raise RuntimeError(
            "the parameters are at the point of evaluation: call optimizer.train() first"
        )
