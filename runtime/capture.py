"""Steps in a CUDA graph: kernels read their scalars where `advance` writes them between replays.

    optimizer.step()                      # builds the tables
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        optimizer.step()                  # recorded, not counted
    for batch in batches:
        fill(batch)                       # gradients keep their place
        optimizer.advance()
        graph.replay()

`run captured` in a schedule does this by itself: `Captures`. No GPU was at hand: the tests
record the launches in Triton's interpreter and replay them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..compiler.program import Call, Compute, Evaluate, Loop, Part, Plan, Rest, every_phase
from .withheld import waited_for


def capturing(device: torch.device) -> bool:
    """Whether what is launched now becomes a part of a graph."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def obstacle(plan: Plan, withheld: Any) -> str:
    """Why a recorded step would not be the next one, or ""."""
    if plan.outcomes and withheld is None:
        return "it may be taken back, which the host decides"
    for phase in every_phase(plan.phases):
        if isinstance(phase, Loop) and any(map(_kernel, every_phase(phase.body))):
            return "a kernel in a loop reads other memory at each turn"
        if isinstance(phase, Evaluate) and (phase.axes or any(phase.points.values())):
            return "it evaluates a loss at another point"
        if isinstance(phase, Call) and phase.op == "random":
            return "its numbers are drawn on the host"
        if isinstance(phase, Compute) and any(p.how in ("host", "draw") for p in phase.inputs):
            if not _kernel(phase) or phase.coded:
                return f"{phase.name} is no kernel and reads a scalar of the host"
        if isinstance(phase, Rest) and any(map(_of_host, phase.parts)):
            return "the host takes part in what it does for a tensor without a gradient"
    return ""


def _of_host(part: Part) -> bool:
    """Whether a part reads a scalar of the host, or the host looks at what it gives."""
    return bool(part.truth) or any(p.how in ("host", "draw") for p in part.phase.inputs)


def _kernel(phase: Any) -> bool:
    return isinstance(phase, Compute) and phase.mode == "kernel" and bool(phase.space)


def record(run: Callable[[], Any]) -> Any:
    """A CUDA graph of what `run` launches."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph


@dataclass
class Recorded:
    """A step in a graph: its plan, the tensors that take part, and whether the device settles it.

    `places` are the addresses of the gradients; the graph itself is there in `run captured`.
    """

    plan: Plan
    took: list[bool] | None
    settled: bool
    places: tuple[int, ...] = ()
    graph: Any = None


class Captures:
    """The recorded steps of one optimizer over one layout.

    In `run captured` there is a graph for each variant of the step. A variant runs plainly at
    first, which builds its kernels, and is recorded when the gradients have kept their places;
    where one has moved it runs plainly, and is recorded again.
    """

    def __init__(self) -> None:
        self.last: Recorded | None = None
        self.variants: dict[int, Recorded] = {}
        self.places: dict[int, tuple[int, ...]] = {}
        self.refused = False

    def note(self, plan: Plan, took: list[bool] | None, settled: bool) -> None:
        """A step was recorded, not run."""
        self.last = Recorded(plan, took, settled)

    def advance(self, optimizer: Any) -> None:
        """Count the step that the user is about to replay."""
        optimizer.settle()
        optimizer._arrange()
        if self.last is None or self is not optimizer.captures:
            raise RuntimeError("no step was captured: record one in torch.cuda.graph first")
        host, call, plan = optimizer.coming()
        if plan is not self.last.plan:
            raise RuntimeError("the step that comes takes another way than the captured one")
        self._advance(optimizer, self.last, host, call)
        optimizer.left_open(self.last.took, self.last.settled)

    def _advance(self, optimizer: Any, step: Recorded, host: Any, call: int) -> None:
        """Write the scalars of a step to where its kernels read them, and count it."""
        rows = host.rows(step.plan.host)
        for phase in every_phase(step.plan.phases):
            prepared = optimizer._kernels.phases.get(id(phase))
            for part in prepared.parts if prepared is not None else ():
                part.scalars(rows)
                part.launch.write(call)
        optimizer.go_on(step.took)
        torch.autograd.graph.increment_version(optimizer._layout.params)

    def step(self, optimizer: Any) -> bool:
        """Replay the step that comes; False where it has to run plainly."""
        layout, slots = optimizer._arrange(), optimizer._slots
        if self.refused or self is not optimizer.captures or slots is None or slots.pending:
            return False
        if not layout.params or not waited_for(layout.device) or not steady(optimizer):
            return False
        host, call, plan = optimizer.coming()
        places = tuple(0 if p.grad is None else p.grad.data_ptr() for p in layout.params)
        if self.places.get(id(plan)) != places:
            self.places[id(plan)] = places
            return False
        known = self.variants.get(id(plan))
        if known is None or known.places != places:
            if self._refuse(optimizer, plan):
                return False
            graph = record(optimizer.record)
            assert self.last is not None
            known = self.variants[id(plan)] = replace(self.last, places=places, graph=graph)
        self._advance(optimizer, known, host, call)
        known.graph.replay()
        optimizer.left_open(known.took, known.settled)
        return True

    def _refuse(self, optimizer: Any, plan: Plan) -> bool:
        """Say once why steps are not captured."""
        withheld = optimizer._withholding(plan, optimizer._layout)
        why = obstacle(plan, withheld)
        self.refused = bool(why)
        if why:
            warnings.warn(f"{optimizer.program.name} is not captured: {why}", stacklevel=4)
        return self.refused


def steady(optimizer: Any) -> bool:
    """Whether a step takes gradients as they lie in `.grad`, and what else it reads keeps its
    place; not within a capture, which has to find all that a step launches."""
    own = optimizer.__dict__
    scaled = own.get("grad_scale") is not None or own.get("found_inf") is not None
    if scaled or optimizer._bound is not None or capturing(optimizer._layout.device):
        return False
    given = optimizer._inputs.values()
    return not given or not any(isinstance(x, torch.Tensor) and x.dim() for x in given)
