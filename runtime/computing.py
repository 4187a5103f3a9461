"""Computing phases: tensor by tensor or by kernel over the cells, once over the model's values.

Arithmetic is in the parameter's type, in float32 for bfloat16 and float16.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from ..compiler import cells
from ..compiler.program import Compute, Output, Rest
from .asking import places_of
from .batching import STACKED, batches, ready, together
from .frame import Frame, Held, double, mark_took, number, stored, working_type
from .refused import refused


def compute(phase: Compute, frame: Frame) -> None:
    kernels = frame.kernels if phase.mode == "kernel" and phase.space else None
    if kernels is None or not kernels.run(phase, frame):
        try:
            with making(frame.device):
                (tensorwise if phase.space else _model)(phase, frame)
        except RuntimeError as error:
            told = refused(error, phase, frame, _rows(phase, frame))
            if told is None:
                raise
            raise told from error
    if frame.shards and phase.space:
        frame.shards.finish(phase, frame)


def _rows(phase: Compute, frame: Frame) -> Iterator[tuple[int | None, list[Any]]]:
    """What a phase is given, tensor by tensor, or group by group for a phase of the model."""
    if not phase.space:
        for g in range(len(frame.group_rows)):
            yield None, _of_group(phase, frame, g)
        return
    columns = columns_of(phase, frame)
    for k, i in enumerate(frame.members[phase.space]):
        row = [c(k, i) for c in columns]
        if not any(x is None for x in row):
            yield i, list(map(ready, phase.inputs, row))


def making(device: torch.device) -> Any:
    """What a phase makes out of numbers alone (an identity, say) is where its tensors are."""
    return contextlib.nullcontext() if device.type == "cpu" else device


def tensorwise(
    phase: Compute, frame: Frame, compiled: Callable[..., Sequence[Any]] | None = None
) -> None:
    """Run a phase over its tensors, those of one shape at once where that pays."""
    spent = _spent(phase, frame)
    members, readers = frame.members[phase.space], columns_of(phase, frame)
    columns = [
        [read(k, i) for k, i in enumerate(members)] if port.how in STACKED else None
        for port, read in zip(phase.inputs, readers, strict=True)
    ]
    own = [column for column in columns if column is not None]
    absent = {k for column in own for k, x in enumerate(column) if x is None}
    frame.missed[phase.name] = sorted(absent)
    results: list[list[Any]] = [[None] * len(members) for _ in phase.outputs]
    for batch in batches(phase, frame, [k for k in range(len(members)) if k not in absent]):
        given = [
            read(batch[0], members[batch[0]]) if column is None else [column[k] for k in batch]
            for column, read in zip(columns, readers, strict=True)
        ]
        values = together(phase, compiled or phase.forward(given), given, len(batch))
        del given
        for result, parts in zip(results, values, strict=True):
            for k, part in zip(batch, parts, strict=True):
                result[k] = part
        for column in (*own, *spent):  # memory goes while the other tensors are computed
            for k in batch:
                column[k] = None
    for output, parts in zip(phase.outputs, results, strict=True):
        store(frame, phase, output, parts)


def _spent(phase: Compute, frame: Frame) -> list[list[Any]]:
    """The columns that nothing reads after the phase, each as a list of its own."""
    found = []
    tensors = {p.source for p in phase.inputs if p.how in ("cell", "tensor")}
    for name in tensors.intersection(frame.spent):
        if isinstance(frame.values[name], list):
            frame.values[name] = [*frame.values[name]]
            found.append(frame.values[name])
    return found


def rest(phase: Rest, frame: Frame) -> None:
    """What a phase left undone for the tensors that it passed over, one by one."""
    missed = frame.missed.get(phase.of)
    if not missed:
        return
    found = []  # filled in behind, as a part may read what another one writes
    for part in phase.parts:
        inner = part.phase
        columns, members = columns_of(inner, frame), frame.members[inner.space]
        for k in missed:
            row = [c(k, members[k]) for c in columns]
            if any(x is None for x in row):
                continue
            value, *taken = inner.forward(row)(*map(ready, inner.inputs, row))
            if all(bool(c) is truth for c, truth in zip(taken, part.truth, strict=True)):
                found.append((inner, k, value))
    for inner, k, value in found:
        _fill(frame, inner.space, k, inner.outputs[0], value)


def _fill(frame: Frame, space: str, k: int, output: Output, value: Any) -> None:
    """Put a tensor's value where the others of its column are, or add it to their sum."""
    members = frame.members[space]
    if output.combine and output.how != "tensor":
        return _count(frame, members, k, output, value)
    if output.slot and frame.functional:
        column = list(frame.column(output.slot))
        column[k] = stored(value, column[k])
        frame.replace(output.slot, column)
    elif output.slot:
        frame.keep(output.slot, [value if at == k else None for at in range(len(members))])
    whole = frame.values[output.value]
    if isinstance(whole, Held):
        frame.values[output.value] = Held(whole.slot, tuple(at for at in whole.absent if at != k))
    else:
        whole[k] = frame.kept(output.slot)[k] if output.slot else between(frame, output, value)
    if output.slot and frame.spec(output.slot).kind == "target":
        frame.touched[space].remove(members[k])
        frame.written = True


