"""A step that is one kernel over one gradient is the kernel of the step before, run again.

What a step finds out on its way, by phases, columns and the names between them, is the same as the
last time. Its Python has been swept from the caches by the kernel, so that each function that it
enters costs a microsecond: of AdamW's step over ten million parameters it was a tenth.
"""

from __future__ import annotations

from typing import Any

import torch

from .capture import capturing


class Replay:
    """The kernel of a plan over the tensors of a layout, as a step has left it."""

    def __init__(self, optimizer: Any, plan: Any):
        self.layout, self.slots, self.plan = optimizer._layout, optimizer._slots, plan
        self.prepared = optimizer._kernels.phases[id(plan.whole)]
        members, count = set(self.prepared.members), len(self.layout.params)
        self.took = None if len(members) == count else [i in members for i in range(count)]

    def step(self, optimizer: Any) -> bool:
        """Run the step that comes; False where it is another one and nothing was done."""
        if not self._stands(optimizer):
            return False
        host, call = optimizer.coming()
        if optimizer._plan(host.conditions()) is not self.plan:
            return False
        rows, parts = host.rows(self.plan.host), self.prepared.parts
        if rows.index is not self.prepared.index:
            return False
        for part in parts:
            part.table.refresh()
            if part.table.eager or part.lacks():
                return False
        for part in parts:
            part.scalars(rows)
            part.launch.run(call=call)
            part.table.release()
        self.slots.advance(self.took)
        optimizer._count(True)
        optimizer.metrics, optimizer._added = {}, None
        torch.autograd.graph.increment_version(self.layout.params)
        return True

    def _stands(self, optimizer: Any) -> bool:
        """Whether the tensors, their memory and what the loop offers are as they were."""
        own, slots = optimizer.__dict__, self.slots
        return (
            self.layout is optimizer._arrange()
            and slots is optimizer._slots
            and slots.columns is self.prepared.slots
            and not slots.pending
            and optimizer._bound is None
            and own.get("grad_scale") is None
            and own.get("found_inf") is None
            and not any(group["maximize"] for group in optimizer.param_groups)
            and not capturing(self.prepared.device)
        )


def replay(optimizer: Any, plan: Any) -> Replay | None:
    """The step that was just run, as one to run again; None where there is more to it."""
    layout, kernels = optimizer._layout, optimizer._kernels
    prepared = getattr(kernels, "phases", {}).get(id(plan.whole))
    simple = plan.whole is not None and not optimizer.program.evals and not layout.wrapped
    real = simple and not any(p.is_complex() for p in layout.params)
    ready = real and optimizer.workers is None and hasattr(prepared, "parts")
    return Replay(optimizer, plan) if ready else None
