"""Element-wise phases as compiled kernels: one call a phase and dtype signature.

Tensors of one signature make a table; a table, its scalars and its values are made once and used at
every step. What a kernel cannot take (overlapping memory, say) is run by the phase's torch graph.
"""

from __future__ import annotations

import ctypes
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from ..compiler import cells
from ..compiler.formats import sizes_of
from ..compiler.program import Compute, Plan, Program
from .batching import ready
from .computing import columns_of
from .frame import Frame, Held, double, mark_took, present, working_type, write
from .launch import Reduction
from .looking import unchanged
from .signatures import foreseen, signature
from .table import Table
from .tensors import staged

FINISH = {"sum": "sum", "max": "max", "min": "min", "any": "max", "all": "min"}


class Kernels:
    """The kernels of one optimizer over one layout of tensors."""

    def __init__(self, layout: Any, printer: Any):
        self.layout, self.printer = layout, printer
        self._live = b""
        self.phases: dict[int, Any] = {}
        self.seen: list[Plan] = []

    def current(self, groups: Any) -> bool:
        """`Layout.current`, by the library that is loaded for the tables anyway."""
        self._live = self._live or bytes(self.layout.live)
        return unchanged([g["params"] for g in groups], self.layout.params, self._live)

    def ahead(self, plan: Plan, frame: Frame) -> None:
        """Have the kernels of a plan built while the phases before them run."""
        if any(plan is p for p in self.seen):
            return
        self.seen.append(plan)
        self.printer.ahead(foreseen(plan, frame), frame.program)

    def run(self, phase: Compute, frame: Frame) -> bool:
        """Run a phase over all tensors of its domain; False where it has to be run otherwise."""
        if frame.functional or phase.coded and self.printer.language != "c":
            return False
        known = self.phases.get(id(phase))
        if known is None or known.phase is not phase or not known.fits(frame):
            known = self.phases[id(phase)] = Prepared(phase, frame, self)
        if not (known.passes_over(frame) and known.draws_in_order(frame)):
            return False
        known.run(frame)
        return True