def _count(frame: Frame, members: list[int], k: int, output: Output, value: Any) -> None:
    """A reduction, with one tensor more than those that it was taken over."""
    whole = frame.values[output.value]
    if output.combine == "cat":
        start = sum(frame.tensors[i].numel() for i in members[:k])
        whole = whole.expand(*value.shape[:-1], -1).clone()  # without axes where all were absent
        whole[..., start : start + value.shape[-1]] = value
        frame.values[output.value] = whole
    elif output.how == "group":
        whole = list(whole)
        group = frame.groups[members[k]]
        whole[group] = _joined(output, whole[group], value)
        frame.values[output.value] = whole
    else:
        frame.values[output.value] = _joined(output, whole, value)


def _joined(output: Output, whole: Tensor, value: Any) -> Tensor:
    """A reduction with one value more; it is without axes where all were absent."""
    more = torch.as_tensor(value)
    return _combine(output, [whole if whole.dim() else whole.expand(more.shape), more])


def columns_of(phase: Compute, frame: Frame) -> list[Any]:
    """For each input a function (place in the domain, tensor) -> its value; `ready` finishes it."""
    return [
        _ORDERED[p.how](frame, p, phase.space) if p.how in _ORDERED else _PORT[p.how](frame, p)
        for p in phase.inputs
    ]


def _cell(frame: Frame, port: Any) -> Any:
    """Cells in the type of computing: what is kept in fewer bits is not computed in them."""
    column = frame.get(port.source)
    if port.low:
        return lambda k, i: column[k]

    def cells_of(k: int, i: int) -> Any:
        x, dtype = column[k], working_type(frame.tensors[i])
        fewer = isinstance(x, Tensor) and x.is_floating_point()
        # bfloat16 of float32 becomes that in `ready`, a stack at once
        return x.to(dtype) if fewer and working_type(x).itemsize < dtype.itemsize else x

    return cells_of


def _tensor(frame: Frame, port: Any) -> Any:
    column = frame.get(port.source)
    return lambda k, i: column[k]


def _group(frame: Frame, port: Any) -> Any:
    column = frame.get(port.source)
    return lambda k, i: column[frame.groups[i]]


def _whole(frame: Frame, port: Any) -> Any:
    value = frame.get(port.source)
    if isinstance(value, Tensor) and value.dim() and value.dtype == torch.float64:
        known: dict[torch.dtype, Tensor] = {}

        def cast(k: int, i: int) -> Tensor:
            dtype = working_type(frame.tensors[i])
            if dtype not in known:
                known[dtype] = value.to(dtype)
            return known[dtype]

        return cast
    return lambda k, i: value


def _host(frame: Frame, port: Any) -> Any:
    at = int(port.source)
    return lambda k, i: frame.rows[i][at]


def _like(frame: Frame, port: Any) -> Any:
    return lambda k, i: frame.tensors[i]


def _slice(frame: Frame, port: Any, space: str) -> Any:
    value = frame.get(port.source)
    counts = [frame.tensors[i].numel() for i in frame.members[space]]
    starts = list(accumulate(counts, initial=0))

    def part(k: int, i: int) -> Tensor:
        return value[..., starts[k] : starts[k + 1]].to(working_type(frame.tensors[i]))

    return part


def _draw(frame: Frame, port: Any, space: str) -> Any:
    """Random numbers for each tensor: a cell's number depends on its place in the domain alone."""
    how, stream = port.source.split(":")
    places = [frame.place(i) for i in frame.members[space]]
    before = list(accumulate((n for _, n in places), initial=frame.before.get(space, 0)))

    def numbers(k: int, i: int) -> Tensor:
        t, start = frame.tensors[i], before[k] + places[k][0]
        kind = working_type(t)
        drawn = frame.draw(how, frame.seed, int(stream), frame.call, t.numel(), start, kind)
        return drawn.reshape(t.shape).to(t.device, non_blocking=True)

    return numbers


