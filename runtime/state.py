"""Slots: where the state of a rule lives in `optimizer.state`, and how it begins."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..compiler.cells import SIDES, extent
from ..compiler.formats import sizes_of
from ..compiler.program import Plan, Program
from . import execute, int8
from .frame import LOW, Frame
from .tensors import local, real


def to_local(p: Tensor) -> Tensor:
    """The part of a parameter that this process holds, as real numbers."""
    if type(p) in (Tensor, torch.nn.Parameter):
        return torch.view_as_real(p.detach()) if p.is_complex() else p
    found = real(local(p))
    return found if found is p else found.detach()


class Slots:
    """The slots of a rule as columns over the tensors, kept in the optimizer's state.

    A slot over cells or tensors is kept with each parameter; one of the model or of a group with
    the first parameter. State of bfloat16 and float16 parameters is float32.
    """

    def __init__(self, program: Program, layout: Any, state: Any):
        self.program, self.layout, self.state = program, layout, state
        self.columns: dict[str, Any] = {}
        refuse_types(program, layout)
        for name in program.targets:
            self.columns[name] = [to_local(layout.params[i]) for i in layout.members[name]]
        self._clocks()
        self.begun: list[tuple[str, Tensor]] = []
        self._entries = len(state)
        self.pending = [
            s for s, spec in program.slots.items() if spec.kind == "state" and not self._find(s)
        ]

    def found_in(self, state: Any) -> bool:
        """Whether the optimizer's state is still the one that was taken: nobody cleared it, or put
        another in its place, or took a parameter's out."""
        return state is self.state and len(state) == self._entries

    def _clocks(self) -> None:
        """One vector of steps; `state[p]["step"]` is a view of its place."""
        params = self.layout.params
        old = [self.state[p].get("step") if p in self.state else None for p in params]
        values = [0.0 if s is None else float(s) for s in old]
        # Memory of Python's, which a tensor shows: an operation on it costs more than a small step.
        self._ticks = (ctypes.c_float * len(values))(*values)
        self.clock = (
            torch.frombuffer(self._ticks, dtype=torch.float32) if values else torch.empty(0)
        )
        self.uniform = int(values[0]) if values and len(set(values)) == 1 else None
        for p, view, known in zip(params, self.clock.unbind() if params else (), old, strict=True):
            if known is not None or p.requires_grad:
                self.state[p]["step"] = view

    def steps(self) -> list[int] | int:
        """t of each tensor in the step that comes, 1 at the first; one number where all agree."""
        if self.uniform is not None:
            return self.uniform + 1
        return [int(x) + 1 for x in self.clock.tolist()]

    def advance(self, took: list[bool] | None) -> None:
        """Count the step for the tensors that took part."""
        if self.uniform is not None and (took is None or all(took)):
            self.uniform += 1
            self._ticks[:] = [self.uniform] * len(self._ticks)
        elif took is None or all(took):
            self.clock += 1
        else:
            self.clock += torch.tensor(took, dtype=torch.float32)
            self.uniform = None

    def retreat(self, took: list[bool] | None) -> None:
        """Take back the count of a step: the device had withheld its writes."""
        if took is None or all(took):
            self.clock -= 1
            self.uniform = None if self.uniform is None else self.uniform - 1
        else:
            self.clock -= torch.tensor(took, dtype=torch.float32)

    def _owner(self, spec: Any) -> Tensor:
        return self.layout.params[0]

    def _find(self, slot: str) -> bool:
        """Take a slot from the optimizer's state; False where it has to begin."""
        spec = self.program.slots[slot]
        if spec.reach in ("model", "group"):
            owner = self.state.get(self._owner(spec), {})
            if slot in owner:
                value = owner[slot]
                if spec.reach == "group" and len(value) < self._groups():
                    self.columns[slot] = list(value.unbind())
                    return False  # a group was added
                self.columns[slot] = list(value.unbind()) if spec.reach == "group" else value
                return True
            return False
        column = [
            self.state[self.layout.params[i]].get(slot) for i in self.layout.members[spec.domain]
        ]
        self.columns[slot] = column
        return all(c is not None for c in column)

    def begin(self, frame: Frame, start: Callable[[str], Plan], host: Any) -> None:
        """Give slots that have no value yet their first one."""
        self.begun = []
        if not self.pending:
            return
        numbers = [s for s in self.pending if self.program.slots[s].begins_as_number]
        for slot in dict.fromkeys([*numbers, *self.pending]):  # the others may read these
            self._begin(slot, frame, start, host)
        self.pending = self._absent(self.pending)
        self._entries = len(self.state)
        self._renew()
        frame.slots = self.columns

    def follow(self) -> None:
        """Where a parameter was given other memory, its real numbers are there."""
        for name in self.program.targets:
            column = [to_local(self.layout.params[i]) for i in self.layout.members[name]]
            pairs = zip(column, self.columns[name], strict=True)
            if any(new.data_ptr() != old.data_ptr() for new, old in pairs):
                self._renew()
                self.columns[name] = column

    def _absent(self, slots: list[str]) -> list[str]:
        """Those that have no value yet for some tensor: its gradient was absent, say."""
        columns = {s: self.columns[s] for s in slots}
        return [s for s, c in columns.items() if isinstance(c, list) and any(x is None for x in c)]

    def _renew(self) -> None:
        """What was made for the tensors of the columns, or is a part of them, is stale."""
        self.columns = {s: column for s, column in self.columns.items() if "@" not in s}

    def forget(self, always: frozenset[str]) -> None:
        """Take back the first values of a step that is taken back.

        They may come from a gradient that is not finite. Slots that are written always stay.
        """
        kept = always | {sizes_of(slot) for slot in always}
        gone = [(slot, p) for slot, p in self.begun if slot not in kept]
        for slot, p in gone:
            del self.state[p][slot]
        again = list(dict.fromkeys(slot for slot, _ in gone))
        if gone:
            self._renew()
        for slot in again:
            self._find(slot)
        self.pending = list(dict.fromkeys([*self.pending, *again]))

    def _begin(self, slot: str, frame: Frame, start: Callable[[str], Plan], host: Any) -> None:
        spec = self.program.slots[slot]
        if spec.reach == "block":  # it began with its codes
            self._find(slot)
            return
        if spec.begins_as_number:
            values: Any = spec.init
        else:
            plan = start(slot)
            inner = replace(
                frame,
                slots=self.columns,
                rows=host.rows(plan.host),
                group_rows=host.group_rows(plan.host),
                functional=True,
                kernels=None,
                values={},
            )
            execute.run(plan, inner)
            values = inner.get(plan.metrics["value"])
        if spec.reach in ("model", "group"):
            self._begin_coarse(slot, spec, values)
            return
        column, params = self.columns[slot], self.layout.params
        members = self.layout.members[spec.domain]
        given = values if isinstance(values, list) else [values] * len(members)
        # a tensor without a value begins when it has one
        new = [k for k, value in enumerate(given) if column[k] is None and value is not None]
        likes = [frame.tensors[members[k]] for k in new]
        made = _fresh_column([given[k] for k in new], likes, spec)
        for k, kept in zip(new, made, strict=True):
            p = params[members[k]]
            column[k] = self.state[p][slot] = kept
            self.begun.append((slot, p))
            if spec.format.block:
                sizes = int8.sizes_like(kept, spec.format)
                codes = torch.empty_like(kept, dtype=torch.int8)
                int8.encode(kept, codes, sizes, spec.format)
                column[k] = self.state[p][slot] = codes
                self.columns[sizes_of(slot)][k] = self.state[p][sizes_of(slot)] = sizes
                self.begun.append((sizes_of(slot), p))

    def _groups(self) -> int:
        return self.layout.count

    def _begin_coarse(self, slot: str, spec: Any, values: Any) -> None:
        count, device = self._groups(), self._owner(spec).device
        self.begun.append((slot, self._owner(spec)))
        if not isinstance(values, list):
            kind = torch.bool if spec.logical else torch.float64
            values = torch.as_tensor(values, dtype=kind, device=device).clone()
            values = [values.clone() for _ in range(count)] if spec.reach == "group" else values
        if spec.reach == "group":
            known = self.columns.get(slot, [])
            values = [*known, *values[len(known) :]]
            whole = torch.stack([v.double().to(device) for v in values])
            self.state[self._owner(spec)][slot] = whole
            self.columns[slot] = list(whole.unbind())
        else:
            self.state[self._owner(spec)][slot] = self.columns[slot] = values.to(device, copy=True)