class Prepared:
    """One phase, prepared: its tables by signature, the values it reads and leaves."""

    def __init__(self, phase: Compute, frame: Frame, kernels: Kernels):
        self.phase, self.index = phase, frame.rows.index
        self.printer, self.device = kernels.printer, kernels.printer.device
        self.members = frame.members[phase.space]
        self.names, self.places = phase.columns()
        self.slots = frame.slots
        self.inputs = {
            how: [p for p in phase.inputs if p.how == how] for how in ("tensor", "group", "host")
        }
        self.inputs["model"] = [p for p in phase.inputs if p.how in ("model", "size")]
        sources = [p.source for p in phase.inputs if p.how == "draw"]
        self.draws = any(not x.startswith("chance") for x in sources)
        self.width = 1 + max((int(p.source) for p in self.inputs["host"]), default=-1)
        self.sums = [o for o in phase.outputs if o.combine]
        count = {
            how: len(self.inputs[how]) + sum(o.how == how for o in self.sums)
            for how in ("tensor", "group", "model")
        }
        groups = len(frame.group_rows)
        self.model = self.zeros(max(1, count["model"]))
        self.group = self.zeros(max(1, count["group"]), groups)
        self.tensor_count = max(1, count["tensor"])
        self.reductions = self._reductions()
        for end in self.reductions:  # what it is where there is no tensor
            values = {"model": self.model, "group": self.group}.get(end.reach)
            if values is not None:
                values[end.slot] = cells.EMPTY.get(end.operation, 0.0)
        self.parts = self._parts(frame, kernels.layout)

    def _reductions(self) -> list[Reduction]:
        at = {how: len(self.inputs[how]) for how in ("tensor", "group", "model")}
        result = []
        for output in self.sums:
            result.append(Reduction(FINISH[output.combine], output.how, at[output.how]))
            at[output.how] += 1
        return result

    def zeros(self, *shape: int) -> Tensor:
        return torch.zeros(*shape, dtype=torch.float64, device=self.device)

    def together(self, values: Any) -> Tensor:
        """Numbers, wherever each of them is, as one tensor where the kernel reads it."""
        if isinstance(values, Tensor):
            return values
        found = [self.near(v) for v in values]
        if any(isinstance(v, Tensor) for v in found):
            return torch.stack([double(v).to(self.device) for v in found])
        whole = torch.tensor(found, dtype=torch.float64, device="cpu")
        return whole if self.device.type == "cpu" else staged(whole, self.device)

    def passes_over(self, frame: Frame) -> bool:
        """Whether each tensor that lacks one of its numbers lacks cells too."""
        numbers = [frame.get(p.source) for p in self.inputs["tensor"]]
        listed = [v for v in numbers if not isinstance(v, Tensor)]
        gone = {k for v in listed for k, x in enumerate(v) if x is None}
        found = [frame.get(p.source) for p in self.phase.inputs if p.how == "cell"] if gone else []
        return all(any(column[k] is None for column in found) for k in gone)

    def draws_in_order(self, frame: Frame) -> bool:
        """Whether the cells lie as they are counted: a kernel draws in the order of memory.

        Rounding by chance may: any draw of it is right.
        """
        tensors = (frame.tensors[i] for i in self.members if self.draws)
        return all(t.is_contiguous() for t in tensors)

    def near(self, value: Any) -> Any:
        """A number that the device takes without waiting: one of its own, or a plain one."""
        if value is None:
            return 0.0  # of a tensor that is passed over
        own = not isinstance(value, Tensor) or value.device == self.device
        return value if own else value.item()

    def fits(self, frame: Frame) -> bool:
        return (
            self.index is frame.rows.index
            and self.slots is frame.slots
            and len(frame.group_rows) == self.group.shape[1]
        )

    def _column(self, name: str, frame: Frame) -> list[Any]:
        """The tensors of a column; what the phase makes itself gets memory."""
        if name.startswith("slot:"):
            return frame.kept(name[5:])
        if name in frame.values:
            return frame.get(name)
        if name.startswith("input:"):  # of any type and layout, and another at the next step
            given = zip(self.members, frame.get(name), strict=True)
            return [_cells(torch.as_tensor(x), frame.tensors[i]) for i, x in given]
        low = any(o.low and o.value == name for o in self.phase.outputs)
        dtypes = {torch.float32: torch.bfloat16} if low else {}
        return [
            torch.empty_like(t, dtype=dtypes.get(w, w), requires_grad=False)
            for t, w in ((frame.tensors[i], working_type(frame.tensors[i])) for i in self.members)
        ]

    def _parts(self, frame: Frame, layout: Any) -> list[Part]:
        columns = {n: self._column(n, frame) for n in self.names}
        kinds: dict[tuple[torch.dtype, ...], list[int]] = {}
        for k, i in enumerate(self.members):
            own = frame.tensors[i].dtype
            key = (own, *(self._dtype(columns[n], k, own, frame) for n in self.names))
            kinds.setdefault(key, []).append(k)
        return [Part(self, key, rows, columns, frame, layout) for key, rows in kinds.items()]

    def _dtype(self, column: list[Any], k: int, own: torch.dtype, frame: Frame) -> torch.dtype:
        """The type of a tensor of a column; of an absent one that of its like."""
        if column[k] is not None:
            return column[k].dtype
        pairs = zip(self.members, column, strict=True)
        likes = (x.dtype for i, x in pairs if x is not None and frame.tensors[i].dtype == own)
        return next(likes, own)

    def run(self, frame: Frame) -> None:
        for place, port in enumerate(self.inputs["model"]):
            known = port.how == "size"
            value = frame.places(port.source) if known else frame.get(port.source)
            self.model[place] = self.near(value)
        for place, port in enumerate(self.inputs["group"]):
            self.group[place] = self.together(list(frame.get(port.source)))
        columns = {n: self._column(n, frame) for n in self.names}
        absent: list[int] = []
        for first, part in enumerate(self.parts):
            absent += part.run(frame, columns, first == 0)
        frame.missed[self.phase.name] = absent
        self._leave(frame, columns, absent)

    def _leave(self, frame: Frame, columns: dict[str, list[Any]], absent: list[int]) -> None:
        """Give the results their names."""
        for output, place in zip(self.phase.outputs, self.places, strict=True):
            if output.combine:
                continue
            coded = self.names[place] in self.phase.coded
            column = present(columns[self.names[place]], absent)
            frame.values[output.value] = Held(output.slot, tuple(absent)) if coded else column
            if output.slot:
                frame.written = True
                if frame.spec(output.slot).kind == "target":
                    mark_took(frame, self.phase.space, absent)
        for reduction, output in zip(self.reductions, self.sums, strict=True):
            if output.how == "model":
                value = self.model[reduction.slot].clone()
            elif output.how == "group":
                value = self.group[reduction.slot].clone()
            else:
                value = self.zeros(len(self.members))
                for part in self.parts:
                    value[part.rows] = part.tensor[reduction.slot]
            value = value > 0 if output.combine in ("any", "all") else value
            gone = absent if output.how == "tensor" else []
            frame.values[output.value] = present(list(value.unbind()), gone) if gone else value


