"""A kernel with the same streams: reads and writes what a rule does, and computes next to nothing.

Each element-wise phase of a step becomes one pass over long buffers, a column for each value that
the phase reads or writes for each cell, as wide as it is kept. What a step takes beyond that is
arithmetic, or the price of having many tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
C_TYPES = {1: "uint8_t", 2: "uint16_t", 4: "uint32_t", 8: "uint64_t"}


@dataclass(frozen=True)
class Pass:
    """Columns by name, with the bytes of a cell: those that are read, those that are written."""

    space: str
    reads: dict[str, float]
    writes: dict[str, float]


def passes(optimizer: Any) -> list[Pass]:
    """The passes of a step that is element-wise."""
    from optc.compiler.emit.traffic import widths
    from optc.compiler.program import Compute

    plan = next(reversed(optimizer._plans.values()))
    width = widths(optimizer.program, plan)
    found = []
    for phase in plan.phases:
        if not isinstance(phase, Compute):
            continue
        reads = {p.source: width(p.source) for p in phase.inputs if p.how == "cell"}
        written = [o for o in phase.outputs if o.how == "cell" and not o.combine]
        names = [f"slot:{o.slot}" if o.slot else o.value for o in written]
        writes = {name: width(name) for name in names}
        if reads or writes:
            found.append(Pass(phase.space, reads, writes))
    return found


def roof(optimizer: Any, device: str) -> Callable[[], Any] | None:
    """Runs the passes; None where a column is stored in blocks, or nothing compiles here."""
    todo = passes(optimizer)
    widths = {w for one in todo for w in (*one.reads.values(), *one.writes.values())}
    if not todo or not widths <= set(INTEGERS):
        return None
    buffers: dict[tuple[str, str], Tensor] = {}
    layout = optimizer._layout
    for one in todo:
        size = sum(layout.params[i].numel() for i in layout.members.get(one.space, ()))
        for name, width in {**one.reads, **one.writes}.items():
            if (one.space, name) not in buffers:
                cells = torch.zeros(size, dtype=INTEGERS[int(width)], device=device)
                buffers[one.space, name] = cells
    make = _inductor if device.startswith("cuda") else _c
    steps = [make(one, {n: b for (s, n), b in buffers.items() if s == one.space}) for one in todo]
    if None in steps:
        return None
    return lambda: [step() for step in steps if step is not None]


def _c(one: Pass, buffers: dict[str, Tensor]) -> Callable[[], Any] | None:
    """The pass in C, on the threads and in the chunks that emitted phases have."""
    from optc.runtime import launch, native
    from optc.runtime.table import Table

    if native.compiler() is None:
        return None
    names = list({**one.reads, **one.writes})
    columns = [[buffers[name]] for name in names]
    types = [column[0].dtype for column in columns]
    library = native.load(native.header() + source(one))
    table = Table(columns, types, fresh=())
    return launch.Launch(library.streams, table).run


def source(one: Pass) -> str:
    """A sum of all that is read, written to all that is written."""
    widths = {**one.reads, **one.writes}
    lines = []
    for i, (name, width) in enumerate(widths.items()):
        kind = f"{'' if name in one.writes else 'const '}{C_TYPES[int(width)]} *restrict"
        lines.append(f"{kind} c{i} = ({kind})a->addr[{i} * a->rows + r] + start;")
    names = list(widths)
    total = " + ".join(f"(uint32_t)c{names.index(name)}[i]" for name in one.reads) or "0"
    stores = [
        f"c{names.index(name)}[i] = ({C_TYPES[int(width)]})x;" for name, width in one.writes.items()
    ]
    inner = " ".join(stores) or "kept += x;"
    columns = "\n        ".join(lines)
    return f"""
void streams(const optc_args *a, int64_t begin, int64_t end)
{{
    for (int64_t chunk = begin; chunk < end; chunk++) {{
        const int64_t r = a->chunk_row[chunk], start = a->chunk_start[chunk];
        const int64_t n = optc_length(a, chunk);
        uint32_t kept = 0;
        {columns}
        for (int64_t i = 0; i < n; i++) {{ const uint32_t x = {total}; {inner} }}
        __asm__ volatile("" : : "r"(kept));  /* a sum that nobody reads would not be computed */
    }}
}}
"""


def _inductor(one: Pass, buffers: dict[str, Tensor]) -> Callable[[], Any]:
    """The pass as the kernel that torch.compile makes of it."""
    reads, writes = [buffers[n] for n in one.reads], [buffers[n] for n in one.writes]

    nothing = torch.zeros((), dtype=torch.int32, device=next(iter(buffers.values())).device)

    @torch.compile
    def run() -> Tensor | None:
        total = sum((r.to(torch.int32) for r in reads), start=nothing)
        for w in writes:
            w.copy_(total)
        return None if writes else total.sum()

    return run
