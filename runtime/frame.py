"""What one step runs on, and the values between its phases.

A value is a list with one tensor per parameter of its domain (None where absent), a list with one
number per group, or one tensor of the model. What is coarser than a tensor is float64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..compiler.formats import sizes_of
from ..compiler.program import Program
from . import int8, random

LOW = (torch.bfloat16, torch.float16)


@dataclass
class Frame:
    """What one step runs on. `values` holds the values between phases by name, `before` the cells
    of each domain that stand before those of this step: where it is one tensor's, all those of the
    tensors before. `clocks` are
    those of the snapshot that is gone back to, `reported` the metrics. `unused` are the
    errors of axes whose places a gradient would have said that is absent everywhere.
    """

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
    worker: Any = None
    shards: Any = None
    sizes: dict[str, int] = field(default_factory=dict)
    depth: int = 0
    touched: dict[str, list[int]] = field(default_factory=dict)
    missed: dict[str, list[int]] = field(default_factory=dict)
    written: bool = False
    clocks: Any = None
    before: dict[str, int] = field(default_factory=dict)
    withheld: Any = None
    held: Tensor | None = None
    reported: dict[str, Any] = field(default_factory=dict)
    names: Sequence[str] = ()
    unused: dict[str, Exception] = field(default_factory=dict)
    spent: Sequence[str] = ()
    """The values that nothing reads after the phase that runs."""
    draw: Callable[..., Tensor] = random.draw
    """What draws numbers for phases that run as torch operations."""

    def withhold(self, on: bool) -> None:
        """From here on write nothing where the device has found that the step is taken back."""
        self.held = self.withheld.flag if on and self.withheld and self.withheld.asked else None

    @property
    def device(self) -> torch.device:
        """Where values of the model are."""
        return self.tensors[0].device if self.tensors else torch.device("cpu")

    def get(self, name: str) -> Any:
        """A value by its name."""
        if name.startswith("slot:"):
            return self.column(name[5:])
        if name.startswith("input:"):
            return self.given(name[6:])
        if name.startswith("host:"):
            return self.scalar(name[5:])
        value = self.values[name]
        if not isinstance(value, Held):
            return value
        return present(self.column(value.slot), value.absent)

    def given(self, name: str) -> Any:
        """An array that the loop supplies."""
        if name not in self.inputs:
            raise RuntimeError(f"the rule reads `{name}`: give it by optimizer.supply({name}=...)")
        return self.inputs[name]

    def places(self, source: str) -> int:
        """How many places an axis has: one of the loop's answers, or `input:NAME:PLACE`."""
        if not source.startswith("input:"):
            if source not in self.sizes:
                raise self.unused.get(source) or KeyError(source)
            return self.sizes[source]
        _, name, place = source.split(":")
        return int(self.given(name).shape[int(place)])

    def scalar(self, name: str) -> Any:
        """A scalar of the host as a value: of the model, of each group, or of each tensor."""
        place, _, domain = name.partition("@")
        at = int(place.rstrip("#"))
        if domain:
            return [double(self.rows[i][at]) for i in self.members[domain]]
        values = [double(row[at]) for row in self.group_rows]
        return values if place.endswith("#") else values[0]

    def column(self, slot: str) -> Any:
        """What a slot holds; of `PATH@DOMAIN` the tensors of that domain."""
        kept, format = self.kept(slot), self.spec(slot).format
        if not format.block:
            return kept
        sizes = self.kept(sizes_of(slot))
        return [
            None if c is None else int8.decode(c, s, format)
            for c, s in zip(kept, sizes, strict=True)
        ]

    def kept(self, slot: str) -> Any:
        """The tensors in which a slot is kept between steps: those of int8 are codes."""
        if slot not in self.slots:
            base, _, domain = slot.partition("@")
            whole, places = self.slots[base], self.members[self.program.slots[base].domain]
            at = {i: k for k, i in enumerate(places)}
            self.slots[slot] = [whole[at[i]] for i in self.members[domain]]
        return self.slots[slot]

    def spec(self, slot: str) -> Any:
        return self.program.slots[slot.partition("@")[0]]

    def keep(self, slot: str, values: list[Any]) -> Any:
        """Write a column in place, in the form in which the slot is kept; returns what it holds."""
        kept, format = self.kept(slot), self.spec(slot).format
        absent = [k for k, value in enumerate(values) if value is None]
        if not format.block:
            return present(write(kept, values, self.held), absent)
        for value, codes, sizes in zip(values, kept, self.kept(sizes_of(slot)), strict=True):
            if value is None:
                continue
            new = (codes, sizes) if self.held is None else (codes.clone(), sizes.clone())
            int8.encode(torch.as_tensor(value), *new, format)
            if self.held is not None:
                write([codes, sizes], [*new], self.held)
        return Held(slot, tuple(absent))

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

    def place(self, i: int) -> tuple[int, int]:
        """Of a tensor, the first cell that is held here, and how many the whole one has."""
        return self.shards.place(i) if self.shards else (0, self.tensors[i].numel())

    def size(self, spec: Any) -> int:
        """The number of places of an axis: a number, one of the host's, or an input's."""
        if not isinstance(spec, tuple):
            return int(spec)
        what, source = spec
        return self.places(source) if what == "places" else int(self.group_rows[0][source])


@dataclass(frozen=True)
class Held:
    """A value between phases that is what a slot now holds; it is read where it is needed.

    Where the value was absent nothing was written, and it stays absent for who reads it.
    """

    slot: str
    absent: tuple[int, ...] = ()


def present(column: list[Any], absent: Sequence[int]) -> list[Any]:
    """A column without the tensors at the places `absent`."""
    gone = set(absent)
    return [None if k in gone else x for k, x in enumerate(column)] if gone else column


def working(x: Tensor) -> Tensor:
    """A tensor in the type in which it is computed with."""
    return x.float() if x.dtype in LOW else x


def working_type(x: Tensor) -> torch.dtype:
    """The type in which a tensor is computed with."""
    return torch.float32 if x.dtype in LOW else x.dtype


def truth(value: Any) -> bool:
    return any(bool(v) for v in value) if isinstance(value, list) else bool(value)


def number(x: Any) -> Any:
    """A host scalar as torch takes it: a truth value must be a tensor."""
    return torch.full((), x) if isinstance(x, bool) else x


def double(x: Any) -> Tensor:
    """A value in double; a plain number is filled in, as a copy to a device would be waited for."""
    if isinstance(x, Tensor):
        return x.double() if x.is_floating_point() else x
    return torch.full((), x, dtype=torch.bool if isinstance(x, bool) else torch.float64)


def stored(value: Any, old: Tensor) -> Tensor:
    """A result in the type and shape that its slot keeps."""
    value = value if isinstance(value, Tensor) else torch.as_tensor(value)
    return (
        value.to(old.dtype).expand(old.shape).contiguous()
        if value.shape != old.shape
        else value.to(old.dtype)
    )


def write(slot: list[Tensor], values: list[Any], held: Tensor | None = None) -> list[Tensor]:
    """Write a column in place, in one call; absent values write nothing, nor does any if `held`."""
    olds, news = [], []
    for old, value in zip(slot, values, strict=True):
        if value is None or value is old:
            continue
        if held is not None:
            value = torch.where(held[0] != 0, old, value).to(old.dtype)
        if not isinstance(value, Tensor):
            old.fill_(value)
        elif value.shape != old.shape:
            old.copy_(value)
        else:
            olds.append(old)
            news.append(value)
    if olds:
        torch._foreach_copy_(olds, news)
    return slot


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