def refuse_others(program: Program, before: Any, now: Any, state: Any) -> None:
    """What is kept for each cell of the model, in one row, is not that of other tensors."""
    for slot, spec in program.slots.items():
        held = state.get(now.params[0], {}).get(slot) if spec.cells and now.params else None
        if held is None:
            continue
        same = before is None or before.members[spec.cells] == now.members[spec.cells]
        if not same or now.total(spec.cells) not in held.shape:
            raise RuntimeError(
                f"{program.name} cannot go on: its `{slot}` has a place for each cell of other "
                "tensors, before some were added, frozen or unfrozen; make a new optimizer"
            )


def refuse_types(program: Program, layout: Any) -> None:
    """A schedule that stores a target in a type wants parameters of that type."""
    for name in program.targets:
        format = program.slots[name].format
        for i in layout.members[name]:
            p = layout.params[i]
            if format.type and p.dtype != TYPES[format.type]:
                raise ValueError(
                    f"Invalid parameter: the schedule stores {name} as {format.type}, and "
                    f"{layout.names[i] or f'parameter {i}'} is {str(p.dtype)[6:]}"
                )


TYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}


def working_type(like: Tensor) -> torch.dtype:
    """The type in which the cells of a parameter are computed with."""
    return torch.float32 if like.dtype in LOW else like.dtype


