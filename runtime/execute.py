"""Runs the phases of a plan over the tensors at hand.

A value between phases is a list with one tensor per parameter of its domain (None where absent), a
list with one number per group, or one tensor of the model. Arithmetic is in the parameter's type,
in float32 for bfloat16 and float16; what is coarser than a tensor is float64.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..compiler import cells
from ..compiler.program import Call, Compute, Evaluate, Loop, Plan, Program, Route
from .random import draw
from .tensors import local, real

FINE = ("element", "row", "column")
LOW = (torch.bfloat16, torch.float16)


@dataclass
class Frame:
    """What one step runs on. `values` holds the values between phases by name."""

    program: Program
    tensors: list[Tensor]
    members: dict[str, list[int]]
    groups: list[int]
    slots: dict[str, Any]
    rows: Any
    group_rows: list[tuple[Any, ...]]
    loop: Any
    batch: Any
    call: int
    seed: int
    maximize: Sequence[bool] = ()
    functional: bool = False
    kernels: Any = None
    values: dict[str, Any] = field(default_factory=dict)
    wrapped: bool = False
    inputs: dict[str, Any] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    depth: int = 0
    touched: dict[str, list[int]] = field(default_factory=dict)
    written: bool = False

    def get(self, name: str) -> Any:
        """A value by its name."""
        if name.startswith("slot:"):
            return self.column(name[5:])
        if name.startswith("input:"):
            return self.given(name[6:])
        if name.startswith("host:"):
            return self.scalar(name[5:])
        return self.values[name]

    def given(self, name: str) -> Any:
        """An array that the loop supplies."""
        if name not in self.inputs:
            raise RuntimeError(f"the rule reads `{name}`: give it by optimizer.supply({name}=...)")
        return self.inputs[name]

    def scalar(self, name: str) -> Any:
        """A scalar of the host as a value: of the model, of each group, or of each tensor."""
        place, _, domain = name.partition("@")
        at = int(place.rstrip("#"))
        if domain:
            return [_double(self.rows[i][at]) for i in self.members[domain]]
        values = [_double(row[at]) for row in self.group_rows]
        return values if place.endswith("#") else values[0]

    def column(self, slot: str) -> Any:
        """What a slot holds; of `PATH@DOMAIN` the tensors of that domain."""
        if slot not in self.slots:
            base, _, domain = slot.partition("@")
            whole, places = self.slots[base], self.members[self.program.slots[base].domain]
            at = {i: k for k, i in enumerate(places)}
            self.slots[slot] = [whole[at[i]] for i in self.members[domain]]
        return self.slots[slot]

    def spec(self, slot: str) -> Any:
        return self.program.slots[slot.partition("@")[0]]

    def replace(self, slot: str, column: Any) -> None:
        """Give a slot new tensors, in a functional step; a routed part also within the whole."""
        self.slots[slot] = column
        base, _, domain = slot.partition("@")
        if domain:
            whole = list(self.slots[base])
            at = {i: k for k, i in enumerate(self.members[self.program.slots[base].domain])}
            for i, value in zip(self.members[domain], column, strict=True):
                whole[at[i]] = value
            self.slots[base] = whole

    def size(self, spec: Any) -> int:
        """The number of places of an axis."""
        return int(self.group_rows[0][spec[1]]) if isinstance(spec, tuple) else int(spec)


def working(x: Tensor) -> Tensor:
    """A tensor in the type in which it is computed with."""
    return x.float() if x.dtype in LOW else x


def run(plan: Plan, frame: Frame) -> None:
    """Run all phases of a step. Writes that may happen at once are made, the others wait."""
    for phase in plan.phases:
        _RUN[type(phase)](phase, frame)


def step(plan: Plan, frame: Frame, snapshots: list[Any]) -> str:
    """Run a step and settle it: `commit`, `veto` or `restore`."""
    outcome = ""
    for phase in plan.phases:
        if plan.outcomes and isinstance(phase, Compute) and phase.in_place - plan.always:
            outcome = outcome or settle(plan, frame)
            if outcome != "commit":
                continue
        _RUN[type(phase)](phase, frame)
    outcome = outcome or settle(plan, frame)
    for kind, when, _ in plan.outcomes:
        if kind == "snapshot" and truth(frame.get(when)):
            snapshots.append({s: _copy(v) for s, v in frame.slots.items() if "@" not in s})
    if outcome.startswith("restore") and snapshots:
        saved = snapshots[max(0, len(snapshots) - int(outcome.split()[1]))]
        for slot, value in saved.items():
            _assign(frame, slot, _copy(value))
    columns = [s for s in plan.deferred if outcome == "commit" or s in plan.always]
    values = {s: frame.get(plan.deferred[s]) for s in columns}
    if outcome == "commit":
        _note_took(plan, frame, values)
    # a slot that gets the old version of another one comes first
    for slot in sorted(values, key=lambda s: not plan.deferred[s].startswith("slot:")):
        _assign(frame, slot, values[slot])
    frame.written = frame.written or bool(values)
    return outcome


def _note_took(plan: Plan, frame: Frame, values: dict[str, Any]) -> None:
    """Which tensors the step wrote: their clocks go on."""
    for slot, value in values.items():
        spec = frame.spec(slot)
        if spec.kind == "target" and isinstance(value, list):
            mark_took(
                frame,
                slot.partition("@")[2] or spec.domain,
                [k for k, v in enumerate(value) if v is None],
            )


def mark_took(frame: Frame, domain: str, absent: list[int]) -> None:
    """A target's cells were written, all but those of the tensors at the places `absent`."""
    members = frame.members[domain]
    frame.touched[domain] = [members[k] for k in absent]