def _axis_size(frame: Frame, port: Any) -> Any:
    n = frame.places(port.source)
    return lambda k, i: n


_PORT = {
    "size": _axis_size,
    "cell": _cell,
    "tensor": _tensor,
    "group": _group,
    "model": _whole,
    "host": _host,
    "like": _like,
}
_ORDERED = {"draw": _draw, "slice": _slice}
"""What a tensor has of it depends on those before it in the domain."""


def store(frame: Frame, phase: Compute, output: Any, parts: list[Any]) -> None:
    """Keep what a phase gave for each tensor: a column, or a reduction finished over tensors."""
    if not output.combine or output.how == "tensor":
        value: Any = [between(frame, output, p) for p in parts]
        if output.slot and frame.spec(output.slot).kind == "target":
            mark_took(frame, phase.space, [k for k, p in enumerate(parts) if p is None])
            frame.written = True
        if output.slot and not frame.functional:
            value = frame.keep(output.slot, parts)
        elif output.slot:
            value = [
                o if p is None else stored(p, o)
                for p, o in zip(parts, frame.column(output.slot), strict=True)
            ]
            frame.replace(output.slot, value)
        frame.values[output.value] = value
        return
    members, lead = frame.members[phase.space], places_of(frame, output.axes)
    if output.combine == "cat":  # an absent tensor has its places, with zeros
        parts = [
            _zeros(frame.tensors[i], parts, lead) if p is None else p
            for i, p in zip(members, parts, strict=True)
        ]
    if output.how == "model":
        whole = [p for p in parts if p is not None]
        frame.values[output.value] = _combine(output, whole, lead)
        return
    frame.values[output.value] = [
        _combine(
            output,
            [
                p
                for p, i in zip(parts, members, strict=True)
                if p is not None and frame.groups[i] == g
            ],
            lead,
        )
        for g in range(len(frame.group_rows))
    ]


def between(frame: Frame, output: Output, value: Any) -> Any:
    """A tensor's value as it is kept between phases; a functional step has its derivative."""
    low = output.low and isinstance(value, Tensor) and not frame.functional
    return cells.low(value) if low else value


def _zeros(tensor: Tensor, parts: list[Any], lead: Sequence[int]) -> Tensor:
    """The flat part of a tensor without a value, beside those of the others."""
    lead = next((p.shape[:-1] for p in parts if p is not None), lead[:-1])
    return torch.zeros(*lead, tensor.numel(), dtype=torch.float64, device=tensor.device)


def _combine(output: Output, parts: list[Any], lead: Sequence[int] = ()) -> Tensor:
    how = output.combine
    if not parts:
        shape = (*lead[:-1], 0) if how == "cat" else lead
        empty = torch.full(shape, cells.EMPTY.get(how, 0.0), dtype=torch.float64)
        return empty.bool() if how in ("any", "all") else empty
    parts = [
        p if isinstance(p, Tensor) else torch.tensor(float(p), dtype=torch.float64) for p in parts
    ]
    if how == "cat":
        return torch.cat([p.double() for p in parts], dim=-1)
    if parts[0].is_floating_point():
        parts = [p.double() for p in parts]
    return cells.combine(how, parts, output.place)


def _model(phase: Compute, frame: Frame) -> None:
    """A phase over the values of the model, or of each group where one of them has its own."""
    outputs = [o.how == "group" for o in phase.outputs]
    groups = range(len(frame.group_rows) if any(outputs) else 1)
    found = [phase.module.forward(*_of_group(phase, frame, g)) for g in groups]
    for at, output in enumerate(phase.outputs):
        values = [double(each[at]) for each in found]
        frame.values[output.value] = values if outputs[at] else values[0]


def _of_group(phase: Compute, frame: Frame, g: int) -> list[Any]:
    """What a phase of the model takes for a group."""
    row = []
    for port in phase.inputs:
        if port.how == "host":
            row.append(number(frame.group_rows[g][int(port.source)]))
        elif port.how == "size":
            row.append(frame.places(port.source))
        else:
            value = frame.get(port.source)
            row.append(value[g] if port.how == "group" else value)
    return row
