"""Element-wise phases as Triton kernels: one launch a phase and signature, tables on the device.

What lies on the device is written there again only when it has changed: addresses when a tensor
moved, chunks when another set of tensors takes part, scalars when a value is another. Nothing is
read back, so a step does not wait for the device, and a CUDA graph can hold it (`capture.py`):
memory keeps its place, and under capture nothing is copied. Triton is imported when the first
kernel is built; it compiles for the device at hand and keeps what it has built on disk. With
TRITON_INTERPRET=1 the same kernels run on tensors of the CPU, which is how they are tested; no GPU
was at hand, so launches on a device, their speed and capture are untested.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import linecache
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..compiler.program import Compute, Program
from .capture import capturing
from .launch import OPERATIONS, REACHES, Reduction, check_slots
from .table import Table
from .tensors import pinned, staged

CHUNK = 16384
"""Elements of a chunk, as in args.h."""
BLOCK = 1024
WARPS = 4
"""8 elements a thread: a whole vector of 128 bits for 16-bit types, two for float32."""


def available() -> bool:
    """Whether Triton is installed."""
    return importlib.util.find_spec("triton") is not None


def interpreted() -> bool:
    """Whether kernels run on the CPU, in Triton's interpreter."""
    import triton

    return bool(triton.knobs.runtime.interpret)


class Triton:
    """The printer of one device; what `c.C` is for the CPU."""

    language = "triton"

    def __init__(self, device: torch.device):
        self.device = device

    def launch(
        self,
        phase: Compute,
        signature: tuple[str, ...],
        program: Program,
        table: Table,
        **values: Any,
    ) -> Launch:
        text = program.kernel_text(phase, signature, self.language)
        draws = any(port.how == "draw" for port in phase.inputs)
        return Launch(build(text, phase.name), table, draws=draws, **values)

    def ahead(self, wanted: Sequence[tuple[Compute, tuple[str, ...]]], program: Program) -> None:
        """Nothing: Triton compiles what is launched."""


@functools.cache
def build(source: str, name: str) -> Any:
    """The kernel of a printed phase, under a name that profilers show."""
    import triton
    import triton.language as tl

    from . import triton_formats, triton_math, triton_random

    shown = "optc_phase_" + re.sub(r"\W", "_", name, flags=re.ASCII)
    text = source.replace("def phase(", f"def {shown}(", 1)
    # Triton asks for the text of the function: it has one without being a file.
    file = f"<optc {hashlib.sha256(text.encode()).hexdigest()[:16]}>"
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    known = {**vars(triton_math), **vars(triton_random), **vars(triton_formats)}
    names = {k: v for k, v in known.items() if k.startswith("optc_")}
    scope: dict[str, Any] = {"__name__": __name__, "triton": triton, "tl": tl, **names}
    exec(compile(text, file, "exec", dont_inherit=True), scope)
    return scope[shown]


class Mirror:
    """A table of the host as it lies on the device."""

    def __init__(self, device: torch.device, what: str = ""):
        self.device, self.what = device, what
        self.known: Tensor | None = None
        self.there: Tensor | None = None

    def of(self, here: Tensor) -> Tensor:
        """The table on the device, copied there if it has changed; its memory keeps its place."""
        bits = here.view(torch.int64) if here.dtype == torch.float64 else here
        if self.there is None or self.known is None:
            self.known, self.there = bits.clone(), staged(here, self.device)
        elif not torch.equal(self.known, bits):
            if capturing(self.device):
                return self._unchanged()
            self.known = bits.clone()
            self.there.copy_(pinned(here, self.device), non_blocking=True)
        return self.there

    def _unchanged(self) -> Tensor:
        """Under capture: a table has to be right already, scalars are written before a replay."""
        if self.what:
            raise RuntimeError(f"{self.what} since the last step: a graph cannot follow it")
        assert self.there is not None
        return self.there


