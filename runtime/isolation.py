"""What an evaluation borrows and must give back, in one process or in many.

A loop evaluates a loss at points that the parameters do not hold, several times a step. Around each
evaluation `Isolation` keeps four promises: the parameters are as they were to the bit, the same
dropout masks fall, running statistics are written once, and ranks talk only where they are asked
to.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal

import torch
from torch import Tensor

from .points import Params, Points, standing_at
from .ranks import Ranks

Snapshot = list[tuple[Tensor | None, int, Tensor | None]]

SMALL = 1 << 20
"""Buffers up to this size are always copied: batch norm writes without counting versions."""


class Generators:
    """The default generators of the CPU and of the devices that hold the parameters."""

    def __init__(self, params: Params):
        devices = {p.device for ps in params.values() for p in ps}
        self.devices = sorted((d for d in devices if d.type not in ("cpu", "meta")), key=str)

    def state(self) -> list[Tensor]:
        if self.devices and torch.cuda.is_current_stream_capturing():
            return []
        others = [torch.get_device_module(d).get_rng_state(d) for d in self.devices]
        return [torch.get_rng_state(), *others]

    def restore(self, state: list[Tensor]) -> None:
        if not state:
            return
        torch.set_rng_state(state[0])
        for d, s in zip(self.devices, state[1:], strict=True):
            torch.get_device_module(d).set_rng_state(s, d)


class Statistics:
    """The buffers of modules (running statistics), to leave them unchanged."""

    def __init__(self, modules: Iterable[torch.nn.Module]):
        within = dict.fromkeys(m for root in modules for m in root.modules())
        self.places = [(m._buffers, name) for m in within for name in m._buffers]
        self.cache: dict[int, tuple[Tensor, int, Tensor]] = {}

    @torch.no_grad()
    def snapshot(self) -> Snapshot:
        """Copies; of a large buffer only where it was written since the last one."""
        result: Snapshot = []
        for at, (slots, name) in enumerate(self.places):
            buffer = slots[name]
            if buffer is None:
                result.append((None, 0, None))
                continue
            known = self.cache.get(at)
            version = 0 if buffer.is_inference() else buffer._version
            same = known is not None and known[0] is buffer and known[1] == version
            if known is None or not same or buffer.numel() <= SMALL:
                known = self.cache[at] = (buffer, version, buffer.detach().clone())
            result.append(known)
        return result

    @torch.no_grad()
    def restore(self, snapshot: Snapshot) -> None:
        for (slots, name), (buffer, version, copy) in zip(self.places, snapshot, strict=True):
            if slots[name] is not buffer:
                slots[name] = buffer
            if buffer is None or copy is None:
                continue
            if buffer.numel() <= SMALL or buffer._version != version:
                buffer.copy_(copy)


class Isolation:
    """The promises around the evaluations of one step.

    seed   `same`: every evaluation of a step sees the numbers that the first one saw, so dropout
           masks are equal; `fresh`: generators run on.
    stats  `held`: the first evaluation at the held point writes running statistics; `first`: the
           first one wherever it is; `none`: no evaluation does.
    sync   `all`: ranks exchange every gradient; `perturbed`: not those at the held point, so that
           each rank climbs by its own part of the batch (m-sharpness).
    """

    def __init__(
        self,
        params: Params,
        modules: Iterable[torch.nn.Module] = (),
        seed: Literal["same", "fresh"] = "same",
        stats: Literal["held", "first", "none"] = "held",
        sync: Literal["all", "perturbed"] = "all",
        in_place: bool | None = None,
    ):
        for name, value, known in (
            ("seed", seed, ("same", "fresh")),
            ("stats", stats, ("held", "first", "none")),
            ("sync", sync, ("all", "perturbed")),
        ):
            if value not in known:
                raise ValueError(f"Invalid {name}: {value!r}; one of {', '.join(known)}")
        self.params, self.seed, self.stats, self.sync = params, seed, stats, sync
        self.in_place = in_place
        modules = tuple(modules)
        self.generators, self.statistics = Generators(params), Statistics(modules)
        self.ranks = Ranks(modules)
        self.reset()

    def reset(self) -> None:
        """A new step begins."""
        self.start: tuple[list[Tensor], Snapshot] | None = None
        self.mark: tuple[list[Tensor], Snapshot] = ([], [])
        self.wrote = self.writing = self.perturbed = self.skipped_sync = False

    @contextmanager
    def evaluation(self, points: Points, quiet: bool = False) -> Iterator[None]:
        """Parameters at the points, grad on. What was raised leaves all as before the step."""
        held = all(p is None for p in points.values())
        before = self.generators.state(), self.statistics.snapshot()
        again = self.start is not None
        self.start = self.start or before
        self.mark = (self.start[0] if self.seed == "same" else before[0]), before[1]
        writes = not self.wrote and (self.stats == "first" or (self.stats == "held" and held))
        silent = self.alone(held) or quiet
        self.writing = writes
        self.perturbed = self.perturbed or not held
        try:
            if again and self.seed == "same":
                self.generators.restore(self.start[0])
            with self.ranks.quiet() if silent else nullcontext():
                with standing_at(self.params, points, self.in_place):
                    yield
        except BaseException:
            self.rewind()
            raise
        if again and self.seed == "same":
            self.generators.restore(before[0])
        if writes:
            self.wrote = True
        else:
            self.statistics.restore(before[1])

    def standing(self, points: Points) -> AbstractContextManager[None]:
        """The parameters at the points, for what runs no model: a backward pass."""
        return standing_at(self.params, points, self.in_place)

    def versions(self) -> list[int]:
        """How often each parameter and each buffer was written."""
        held = [slots[name] for slots, name in self.statistics.places]
        return [
            0 if x is None or x.is_inference() else x._version for x in (*self.parameters(), *held)
        ]

    def parameters(self) -> list[Tensor]:
        """The parameters of all targets, once each."""
        return list({id(p): p for ps in self.params.values() for p in ps}.values())

    def alone(self, held: bool) -> bool:
        """Whether an evaluation keeps its gradients to this rank."""
        alone = self.sync == "perturbed" and held
        self.skipped_sync = self.skipped_sync or alone
        return alone

    def retry(self) -> None:
        """Within an evaluation: once more from its beginning."""
        self.generators.restore(self.mark[0])
        self.statistics.restore(self.mark[1])

    def rewind(self) -> None:
        """As before the step."""
        if self.start is not None:
            self.generators.restore(self.start[0])
            self.statistics.restore(self.start[1])

    def check(self) -> None:
        """At the end of a step: no rank may have gone its own way."""
        if self.skipped_sync and not self.perturbed:
            raise RuntimeError(
                "sync='perturbed' is for rules that evaluate a gradient at a perturbed point in "
                "every step; this step had only the held point, whose gradient was not exchanged"
            )