def took_part(frame: Frame) -> list[bool] | None:
    """Which tensors the step wrote; None where it wrote all."""
    absent = {i for places in frame.touched.values() for i in places}
    count = sum(len(frame.members[d]) for d in frame.touched)
    if not absent and count >= len(frame.tensors):
        return None
    written = {i for d in frame.touched for i in frame.members[d]} - absent
    return [i in written for i in range(len(frame.tensors))]


def settle(plan: Plan, frame: Frame) -> str:
    """The first condition that holds decides."""
    for kind, when, count in plan.outcomes:
        if kind != "snapshot" and truth(frame.get(when)):
            return "veto" if kind == "veto" else f"restore {int(frame.get(count))}"
    return "commit"


def truth(value: Any) -> bool:
    return any(bool(v) for v in value) if isinstance(value, list) else bool(value)


def _copy(value: Any) -> Any:
    return (
        [None if v is None else v.clone() for v in value]
        if isinstance(value, list)
        else value.clone()
    )


def _assign(frame: Frame, slot: str, value: Any) -> None:
    """Write a slot that had to wait: in place, or as a new value in a functional step."""
    old = frame.column(slot)
    if frame.functional:
        if isinstance(old, list):
            value = [o if v is None else stored(v, o) for v, o in zip(value, old, strict=True)]
        frame.replace(slot, value)
    elif isinstance(old, list):
        write(old, value)
    else:
        old.copy_(value)


# Computing phases -----------------------------------------------------------------------------


def _compute(phase: Compute, frame: Frame) -> None:
    if not phase.space:
        return _model(phase, frame)
    if phase.mode == "kernel" and frame.kernels is not None and frame.kernels.run(phase, frame):
        return
    tensorwise(phase, frame, phase.module.forward)


def tensorwise(phase: Compute, frame: Frame, forward: Callable[..., Sequence[Any]]) -> None:
    """Run a phase tensor by tensor; `forward` is its graph, or a compiled form of it."""
    columns = _columns(phase, frame)
    results: list[list[Any]] = [[] for _ in phase.outputs]
    for k, i in enumerate(frame.members[phase.space]):
        row = [c(k, i) for c in columns]
        if any(x is None for x in row):
            outcome: Sequence[Any] = [None] * len(phase.outputs)
        else:
            outcome = forward(*row)
        for result, value in zip(results, outcome, strict=True):
            result.append(value)
    for output, parts in zip(phase.outputs, results, strict=True):
        store(frame, phase, output, parts)


def _columns(phase: Compute, frame: Frame) -> list[Any]:
    """For each input a function (place in the domain, tensor) -> what the phase's graph gets."""
    return [_PORT[p.how](frame, p) for p in phase.inputs]