def type_of(spec: Any, like: Tensor) -> torch.dtype:
    """The type in which the numbers of a slot are kept for a tensor."""
    if spec.logical:
        return torch.bool
    if spec.reach in ("model", "group") or spec.reach == "tensor" and not spec.axes:
        return torch.float64
    return TYPES.get(spec.format.type) or working_type(like)


def fresh(value: Any, like: Tensor, spec: Any) -> Tensor:
    """A slot's first tensor: own memory, in the type of its format or that of computing."""
    dtype = type_of(spec, like)
    cell_by_cell = spec.reach == "element" and not spec.axes
    if isinstance(value, Tensor) and not cell_by_cell:
        return value.to(like.device, dtype, copy=True)
    if not isinstance(value, Tensor) and not cell_by_cell:
        places = (SIDES[a](like) if isinstance(a, str) else a for a in spec.axes)
        shape = (*places, *extent(like.shape, spec.reach))
        return torch.full(shape, value, dtype=dtype, device=like.device)
    result = torch.empty_like(like, dtype=dtype, memory_format=torch.preserve_format)
    return result.copy_(value) if isinstance(value, Tensor) else result.fill_(value)


def _fresh_column(values: list[Any], likes: list[Tensor], spec: Any) -> Iterable[Tensor]:
    """The same of all tensors, one after another.

    Where each has one number they share their memory: it is made in the time of one.
    """
    numbers = spec.begins_as_number and spec.reach == "tensor" and not spec.axes
    if not numbers or len({t.device for t in likes}) != 1:
        return (fresh(v, t, spec) for v, t in zip(values, likes, strict=True))
    dtype, device = type_of(spec, likes[0]), likes[0].device
    return torch.full((len(likes),), spec.init, dtype=dtype, device=device).unbind()
