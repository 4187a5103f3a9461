"""Runs the phases of a plan over the tensors at hand, and settles the step."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..compiler import cells
from ..compiler.bounds import whole
from ..compiler.program import Call, Compute, Evaluate, Loop, Plan, Rest, Route
from .asking import call, evaluate, places_of
from .computing import compute, rest
from .frame import Frame, mark_took, stored, truth, write


def run(plan: Plan, frame: Frame) -> None:
    """Run all phases of a step. Writes that may happen at once are made, the others wait."""
    for phase in plan.phases:
        _RUN[type(phase)](phase, frame)


def step(plan: Plan, frame: Frame, snapshots: deque[Any], clocks: Any = tuple) -> str:
    """Run a step and settle it: `commit`, `veto` or `restore`.

    Where the device withholds the writes of a veto, it is `commit` until the host learns of it.
    What `clocks()` gives is kept with a snapshot; where one is restored, `frame.clocks` are its.
    """
    outcome = ""
    last = plan.last_asked
    for at, phase in enumerate(plan.phases):
        if at == last + 1 and overflowed(frame):
            outcome = "veto"
        writes = phase.in_place if isinstance(phase, Compute | Rest) else set()
        if writes - plan.always:
            if plan.outcomes and not outcome:
                outcome = _settled(plan, frame, snapshots, clocks)
            if outcome not in ("", "commit"):
                if plan.late:
                    frame.kernels = None
                    _RUN[type(phase)](_dry(phase, plan.always), frame)
                continue
            frame.withhold(True)
        elif at in plan.idle and outcome not in ("", "commit") and not plan.late:
            continue  # it reads what was left out
        if at == last:
            frame.loop.last = isinstance(phase, Evaluate) and not phase.axes
        frame.spent = plan.last_read[at] if isinstance(phase, Compute) else ()
        _RUN[type(phase)](phase, frame)
        frame.withhold(False)
        for name in plan.last_read[at]:
            frame.values.pop(name, None)
    if not outcome and last + 1 == len(plan.phases) and overflowed(frame):
        outcome = "veto"
    outcome = outcome or _settled(plan, frame, snapshots, clocks)
    frame.reported = _metrics(plan, frame)
    columns = [s for s in plan.deferred if outcome == "commit" or s in plan.always]
    values = {s: frame.get(plan.deferred[s]) for s in columns}
    values |= {s: _copy(v) for s, v in values.items() if s in plan.lent}
    if outcome.startswith("restore") and snapshots:
        saved, frame.clocks, of = snapshots[max(0, len(snapshots) - int(outcome.split()[1]))]
        if of != _places(frame):
            raise RuntimeError(
                f"{frame.program.name} cannot go back: its snapshot was taken of other tensors, "
                "before some were added, frozen or unfrozen"
            )
        for slot, value in saved.items():
            if slot not in plan.always or slot in plan.deferred:  # what is always written stays
                _restore(frame, slot, _copy(value))
    if outcome == "commit":
        _note_took(frame, values)
    for slot in values:
        frame.withhold(slot not in plan.always)
        _assign(frame, slot, values[slot])
    frame.withhold(False)
    frame.written = frame.written or bool(values)
    return outcome


def _dry(phase: Any, always: frozenset[str]) -> Any:
    """A phase that writes nothing but what is always written: it runs for what it gives."""
    if isinstance(phase, Rest):
        parts = [replace(p, phase=_dry(p.phase, always)) for p in phase.parts]
        return replace(phase, parts=parts)
    outputs = [o if o.slot in always else replace(o, slot="") for o in phase.outputs]
    return replace(phase, outputs=outputs, in_place=phase.in_place & always)


def _metrics(plan: Plan, frame: Frame) -> dict[str, Any]:
    """What the step reports: one value of the model, or a list with one a group, or one a tensor;
    where there is one group, its value.
    """
    found = {}
    for name, source in plan.metrics.items():
        reach, logical = plan.reported[name]
        value = _copy(frame.get(source))
        if reach != "model":  # a kernel's sums of tensors lie in one column
            value = list(value)
            value = [x if x is None or not logical else cells.truth(x) for x in value]
        alone = reach == "group" and len(value) == 1
        found[name] = value[0] if alone else value
    return found


def overflowed(frame: Frame) -> bool:
    """Whether a GradScaler's scale was too large for a gradient of this step: it is skipped."""
    found = getattr(frame.loop, "found_inf", None)
    return found is not None and _holds(found, frame)


def _holds(condition: Any, frame: Frame) -> bool:
    """Whether a condition takes the step back; the device may keep the answer to itself."""
    if frame.withheld is None:
        return truth(condition)
    frame.withheld.add(condition)
    return False


def _note_took(frame: Frame, values: dict[str, Any]) -> None:
    """Which tensors the step wrote: their clocks go on."""
    for slot, value in values.items():
        spec = frame.spec(slot)
        if spec.kind == "target" and isinstance(value, list):
            mark_took(
                frame,
                slot.partition("@")[2] or spec.domain,
                [k for k, v in enumerate(value) if v is None],
            )


def _settled(plan: Plan, frame: Frame, snapshots: deque[Any], clocks: Any) -> str:
    """What becomes of the step; a snapshot holds the slots as they are before its writes."""
    for kind, when, _ in plan.outcomes:
        if kind == "snapshot" and snapshots.maxlen != 0 and truth(frame.get(when)):
            held = {s: _copy(v) for s, v in frame.slots.items() if "@" not in s}
            snapshots.append((held, clocks(), _places(frame)))
    return settle(plan, frame)