def _cell(frame: Frame, port: Any) -> Any:
    column = frame.get(port.source)
    return lambda k, i: None if column[k] is None else working(column[k])


def _tensor(frame: Frame, port: Any) -> Any:
    column = frame.get(port.source)
    return lambda k, i: column[k]


def _group(frame: Frame, port: Any) -> Any:
    column = frame.get(port.source)
    return lambda k, i: column[frame.groups[i]]


def _whole(frame: Frame, port: Any) -> Any:
    value = frame.get(port.source)
    if isinstance(value, Tensor) and value.dim() and value.dtype == torch.float64:
        return lambda k, i: value.to(working(frame.tensors[i]).dtype)
    return lambda k, i: value


def _host(frame: Frame, port: Any) -> Any:
    at = int(port.source)
    return lambda k, i: number(frame.rows[i][at])


def number(x: Any) -> Any:
    """A host scalar as torch takes it: a truth value must be a tensor."""
    return torch.tensor(x) if isinstance(x, bool) else x


def _like(frame: Frame, port: Any) -> Any:
    return lambda k, i: working(frame.tensors[i])


def _slice(frame: Frame, port: Any) -> Any:
    value = frame.get(port.source)
    offsets: list[int] = [0]

    def part(k: int, i: int) -> Tensor:
        if k == 0:
            offsets[0] = 0
        start, n = offsets[0], frame.tensors[i].numel()
        offsets[0] = start + n
        return value[..., start : start + n].to(working(frame.tensors[i]).dtype)

    return part


def _draw(frame: Frame, port: Any) -> Any:
    """Random numbers for each tensor: a cell's number depends on its place in the domain alone."""
    how, stream = port.source.split(":")
    offsets: dict[int, int] = {0: 0}

    def numbers(k: int, i: int) -> Tensor:
        t = frame.tensors[i]
        start = offsets[k]
        offsets[k + 1] = start + t.numel()
        drawn = draw(how, frame.seed, int(stream), frame.call, t.numel(), start)
        return drawn.reshape(t.shape).to(t.device, working(t).dtype)

    return numbers


def _axis_size(frame: Frame, port: Any) -> Any:
    n = frame.sizes[port.source]
    return lambda k, i: n


_PORT = {
    "draw": _draw,
    "size": _axis_size,
    "cell": _cell,
    "tensor": _tensor,
    "group": _group,
    "model": _whole,
    "host": _host,
    "like": _like,
    "slice": _slice,
}


def store(frame: Frame, phase: Compute, output: Any, parts: list[Any]) -> None:
    """Keep what a phase gave for each tensor: a column, or a reduction finished over tensors."""
    if not output.combine or output.how == "tensor":
        value: Any = parts
        if output.slot and frame.spec(output.slot).kind == "target":
            mark_took(frame, phase.space, [k for k, p in enumerate(parts) if p is None])
            frame.written = True
        if output.slot and not frame.functional:
            value = write(frame.column(output.slot), parts)
        elif output.slot:
            value = [
                o if p is None else stored(p, o)
                for p, o in zip(parts, frame.column(output.slot), strict=True)
            ]
            frame.replace(output.slot, value)
        frame.values[output.value] = value
        return
    members = frame.members[phase.space]
    if output.how == "model":
        frame.values[output.value] = _combine(
            output.combine, [p for p in parts if p is not None], frame
        )
        return
    frame.values[output.value] = [
        _combine(
            output.combine,
            [
                p
                for p, i in zip(parts, members, strict=True)
                if p is not None and frame.groups[i] == g
            ],
            frame,
        )
        for g in range(len(frame.group_rows))
    ]


def _combine(how: str, parts: list[Any], frame: Frame) -> Tensor:
    if not parts:
        empty = torch.tensor(cells.EMPTY.get(how, 0.0), dtype=torch.float64)
        return empty.bool() if how in ("any", "all") else empty
    parts = [
        p if isinstance(p, Tensor) else torch.tensor(float(p), dtype=torch.float64) for p in parts
    ]
    if how == "cat":
        return torch.cat([p.double() for p in parts], dim=-1)
    if parts[0].is_floating_point():
        parts = [p.double() for p in parts]
    return cells.combine(how, parts)


