"""The update inside the backward pass: tensor by tensor, so that gradients need not all exist.

A hook runs the step of one tensor as soon as its gradient is whole, and frees the gradient;
`optimizer.step()` then only counts the step. Whether that is the same step is decided when the rule
is compiled: `Program.not_in_backward` says why not.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from .gradients import Gradients
from .layout import Layout
from .state import Slots

TWICE = (
    "{0} got a second gradient before optimizer.step(), and the first one is used up: with "
    "in_backward each backward pass is a step, so gradients are not accumulated"
)


class Part:
    """What the step of one tensor runs on, made once."""

    def __init__(self, optimizer: Any, layout: Layout):
        self.layout = layout
        self.slots = Slots(optimizer.program, layout, optimizer.state)
        self.kernels = optimizer.made_kernels(layout)


class InBackward:
    """The hooks of one optimizer, and which tensors had their step since the last `step()`."""

    def __init__(self, optimizer: Any):
        self.optimizer = weakref.ref(optimizer)
        self.watched: dict[int, Any] = {}
        self.done: set[int] = set()
        self.whole: Layout | None = None
        self.parts: dict[int, Part] = {}

    def watch(self, params: Iterable[Tensor]) -> None:
        """Hook the parameters that take a gradient."""
        for p in params:
            if p.requires_grad and id(p) not in self.watched:
                hook = p.register_post_accumulate_grad_hook(self.update)
                self.watched[id(p)] = hook

    def forget(self) -> None:
        """State was loaded or moved: find it again."""
        self.whole, self.parts = None, {}

    @torch.no_grad()
    def update(self, p: Tensor) -> None:
        """The step of one tensor; its gradient is gone afterwards."""
        optimizer = self.optimizer()
        if optimizer is None:
            return
        if not self.done or self.whole is None:
            self._arrange(optimizer)
        part = self.parts.get(id(p)) or self._part(optimizer, p)
        if id(p) in self.done:
            p.grad = None
            raise RuntimeError(TWICE.format(part.layout.names[0] or "a parameter"))
        self.done.add(id(p))
        loop = Gradients(part.layout.targets())
        optimizer.run_once(part.layout, part.slots, part.kernels, loop)
        p.grad = None

    def step(self, closure: Callable[[], Any] | None) -> Any:
        """Count the step; returns the loss of the closure, which runs the backward pass."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        optimizer: Any = self.optimizer()
        params = [p for group in optimizer.param_groups for p in group["params"]]
        for p in params:  # gradients that were set by hand, or before the hook was there
            if p.grad is not None:
                self.update(p)
        self.watch(params)
        self.done.clear()
        return loss

    def _arrange(self, optimizer: Any) -> None:
        whole = optimizer._arrange()
        if whole is not self.whole:
            self.whole, self.parts = whole, {}

    def _part(self, optimizer: Any, p: Tensor) -> Part:
        assert self.whole is not None
        at = next(i for i, q in enumerate(self.whole.params) if q is p)
        self.parts[id(p)] = Part(optimizer, self.whole.alone(at))
        return self.parts[id(p)]