class Part:
    """The tensors of a phase that have one signature: a table and the launch over it."""

    def __init__(
        self,
        whole: Prepared,
        key: tuple[torch.dtype, ...],
        rows: list[int],
        columns: dict[str, list[Any]],
        frame: Frame,
        layout: Any,
    ):
        self.whole, self.rows = whole, torch.tensor(rows, device=whole.device)
        self.everything = rows == list(range(len(whole.members)))
        self.picked = rows
        places = [whole.members[k] for k in rows]
        parameters = [frame.tensors[i] for i in places]
        names = [layout.names[i] or f"parameter {i}" for i in places]
        target = next(
            (n for n in whole.names if n.startswith("slot:") and _is_target(n, frame.program)), ""
        )
        given: list[Any] = [self._pick(columns[n]) for n in whole.names]
        dtypes = list(key[1:])
        self.own = whole.names.index(target) if target else len(given)
        if not target:
            given.append(parameters)
            dtypes.append(key[0])
        fresh = [c for c, n in enumerate(whole.names) if not n.startswith("slot:")]
        self.fresh = fresh
        loose = {sizes_of(n) for n in whole.phase.coded}
        new = {whole.names[p] for p in whole.places if p >= 0}
        new |= {sizes_of(n) for n in new & whole.phase.coded.keys()}
        written = [c for c, n in enumerate(whole.names) if n in new]
        held = [frame.place(i) for i in whole.members]
        start = frame.before.get(whole.phase.space, 0)
        before = accumulate((size for _, size in held), initial=start)
        offsets = [start + first for start, (first, _) in zip(before, held, strict=False)]
        self.table = Table(
            given,
            dtypes,
            device=whole.device,
            parameter=self.own,
            fresh=fresh,
            written=written,
            loose=[c for c, n in enumerate(whole.names) if n in loose],
            names=names,
            cell_offset=[offsets[k] for k in rows],
        )
        shape = max(1, len(frame.rows.distinct)), max(1, whole.width)
        # Memory of Python's, which a tensor shows: making a tensor each step costs microseconds.
        self._host = (ctypes.c_double * (shape[0] * shape[1]))()
        self.host = torch.frombuffer(self._host, dtype=torch.float64).view(shape)
        self.tensor = whole.zeros(whole.tensor_count, len(rows))
        self.launch = whole.printer.launch(
            whole.phase,
            signature(key),
            frame.program,
            self.table,
            host=self.host,
            host_row=[frame.rows.index[i] for i in places],
            group_of_row=[frame.groups[i] for i in places],
            tensor_values=self.tensor,
            group_values=whole.group,
            model_values=whole.model,
            reductions=whole.reductions,
            seed=frame.seed,
        )

    def _pick(self, column: list[Any]) -> list[Any]:
        return column if self.everything else [column[k] for k in self.picked]

    def run(self, frame: Frame, columns: dict[str, list[Any]], first: bool) -> list[int]:
        """Run the kernel; returns the places whose tensors are absent."""
        whole, table = self.whole, self.table
        for place, port in enumerate(whole.inputs["tensor"]):
            self.tensor[place] = whole.together(frame.get(port.source))[self.rows]
        self.scalars(frame.rows)
        # without a column of its own too: a parameter may have been given other memory
        table.refresh({c: self._pick(columns[whole.names[c]]) for c in self.fresh})
        held = {} if frame.held is None else {"held": frame.held}
        self.launch.run(call=frame.call, first=first, **held)
        for row in table.eager:
            self._eagerly(row, frame, columns)
        absent = self.absent()
        table.release()
        return absent

    def absent(self) -> list[int]:
        """The places whose tensors are absent."""
        return [self.picked[row] for row in self.table.absent]

    def scalars(self, rows: Any) -> None:
        """Keep what the host computed for the step that comes."""
        if width := self.whole.width:
            self._host[:] = [x for row in rows.distinct for x in row[:width]]

    def _eagerly(self, row: int, frame: Frame, columns: dict[str, list[Any]]) -> None:
        """One tensor through the phase's torch graph."""
        whole = self.whole
        k = self.picked[row]
        i = whole.members[k]
        arguments = [
            ready(p, c(k, i))
            for p, c in zip(whole.phase.inputs, columns_of(whole.phase, frame), strict=True)
        ]
        results = whole.phase.module.forward(*arguments)
        sums = iter(whole.reductions)
        for output, place, result in zip(whole.phase.outputs, whole.places, results, strict=True):
            if not output.combine:
                name = whole.names[place]
                if name in whole.phase.coded:
                    only = [result if at == k else None for at in range(len(whole.members))]
                    frame.keep(name[5:], only)
                else:
                    write([columns[name][k]], [result], frame.held)
                continue
            end = next(sums)
            target = {
                "model": lambda e=end: whole.model[e.slot],
                "tensor": lambda e=end: self.tensor[e.slot, row],
                "group": lambda e=end: whole.group[e.slot, frame.groups[i]],
            }[output.how]()
            target.copy_(cells.combine(end.operation, [target, torch.as_tensor(result).double()]))


def _cells(x: Tensor, like: Tensor) -> Tensor:
    """A value for each cell of a tensor, as a kernel reads it."""
    return x.to(like.device, working_type(like)).expand_as(like).contiguous()


def _is_target(name: str, program: Program) -> bool:
    return program.slots[name[5:].partition("@")[0]].kind == "target"
