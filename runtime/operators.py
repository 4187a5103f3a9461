"""Element-wise phases as registered torch operators, so that traced code can call their kernels.

Only code under torch.compile or export takes this road: an eager step calls the kernels directly,
without the dispatcher. An operator writes its slots in place and says so in its schema; what the
phase makes besides goes into columns that the caller brings, since no list may be returned.

    update = operator(phase, program)
    sums = update(columns, host=rows, row=[0, 0], values=[])
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from itertools import chain
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from ..compiler.program import Compute, Program
from . import native
from .c import C
from .computing import compute
from .frame import Frame, write
from .kernels import Kernels
from .layout import Rows

NAMESPACE = __name__.partition(".")[0]
"""Standalone modules have runtimes of their own, and so operators of their own."""

_library = torch.library.Library(NAMESPACE, "FRAGMENT")
_known: dict[str, Any] = {}

COARSE = ("tensor", "group", "model")


def operator(phase: Compute, program: Program) -> PhaseOperator:
    """The operator of an element-wise phase; registered when it is first asked for."""
    assert phase.mode == "kernel" and phase.space
    return PhaseOperator(phase, program)


class PhaseOperator:
    """Calls a phase's operator. `columns` names the lists of tensors that it takes, in order."""

    def __init__(self, phase: Compute, program: Program):
        self.phase = phase
        self.columns, places = phase.columns()
        self.written = sorted({p for p in places if p >= 0})
        self.values = [p.source for p in phase.inputs if p.how in COARSE]
        self.sums = [o for o in phase.outputs if o.combine]
        content = repr((phase.inputs, phase.outputs, phase.space, _text(phase)))
        digest = hashlib.sha256(content.encode()).hexdigest()[:16]
        name = re.sub(r"\W", "_", f"{phase.name}_{digest}", flags=re.ASCII)
        if name not in _known:
            _known[name] = _register(name, self, program)
        self.overload = _known[name]

    def schema(self, name: str) -> str:
        """What the operator takes, what it writes, what it returns."""
        columns = [
            f"Tensor(a{k}!)[] c{k}" if k in self.written else f"Tensor[] c{k}"
            for k in range(len(self.columns))
        ]
        rest = ["Tensor host", "int[] row", "int[] group", "Tensor[] values", "int seed, int call"]
        return f"{name}({', '.join(columns + rest)}) -> ({', '.join('Tensor' for _ in self.sums)})"

    def __call__(
        self,
        columns: Sequence[list[Tensor]],
        *,
        host: Tensor,
        row: list[int],
        group: list[int] | None = None,
        values: Sequence[Tensor] = (),
        seed: int = 0,
        call: int = 1,
    ) -> list[Tensor]:
        """Run the phase: `host[row[i]]` are the scalars of tensor i; returns the reductions."""
        groups = row if group is None else group
        found = self.overload(*columns, host, row, groups, list(values), seed, call)
        return [found] if isinstance(found, Tensor) else list(found or ())


def _text(phase: Compute) -> str:
    graph = getattr(phase.module, "code", None)
    return str(graph if graph is not None else phase.sources.get(("c",)))


def _register(name: str, own: PhaseOperator, program: Program) -> Any:
    _library.define(own.schema(name))
    count = len(own.columns)

    def run(*args: Any) -> Any:
        return _run(own, program, list(args[:count]), *args[count:])

    def fake(*args: Any) -> Any:
        return _shaped([_empty(o, args[0], args[count + 2]) for o in own.sums])

    _library.impl(name, run, "CompositeExplicitAutograd")
    torch.library.register_fake(f"{NAMESPACE}::{name}", fake, lib=_library)
    return getattr(getattr(torch.ops, NAMESPACE), name).default


def _shaped(results: list[Tensor]) -> Any:
    return None if not results else results[0] if len(results) == 1 else tuple(results)


def _empty(output: Any, tensors: list[Tensor], group: list[int]) -> Tensor:
    """What a reduction returns, without its value."""
    size = {"tensor": [len(tensors)], "group": [max(group, default=0) + 1], "model": []}
    kind = torch.bool if output.combine in ("any", "all") else torch.float64
    return torch.empty(size[output.how], dtype=kind)


def _run(
    own: PhaseOperator,
    program: Program,
    columns: list[list[Tensor]],
    host: Tensor,
    row: list[int],
    group: list[int],
    values: list[Tensor],
    seed: int,
    call: int,
) -> Any:
    """The phase over the tensors at hand, by its kernel where there is a compiler."""
    phase, count = own.phase, len(row)
    named = dict(zip(own.columns, columns, strict=True))
    slots = {n[5:]: c for n, c in named.items() if n.startswith("slot:")}
    rows = Rows([tuple(r) for r in host.tolist()], list(row))
    given: dict[str, Any] = {n: c for n, c in named.items() if not n.startswith("slot:")}
    given.update(zip(own.values, values, strict=True))
    tensors = next((c for n, c in named.items() if n in _cells(phase)), columns[0])
    with torch.no_grad():
        frame = Frame(
            program,
            list(tensors),
            {phase.space: list(range(count))},
            list(group),
            slots,
            rows,
            [()] * (max(group, default=0) + 1),
            None,
            None,
            call,
            seed,
            values=given,
        )
        if native.compiler() is not None and all(t.device.type == "cpu" for t in tensors):
            frame.kernels = Kernels(SimpleNamespace(names=[""] * count, params=tensors), C())
        compute(phase, frame)
        _leave(own, frame, named)
        torch.autograd.graph.increment_version(chain.from_iterable(columns[k] for k in own.written))
    return _shaped([_one(frame.values[o.value]) for o in own.sums])


def _cells(phase: Compute) -> set[str]:
    return {p.source for p in phase.inputs if p.how == "cell"}


def _leave(own: PhaseOperator, frame: Frame, named: dict[str, list[Tensor]]) -> None:
    """What was made in memory of its own goes into the caller's columns."""
    for output in own.phase.outputs:
        if not output.combine and not output.slot:
            write(named[output.value], frame.values[output.value])


def _one(value: Any) -> Tensor:
    return torch.stack(value) if isinstance(value, list) else value