def stored(value: Any, old: Tensor) -> Tensor:
    """A result in the type and shape that its slot keeps."""
    value = value if isinstance(value, Tensor) else torch.as_tensor(value)
    return (
        value.to(old.dtype).expand(old.shape).contiguous()
        if value.shape != old.shape
        else value.to(old.dtype)
    )


def write(slot: list[Tensor], values: list[Any]) -> list[Tensor]:
    """Write a column in place; absent values write nothing."""
    for old, value in zip(slot, values, strict=True):
        if value is not None and value is not old:
            old.copy_(value) if isinstance(value, Tensor) else old.fill_(value)
    return slot


def _model(phase: Compute, frame: Frame) -> None:
    """A phase over the values of the model, or of each group where one of them has its own."""
    grouped = [p.how == "group" or (p.how == "host") for p in phase.inputs]
    outputs = [o.how == "group" for o in phase.outputs]
    per_group: list[Sequence[Any]] = []
    for g in range(len(frame.group_rows) if any(outputs) else 1):
        row = []
        for port, own in zip(phase.inputs, grouped, strict=True):
            if port.how == "host":
                row.append(number(frame.group_rows[g][int(port.source)]))
            elif port.how == "size":
                row.append(frame.sizes[port.source])
            else:
                value = frame.get(port.source)
                row.append(value[g] if own else value)
        per_group.append(phase.module.forward(*row))
    for at, output in enumerate(phase.outputs):
        values = [_double(r[at]) for r in per_group]
        frame.values[output.value] = values if outputs[at] else values[0]


def _double(x: Any) -> Tensor:
    if isinstance(x, Tensor):
        return x.double() if x.is_floating_point() else x
    return torch.tensor(x, dtype=torch.bool if isinstance(x, bool) else torch.float64)


# The loop's answers ---------------------------------------------------------------------------


def _evaluate(phase: Evaluate, frame: Frame) -> None:
    """Ask the loop at a point, once for each place of the axes that point and data have."""
    if phase.when is not None and truth(frame.get(phase.when[0])) != phase.when[1]:
        return _unasked(phase, frame)
    data = frame.get(phase.data)
    if len(phase.axes) == 1 and phase.reads[0].what in ("value", "gradient"):
        return _keep(phase, frame, _many(phase, data, frame))
    sizes = []
    for axis in phase.axes:
        if isinstance(data, Mapped) and axis in data.axes:
            sizes.append(len(data.items))
        else:
            sizes.append(
                frame.size(phase.sizes[axis])
                if phase.sizes[axis] is not None
                else _found(phase, axis, frame)
            )
    answers = []
    for place in itertools.product(*(range(n) for n in sizes)):
        where = dict(zip(phase.axes, place, strict=True))
        points = {t: _pick(v, phase, where, frame) if v else None for t, v in phase.points.items()}
        chosen = data.items[where[data.axes[0]]] if isinstance(data, Mapped) else data
        answers.append(_ask(phase, points, chosen, where, frame))
    parts = [[a[at] for a in answers] for at in range(len(phase.reads))]
    _keep(phase, frame, [p[0] if not phase.axes else stacked(p, sizes) for p in parts])


def _many(phase: Evaluate, data: Any, frame: Frame) -> list[Any]:
    """One axis, of points or of the data: the loop may map over it at once."""
    axis, reads = phase.axes[0], phase.reads
    points: dict[str, Any] = {}
    over = []
    for target, name in phase.points.items():
        point: Any = frame.get(name) if name else None
        if name and axis in phase.layouts.get(name, ()):
            over.append(target)
            members = frame.members[target]
            count = next((len(p) for p in point if p is not None), 1)
            point = [
                frame.tensors[i].expand(count, *frame.tensors[i].shape)
                if p is None
                else p.to(frame.tensors[i].dtype)
                for p, i in zip(point, members, strict=True)
            ]
        elif point is not None:
            point = _in_type(point, target, frame)
        points[target] = point
    value, gradients = frame.loop.evaluate_many(
        phase.objective,
        points,
        data.pieces if isinstance(data, Mapped) else data,
        value=any(r.what == "value" for r in reads),
        gradients=tuple(dict.fromkeys(r.wrt for r in reads if r.what == "gradient")),
        over=tuple(over),
    )
    return [value if r.what == "value" else gradients[r.wrt] for r in reads]


