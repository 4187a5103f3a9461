"""One step of an optimizer over the tensors of a layout: what it runs on, and how it ends."""

from __future__ import annotations

from typing import Any

import torch

from ..compiler.program import UNSCALE, Plan
from . import drawing, execute, random
from .capture import capturing, obstacle
from .frame import Frame, took_part
from .layout import Layout
from .loop import Loop
from .state import Slots
from .workers import own_seed


def run_once(
    optimizer: Any, layout: Layout, slots: Slots, kernels: Any, loop: Loop, batch: Any = None
) -> str:
    """The step over the tensors of a layout, all of them or one; the clock of steps stays."""
    if layout.wrapped:
        slots.follow()
    first = optimizer.param_groups[0]
    program, inputs, start = optimizer.program, optimizer._inputs, optimizer.program.start
    scale = optimizer.__dict__.get("grad_scale")
    if scale is not None and program.scaled is not None:
        inputs = {**inputs, UNSCALE: scale.double().reciprocal()}
        _, start = program.scaled()
    host, call = optimizer._host(layout, slots)
    plan = optimizer._plan(host.conditions(), UNSCALE in inputs)
    withheld = optimizer._withholding(plan, layout)
    if (found := optimizer.__dict__.get("found_inf")) is not None:
        if withheld is not None:
            withheld.add(found)
        elif float(found) > 0:
            if not plan.always:
                return "veto"
            loop.found_inf = found
    loop.turn, loop.once = call, plan.evaluates_once
    frame = Frame(
        program,
        layout.locals(),
        layout.members,
        layout.groups,
        slots.columns,
        host.rows(plan.host),
        host.group_rows(plan.host),
        loop,
        batch,
        call,
        own_seed(int(first["seed"]), optimizer.workers),
        [bool(g["maximize"]) for g in optimizer.param_groups],
        kernels=kernels,
        wrapped=layout.wrapped,
        inputs=inputs,
        worker=optimizer.workers,
        shards=layout.shards,
        before=layout.before,
        withheld=withheld,
        names=layout.names,
        draw=random.draw if kernels is None else drawing.draw,
    )
    recording = capturing(frame.device)
    within = optimizer.in_backward and "it runs within backward"
    if recording and (why := obstacle(plan, withheld) or within):
        raise RuntimeError(f"{program.name} cannot be captured: {why}")
    try:
        slots.begin(frame, start, host)
        if kernels is not None:
            kernels.ahead(plan, frame)
        outcome = execute.step(
            plan,
            frame,
            optimizer._snapshots,
            lambda: (slots.clock.clone(), slots.uniform, int(first["steps"])),
        )
    except BaseException:
        slots.forget(frozenset())  # a closure raised, say: the step was not
        raise
    optimizer.metrics = frame.reported
    return _end(optimizer, plan, frame, slots, outcome, recording)


def _end(
    optimizer: Any, plan: Plan, frame: Frame, slots: Slots, outcome: str, recording: bool
) -> str:
    """Settle what the step counts, and what is kept of it for the steps that come."""
    withheld = frame.withheld
    asked = withheld is not None and withheld.asked
    if withheld is not None and asked:
        withheld.send()
    if recording:
        optimizer.captures.note(plan, took_part(frame), asked)
        return "recorded"
    if outcome == "commit":
        took = took_part(frame)
        slots.advance(took)
        optimizer.left_open(took, asked, plan)
        if optimizer._backward is None and not asked:
            optimizer.replays.note(optimizer, plan)
    else:
        slots.forget(plan.always)
    if frame.clocks is not None:
        clock, slots.uniform, steps = frame.clocks
        slots.clock.copy_(clock)
        optimizer._counted(int(optimizer.param_groups[0]["calls"]), steps)
    if frame.written:
        torch.autograd.graph.increment_version(slots.layout.params)
    return outcome