def _places(frame: Frame) -> dict[str, tuple[int, ...]]:
    """The tensors that each domain holds."""
    return {domain: tuple(places) for domain, places in frame.members.items()}


def settle(plan: Plan, frame: Frame) -> str:
    """The first condition that holds decides."""
    for kind, when, count in plan.outcomes:
        if kind != "snapshot" and _holds(frame.get(when), frame):
            if kind == "veto":
                return "veto"
            back = float(frame.get(count))
            return f"restore {whole(back, 'number of snapshots')}"
    return "commit"


def _copy(value: Any) -> Any:
    if isinstance(value, list):
        return [_copy(v) for v in value]
    return value.clone() if isinstance(value, Tensor) else value


def _assign(frame: Frame, slot: str, value: Any) -> None:
    """Write a slot that had to wait: in place, or as a new value in a functional step."""
    if isinstance(value, list) and not frame.functional:
        frame.keep(slot, value)
    else:
        _restore(frame, slot, value)


def _restore(frame: Frame, slot: str, value: Any) -> None:
    """Put back what a slot kept, in the form in which it is kept."""
    old = frame.kept(slot)
    if frame.functional:
        if isinstance(old, list):
            value = [o if v is None else stored(v, o) for v, o in zip(value, old, strict=True)]
        frame.replace(slot, value)
    elif isinstance(old, list):
        write(old, value, frame.held)
    else:
        old.copy_(value if frame.held is None else torch.where(frame.held[0] != 0, old, value))


def _route(phase: Route, frame: Frame) -> None:
    at = {i: k for k, i in enumerate(frame.members[phase.source])}
    whole = list(frame.get(phase.inputs[0]))
    if phase.op == "restrict":
        frame.values[phase.output] = [whole[at[i]] for i in frame.members[phase.domains[0]]]
        return
    for domain, name in zip(phase.domains, phase.inputs[1:], strict=True):
        for i, value in zip(frame.members[domain], frame.get(name), strict=True):
            whole[at[i]] = value
    like = [frame.tensors[i] for i in at]
    frame.values[phase.output] = _alike(whole, like, phase.axes, frame) if phase.axes else whole


def _alike(whole: list[Any], tensors: list[Tensor], axes: Any, frame: Frame) -> list[Any]:
    """Cells with the axes that those of a part brought; what has none is the same at each place.

    A part without tensors brought none.
    """
    pairs = list(zip(whole, tensors, strict=True))
    lead = next((x.shape[: x.dim() - t.dim()] for x, t in pairs if _more(x, t)), None)
    if lead is None:
        lead = torch.Size(places_of(frame, axes, tensors[0])) if tensors else ()
    return [
        x.expand(*lead, *x.shape) if isinstance(x, Tensor) and not _more(x, t) else x
        for x, t in pairs
    ]


def _more(x: Any, tensor: Tensor) -> bool:
    return isinstance(x, Tensor) and x.dim() > tensor.dim()


def _loop(phase: Loop, frame: Frame) -> None:
    carried = [frame.get(a) for a, _ in phase.carried]
    count = frame.size(phase.count)
    # a kernel writes into the memory of its last result, which the turn before may still hold
    made = [o.value for p in phase.body if isinstance(p, Compute) for o in p.outputs]
    frame.depth += 1
    for turn in range(count):
        for name in made:
            frame.values.pop(name, None)
        frame.values.update(zip((p for _, p in phase.carried), carried, strict=True))
        frame.values[phase.index] = torch.tensor(float(turn), dtype=torch.float64)
        for inner in phase.body:
            _RUN[type(inner)](inner, frame)
        done = frame.get(phase.until) if phase.until else None
        if done is not None and everywhere(done):
            break
        new = [frame.get(o) for o in phase.outputs]
        if done is not None and (isinstance(done, list) or done.dim()):
            new = [
                _freeze(done, f, old, n)
                for f, old, n in zip(phase.freeze, carried, new, strict=True)
            ]
        carried = new
    frame.depth -= 1
    for name, value in zip(phase.results, carried, strict=True):
        if name:
            frame.values[name] = value


def everywhere(c: Any) -> bool:
    return all(bool(x.all()) for x in c if x is not None) if isinstance(c, list) else bool(c.all())


def _freeze(done: Any, how: Any, old: Any, new: Any) -> Any:
    """Cells whose condition is reached keep their value."""
    places, axes, fine = how
    if not isinstance(new, list):
        return torch.where(cells.arrange(cells.truth(done), places, axes, None, fine), old, new)
    result = []
    for k, (o, n) in enumerate(zip(old, new, strict=True)):
        own = done[k] if isinstance(done, list) else done
        if n is None or own is None:
            result.append(n)
            continue
        trailing = n[(0,) * len(places)] if places else n
        c = cells.truth(own)  # a kernel says it in numbers
        result.append(torch.where(cells.arrange(c, places, axes, trailing, fine), o, n))
    return result


_RUN: dict[type, Callable[[Any, Frame], None]] = {
    Compute: compute,
    Rest: rest,
    Evaluate: evaluate,
    Call: call,
    Route: _route,
    Loop: _loop,
}