def _keep(phase: Evaluate, frame: Frame, answers: list[Any]) -> None:
    """Give the loop's answers their names: gradients as real local tensors, of descent."""
    for read, value in zip(phase.reads, answers, strict=True):
        first = (
            next((v for v in value if v is not None), None) if isinstance(value, list) else value
        )
        for label, n in zip(read.axes, first.shape if first is not None else (), strict=False):
            frame.sizes[label.rstrip("'")] = n
        if read.what == "value":
            value = value.detach().double()
        if frame.wrapped and isinstance(value, list):
            value = [None if v is None else real(local(v)) for v in value]
        if read.what == "gradient" and any(frame.maximize):
            value = [
                v if v is None or not frame.maximize[frame.groups[i]] else -v
                for v, i in zip(value, frame.members[read.wrt], strict=True)
            ]
        frame.values[read.value] = value


def _unasked(phase: Evaluate, frame: Frame) -> None:
    """Stand-ins for answers that a selection will not take."""
    for read in phase.reads:
        if read.what in ("value", "jvp"):
            frame.values[read.value] = torch.zeros((), dtype=torch.float64)
        else:
            frame.values[read.value] = [frame.tensors[i] for i in frame.members[read.wrt]]


def _found(phase: Evaluate, axis: str, frame: Frame) -> int:
    for name, layout in phase.layouts.items():
        if axis in layout:
            value = frame.get(name)
            first = value[0] if isinstance(value, list) else value
            return int(first.shape[layout.index(axis)])
    raise RuntimeError(f"nothing says how many places the axis {axis} has")


def _pick(name: str, phase: Evaluate, where: dict[str, int], frame: Frame) -> Any:
    value = frame.get(name)
    layout = phase.layouts.get(name, ())

    def one(x: Any) -> Any:
        for d in range(len(layout) - 1, -1, -1):
            if layout[d] in where and x is not None:
                x = x.select(d, where[layout[d]])
        return x

    return [one(x) for x in value] if isinstance(value, list) else one(value)


def _ask(phase: Evaluate, points: Any, data: Any, where: dict[str, int], frame: Frame) -> list[Any]:
    loop, first = frame.loop, phase.reads[0]
    points = {t: None if p is None else _in_type(p, t, frame) for t, p in points.items()}
    if first.what in ("value", "gradient"):
        wrt = tuple(dict.fromkeys(r.wrt for r in phase.reads if r.what == "gradient"))
        wants = any(r.what == "value" for r in phase.reads)
        value, gradients = loop.evaluate(phase.objective, points, data, value=wants, gradients=wrt)
        return [value if r.what == "value" else gradients[r.wrt] for r in phase.reads]
    vector = _pick(first.vector, phase, where, frame)
    if first.what == "hvp":
        vector = _in_type(vector, first.of, frame)
        return [loop.hvp(phase.objective, points, data, first.wrt, first.of, vector)]
    if first.what == "jvp":
        return [
            loop.jvp(phase.objective, points, data, first.wrt, _in_type(vector, first.wrt, frame))
        ]
    return [loop.vjp(phase.objective, points, data, first.wrt, vector)]


def _in_type(point: list[Any], target: str, frame: Frame) -> list[Tensor]:
    """A point as tensors like the parameters; an absent part stands where it is held."""
    members = frame.members[target]
    return [
        frame.tensors[i]
        if p is None
        else p.to(frame.tensors[i].dtype).reshape(frame.tensors[i].shape)
        for p, i in zip(point, members, strict=True)
    ]


@dataclass
class Mapped:
    """Data with an axis: one batch for each place."""

    axes: tuple[str, ...]
    pieces: Any

    @property
    def items(self) -> list[Any]:
        return list(getattr(self.pieces, "items", self.pieces))


def stacked(parts: list[Any], sizes: list[int]) -> Any:
    """The answers of all places as one value with the axes first."""

    def stack(xs: list[Any]) -> Any:
        if any(x is None for x in xs):
            return None
        whole = torch.stack([x.detach() for x in xs])
        return whole.reshape(*sizes, *whole.shape[1:])

    if isinstance(parts[0], list):
        return [stack([p[k] for p in parts]) for k in range(len(parts[0]))]
    return stack(parts)


