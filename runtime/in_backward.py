"""The update inside the backward pass: bucket by bucket, so that gradients need not all exist.

A bucket holds tensors that follow each other, one where nothing else is said. A hook runs its step
as soon as its gradients are whole, and frees them; `optimizer.step()` runs what is left, and counts
the step. Whether that is the same step is decided when the rule is compiled:
`Program.not_in_backward` says why not.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from .gradients import Gradients
from .layout import Layout
from .running import run_once
from .state import Slots

TWICE = (
    "{0} got a second gradient before optimizer.step(), and the first one is used up: with "
    "in_backward each backward pass is a step, so gradients are not accumulated"
)
SHARED = (
    "two optimizers update {0} within backward, and the gradient is gone after the first: let go "
    "of the one that is no longer used (`del optimizer`), or give each its own parameters"
)
WATCHING = WeakIdKeyDictionary()
"""The optimizers that watch a parameter."""

MEGABYTE = 2**20


class Bucket:
    """Tensors that have their step together, and what it runs on, made once."""

    def __init__(self, optimizer: Any, layout: Layout):
        self.layout = layout
        self.slots = Slots(optimizer.program, layout, optimizer.state)
        self.kernels = optimizer.made_kernels(layout)
        self.whole = sum(layout.live)
        self.arrived: set[int] = set()
        self.metrics: dict[str, Any] = {}


class InBackward:
    """The hooks of one optimizer, and which tensors had their step since the last `step()`."""

    def __init__(self, optimizer: Any):
        self.optimizer = weakref.ref(optimizer)
        self.watched: dict[int, Any] = {}
        self.done: set[int] = set()
        self.whole: Layout | None = None
        self.buckets: dict[int, Bucket] = {}

    def watch(self, params: Iterable[Tensor]) -> None:
        """Hook the parameters that take a gradient."""
        for p in params:
            if p.requires_grad and id(p) not in self.watched:
                hook = p.register_post_accumulate_grad_hook(self.arrive)
                self.watched[id(p)] = hook
                WATCHING.setdefault(p, []).append(self.optimizer)

    def forget(self) -> None:
        """State was loaded or moved: find it again."""
        self.whole, self.buckets = None, {}

    @torch.no_grad()
    def arrive(self, p: Tensor) -> None:
        """The gradient of a tensor is whole; the last one of a bucket runs its step."""
        optimizer = self.optimizer()
        if optimizer is None:
            return
        if not self.done or self.whole is None:
            self._arrange(optimizer)
        bucket = self.buckets[id(p)]
        twice = id(p) in self.done
        if twice or len({id(o) for one in WATCHING.get(p, ()) if (o := one()) is not None}) > 1:
            p.grad = None
            at = next(k for k, q in enumerate(bucket.layout.params) if q is p)
            raise RuntimeError(
                (TWICE if twice else SHARED).format(bucket.layout.names[at] or "a parameter")
            )
        self.done.add(id(p))
        bucket.arrived.add(id(p))
        if len(bucket.arrived) == bucket.whole:
            self._update(optimizer, bucket)

    def _update(self, optimizer: Any, bucket: Bucket) -> None:
        """The step of a bucket; its gradients are gone afterwards."""
        bucket.arrived.clear()
        loop = Gradients(bucket.layout.targets())
        run_once(optimizer, bucket.layout, bucket.slots, bucket.kernels, loop)
        bucket.metrics = optimizer.metrics
        for p in bucket.layout.params:
            p.grad = None

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None) -> Any:
        """Finish the step; returns the loss of the closure, which runs the backward pass."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        optimizer: Any = self.optimizer()
        params = [p for group in optimizer.param_groups for p in group["params"]]
        waiting = {p for bucket in self.buckets.values() for p in bucket.arrived}
        for p in params:  # gradients that were set by hand, or before the hook was there
            if p.grad is not None and id(p) not in waiting:
                self.arrive(p)
        if not self.done:
            self._arrange(optimizer)
        for bucket in dict.fromkeys(self.buckets.values()):
            done = any(id(p) in self.done for p in bucket.layout.params)
            if bucket.arrived or bucket.whole and not done:  # tensors without a gradient
                self._update(optimizer, bucket)
        optimizer.metrics = self._metrics(optimizer)
        self.watch(params)
        self.done.clear()
        return loss

    def _metrics(self, optimizer: Any) -> dict[str, Any]:
        """What the step reports: of values of tensors, those of all buckets in their order."""
        found: dict[str, Any] = {}
        reported: dict[str, Any] = next((plan.reported for plan in optimizer._plans.values()), {})
        for bucket in reversed(list(dict.fromkeys(self.buckets.values()))):
            for name, value in bucket.metrics.items():
                fine = isinstance(value, list) and reported[name][0] != "group"
                found[name] = [*found.get(name, []), *value] if fine else value
        return found

    def _arrange(self, optimizer: Any) -> None:
        whole = optimizer._arrange()
        if whole is self.whole:
            return
        self.whole, self.buckets = whole, {}
        for at in cut(whole, optimizer.program.bucket_mb * MEGABYTE):
            bucket = Bucket(optimizer, whole.part(at))
            self.buckets |= {id(p): bucket for p in bucket.layout.params}


def cut(layout: Layout, full: float) -> list[range]:
    """The tensors in buckets, from the last one on, as a backward pass comes to them.

    A bucket is full when its gradients have so many bytes.
    """
    found, size = [], 0
    end = start = len(layout.params)
    while start:
        start -= 1
        p = layout.params[start]
        size += p.numel() * p.element_size() if layout.live[start] else 0
        if size >= full or not start:
            found.append(range(start, end))
            end, size = start, 0
    return found
