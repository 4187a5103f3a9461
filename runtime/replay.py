"""A step that is one kernel over one gradient is the kernel of the step before, run again.

What a step finds out on its way, by phases, columns and the names between them, is the same as the
last time. Its Python has been swept from the caches by the kernel, so that each function that it
enters costs a microsecond: of AdamW's step over ten million parameters it was a tenth.
"""

from __future__ import annotations

from typing import Any

import torch

from .capture import steady
from .kernels import Prepared


class Replays:
    """The kernels of one optimizer over one layout that are whole steps, by their plans."""

    def __init__(self) -> None:
        self.known: dict[int, tuple[Any, Prepared]] = {}

    def note(self, optimizer: Any, plan: Any) -> None:
        """A step of a plan was run the long way: its kernel may be all of the next one."""
        layout = optimizer._layout
        more = optimizer.program.evals or layout.wrapped or optimizer.workers is not None
        if plan.whole is None or more:
            return
        prepared = getattr(optimizer._kernels, "phases", {}).get(id(plan.whole))
        if isinstance(prepared, Prepared) and not any(p.is_complex() for p in layout.params):
            self.known[id(plan)] = plan, prepared

    def step(self, optimizer: Any) -> bool:
        """Run the step that comes; False where it is another one and nothing was done."""
        layout, slots = optimizer._arrange(), optimizer._slots
        if self is not optimizer.replays or not self.known or not steady(optimizer):
            return False
        for group in optimizer.param_groups:
            if group["maximize"]:
                return False
        host, call, plan = optimizer.coming()
        _, prepared = self.known.get(id(plan), (None, None))
        if prepared is None or prepared.slots is not slots.columns or slots.pending:
            return False
        rows = host.rows(plan.host)
        if rows.index is not prepared.index:
            return False
        gone: set[int] = set()  # the kernel passes over tensors without a gradient
        for part in prepared.parts:
            part.table.refresh()
            if part.table.whole:
                continue
            if part.table.eager:
                return False
            gone.update(part.absent())
        # while the tensors are at hand: the kernel sweeps them from the caches
        torch.autograd.graph.increment_version(layout.params)
        for part in prepared.parts:
            part.scalars(rows)
            part.launch.run(call=call)
            part.table.release()
        optimizer.go_on(_took(prepared.members, gone, len(layout.params)))
        optimizer.metrics, optimizer._added = {}, None
        return True


def _took(places: list[int], gone: set[int], count: int) -> list[bool] | None:
    """Which tensors were written, all at `places` but for those that were gone; None for all."""
    if not gone and len(places) == count:
        return None
    written = {i for k, i in enumerate(places) if k not in gone}
    return [i in written for i in range(count)]
