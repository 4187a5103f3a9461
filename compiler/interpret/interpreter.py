"""Steps of a rule, of one worker or of several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..bounds import whole
from ..ir import Node
from ..workers import Meeting, Seat
from .operations import compute
from .state import Cells, State
from .values import Values


class Interpreter(State):
    """One run of a rule: the slots between steps and the step itself."""

    def step(self, batch: Any = None) -> dict[str, Any]:
        """Run the rule once. Returns the metrics."""
        values = Values(self, batch, compute)
        graph = self.graph
        if graph.workers:
            values.meet([slot.init for s, slot in graph.slots.items() if s not in self.slots])
            values.meet(graph.roots())
        outcome = self._outcome(values)
        for ending in graph.outcomes:
            if ending.kind == "snapshot" and bool(values.value(ending.when)):
                held = {s: values.initial(s) for s in graph.slots if s not in self.slots}
                self.snapshots.append(({**self.slots, **held}, list(self.t), self.steps))
        writes = {
            s: values.value(n)
            for s, n in graph.writes.items()
            if outcome == "commit" or s in graph.always
        }
        self.metrics = {k: self._metric(n, values.value(n)) for k, n in graph.metrics.items()}
        for slot in graph.slots:
            if outcome == "commit" or slot in graph.always:
                self.slots[slot] = values.held(slot)
        took = self._took_part(values) if outcome == "commit" else [False] * len(self.names)
        if outcome.startswith("restore"):
            self._restore(int(outcome.split()[1]))
        for slot, value in writes.items():
            old = self.slots[slot]
            self.slots[slot] = (
                # stored without strides of its own, so that a library takes the same path again
                [o if v is None else v.contiguous() for v, o in zip(value, old, strict=True)]
                if isinstance(value, list)
                else value
            )
        if outcome == "commit":
            self.evals = {k: values.value(n) for k, n in graph.evals.items()}
            self.t = [t + on for t, on in zip(self.t, took, strict=True)]
            self.steps += 1
        self.call += 1
        return self.metrics

    def _metric(self, node: Node, value: Cells) -> Cells:
        """What a step reports: of a value that each group has, a number if there is one group."""
        value = value[0] if node.type.reach == "group" and len(self.options) == 1 else value
        plain = isinstance(value, int | float)  # the size of an axis
        return torch.tensor(float(value), dtype=torch.float64) if plain else value

    def _outcome(self, values: Values) -> str:
        for ending in self.graph.outcomes:
            if ending.kind == "snapshot":
                continue
            if bool(_any(values.value(ending.when))):
                if ending.kind == "veto" or ending.count is None:
                    return "veto"
                back = float(values.value(ending.count))
                return f"restore {whole(back, 'number of snapshots')}"
        return "commit"

    def _restore(self, back: int) -> None:
        if self.snapshots:
            slots, t, steps = self.snapshots[max(0, len(self.snapshots) - back)]
            self.slots, self.t, self.steps = dict(slots), list(t), steps

    def _took_part(self, values: Values) -> list[bool]:
        """Which tensors this step wrote."""
        took = [False] * len(self.names)
        for slot, node in self.graph.writes.items():
            if self.graph.slots[slot].kind == "target":
                members = self.members[node.type.domain]
                for i, value in zip(members, values.value(node), strict=True):
                    took[i] = took[i] or value is not None
        return took


def _any(flag: Cells) -> bool:
    """Whether a condition holds, anywhere if it is one of groups or tensors."""
    if isinstance(flag, list):
        flag = torch.stack([torch.as_tensor(x) for x in flag]).any()
    return bool(flag)


def together(runs: Sequence[Interpreter], batches: Sequence[Any] = ()) -> list[dict[str, Any]]:
    """One step of all workers of a rule `over workers`. Returns the metrics of each."""

    def step(seat: Seat) -> dict[str, Any]:
        run = runs[seat.rank]
        run.worker, run.coins = seat, runs[0].draw
        return run.step(batches[seat.rank] if batches else None)

    return Meeting(len(runs)).run(step)