def _call(phase: Call, frame: Frame) -> None:
    if phase.op == "batch":
        frame.values[phase.output] = frame.batch
    elif phase.op == "random":
        frame.values[phase.output] = _random(phase, frame)
    elif phase.op in ("oracle", "extern"):
        arguments = [frame.get(x) for x in phase.inputs]
        frame.values[phase.output] = answer(frame.loop, phase.attributes["name"], arguments)
    else:
        arguments = [frame.get(x) for x in phase.inputs]
        result = frame.loop.data(phase.op, arguments, phase.attributes)
        if phase.op in ("split", "each"):
            result = Mapped(tuple(a for a, _ in phase.attributes["axes"]), result)
        frame.values[phase.output] = result


def answer(loop: Any, name: str, arguments: list[Any]) -> Any:
    """A function of the user's, or its transposed derivative by the first argument."""
    if not name.endswith(".vjp"):
        return loop.call(name, arguments)
    first, *rest, weights = arguments

    def of(x: Any) -> Any:
        return loop.call(name.removesuffix(".vjp"), [x, *rest])

    result, back, *_ = torch.func.vjp(of, first)
    return back(weights.to(result.dtype))[0]


def _random(phase: Call, frame: Frame) -> Any:
    a = phase.attributes
    stream = a["stream"]
    for x in phase.inputs:  # turns of a loop draw different numbers
        stream = stream * 1_000_003 + 1 + int(frame.get(x))
    lead = [frame.size(n) for _, n in a["axes"]]
    if a["reach"] in ("model", "group"):
        return draw(a["how"], frame.seed, stream, frame.call, torch.Size(lead).numel(), 0).reshape(
            lead
        )
    result, offset = [], 0
    for i in frame.members[a["domain"]]:
        t = frame.tensors[i]
        shape = torch.Size([*lead, *(t.shape if a["reach"] == "element" else ())])
        numbers = draw(a["how"], frame.seed, stream, frame.call, shape.numel(), offset)
        offset += shape.numel()
        result.append(numbers.reshape(shape).to(t.device, working(t).dtype))
    return result


def _route(phase: Route, frame: Frame) -> None:
    places = frame.members[phase.source]
    whole = list(frame.get(phase.inputs[0]))
    if phase.op == "restrict":
        frame.values[phase.output] = [
            whole[places.index(i)] for i in frame.members[phase.domains[0]]
        ]
        return
    at = {i: k for k, i in enumerate(places)}
    for domain, name in zip(phase.domains, phase.inputs[1:], strict=True):
        for i, value in zip(frame.members[domain], frame.get(name), strict=True):
            whole[at[i]] = value
    frame.values[phase.output] = whole


def _loop(phase: Loop, frame: Frame) -> None:
    carried = [frame.get(a) for a, _ in phase.carried]
    count = frame.size(phase.count)
    frame.depth += 1
    for turn in range(count):
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
                _freeze(done, f, old, n, frame)
                for f, old, n in zip(phase.freeze, carried, new, strict=True)
            ]
        carried = new
    frame.depth -= 1
    for name, value in zip(phase.results, carried, strict=True):
        if name:
            frame.values[name] = value


def everywhere(c: Any) -> bool:
    return all(bool(x.all()) for x in c if x is not None) if isinstance(c, list) else bool(c.all())


def _freeze(done: Any, how: Any, old: Any, new: Any, frame: Frame) -> Any:
    """Cells whose condition is reached keep their value."""
    places, axes, fine = how
    if not isinstance(new, list):
        return torch.where(cells.arrange(done, places, axes, None, fine), old, new)
    result = []
    for k, (o, n) in enumerate(zip(old, new, strict=True)):
        c = done[k] if isinstance(done, list) else done
        trailing = n if n is None else n[(0,) * len(places)] if places else n
        result.append(
            n if n is None else torch.where(cells.arrange(c, places, axes, trailing, fine), o, n)
        )
    return result


_RUN: dict[type, Callable[[Any, Frame], None]] = {
    Compute: _compute,
    Evaluate: _evaluate,
    Call: _call,
    Route: _route,
    Loop: _loop,
}