class Launch:
    """One phase over one table on a device; made once, run each step. See `launch.Launch`."""

    def __init__(
        self,
        kernel: Any,
        table: Table,
        *,
        draws: bool = False,
        host: Tensor,
        host_row: Sequence[int],
        group_of_row: Sequence[int],
        tensor_values: Tensor,
        group_values: Tensor,
        model_values: Tensor,
        reductions: Sequence[Reduction] = (),
        seed: int = 0,
    ) -> None:
        check_slots(reductions, table.rows, tensor_values, group_values, model_values)
        self.kernel, self.table, self.host = kernel, table, host
        self.reductions, self.seed, self.draws = tuple(reductions), seed, draws
        self.values = (tensor_values, group_values, model_values)
        self.device = table.device
        made = functools.partial(torch.tensor, device=self.device)
        self.rows_of = made(list(host_row)), made(list(group_of_row))
        self.cell_offset = table.cell_offset.to(self.device)
        self.ends = made(
            [
                [OPERATIONS.index(r.operation), REACHES.index(r.reach), r.slot]
                for r in self.reductions
            ]
            or [[0, 0, 0]]
        )
        self.partials = torch.zeros(1, dtype=torch.float64, device=self.device)
        self.free = torch.zeros(1, dtype=torch.int32, device=self.device)
        self.addr = Mirror(self.device, "a tensor has moved")
        self.scalars = Mirror(self.device)
        self.counters = Mirror(self.device)
        self.cuts = -1

    def run(self, *, call: int = 0, first: bool = True, held: Tensor | None = None) -> None:
        """Run every chunk, then finish the reductions.

        `first=False` goes on with the group and model values that another table has begun. Where
        `held` is not 0 no slot is written.
        """
        table = self.table
        if not table.ready:
            raise RuntimeError("the table holds no gradients: refresh it before each launch")
        if table.eager and capturing(self.device):
            name = table.names[table.eager[0]]
            raise RuntimeError(f"{name} needs torch operations: a graph would repeat their scalars")
        with on(self.device):
            self._cut()
            if table.chunks:
                self._run(call, self.free if held is None else held)
            if self.reductions:
                self._finish(first)

    def _cut(self) -> None:
        """Chunks on the device, where another set of tensors takes part than before."""
        table = self.table
        if self.cuts == table.cuts:
            return
        if capturing(self.device):
            raise RuntimeError("another set of tensors takes part: a graph cannot follow it")
        self.cuts = table.cuts
        rows = table.chunk_row[: table.chunks].contiguous()
        begin = torch.searchsorted(rows, torch.arange(table.rows + 1, device="cpu"))
        self.cut = [
            staged(x, self.device)
            for x in (table.numel, rows, table.chunk_start[: table.chunks], begin)
        ]
        if len(self.reductions) * table.chunks > len(self.partials):
            size = len(self.reductions) * table.chunks
            self.partials = torch.zeros(size, dtype=torch.float64, device=self.device)

    def _run(self, call: int, held: Tensor) -> None:
        numel, chunk_row, chunk_start, _ = self.cut
        tensor_values, group_values, model_values = self.values
        host_row, group_of_row = self.rows_of
        self.kernel[(self.table.chunks,)](
            self.addr.of(self.table.addr),
            numel,
            chunk_row,
            chunk_start,
            host_row,
            self.scalars.of(self.host),
            tensor_values,
            group_values,
            group_of_row,
            model_values,
            self.partials,
            self.cell_offset,
            self.counters.of(self._counters(call)),
            held,
            self.table.rows,
            group_values.shape[1],
            self.host.shape[1],
            BLOCK=BLOCK,
            CHUNK=CHUNK,
            num_warps=WARPS,
            enable_fp_fusion=False,
        )

    def _counters(self, call: int) -> Tensor:
        words = [signed(self.seed), signed(call)] if self.draws else [0, 0]
        return torch.tensor(words, device="cpu")

    def write(self, call: int) -> None:
        """The scalars of the step that comes, for kernels that a graph launches."""
        self.scalars.of(self.host)
        self.counters.of(self._counters(call))

    def _finish(self, first: bool) -> None:
        from .triton_reduction import finish

        _, chunk_row, _, row_begin = self.cut
        tensor_values, group_values, model_values = self.values
        rows, groups = self.table.rows, group_values.shape[1]
        places = {"tensor": rows, "group": groups, "model": 1}
        grid = (max(places[r.reach] for r in self.reductions), len(self.reductions))
        finish[grid](
            self.partials,
            chunk_row,
            row_begin,
            self.rows_of[1],
            tensor_values,
            group_values,
            model_values,
            self.ends,
            rows,
            groups,
            self.table.chunks,
            len(self.reductions),
            int(first),
            BLOCK=BLOCK,
            num_warps=WARPS,
            enable_fp_fusion=False,
        )


def on(device: torch.device) -> Any:
    """Triton launches on the current device."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


def signed(word: int) -> int:
    """64 bits as int64 holds them."""
    word %= 2**64
    return word - 2**64 if word >= 2**63 else word
