"""Runs a compiled phase over a table: arguments, threads, the ends of reductions.

A phase is `void phase(const optc_args *a, int64_t begin, int64_t end)`; `args.h` holds the struct
and stands, with the mathematics, before every emitted source (`native.header()`). It runs chunks
begin..end-1, in any order and on any thread:

    for (int64_t chunk = begin; chunk < end; chunk++) {
        const int64_t r = a->chunk_row[chunk], start = a->chunk_start[chunk];
        const int64_t n = optc_length(a, chunk);              // at most OPTC_CHUNK
        const double *host = a->host + a->host_row[r] * a->host_stride;
        float *restrict p = (float *)a->addr[0 * a->rows + r] + start;
        const float *restrict g = (const float *)a->addr[1 * a->rows + r] + start;
        double sum[OPTC_LANES] = {0};                         // element i goes to lane i % 16
        ...
        a->partials[chunk * a->reductions + 0] = optc_lanes_sum(sum);
    }

What a phase may rely on: columns of a row do not overlap, unless a rule writes a column that it
reads through the same pointer; element alignment and no more; `r` is ascending over the chunks.
Reductions are finished here in a fixed order, so a result has the same bits for any number of
threads. The random cell of element i is `a->cell_offset[r] + start + i`, in the order of memory.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from . import native
from .looking import source
from .table import Table

OPERATIONS = ("sum", "max", "min")
REACHES = ("tensor", "group", "model")

_pid = os.getpid()


class Args(ctypes.Structure):
    """`optc_args` of args.h."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("addr", "numel", "chunk_row", "chunk_start")),
        *((name, ctypes.c_int64) for name in ("chunks", "rows")),
        *((name, ctypes.c_void_p) for name in ("host_row", "host")),
        ("host_stride", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("tensor_values", "group_values", "group_of_row")),
        ("groups", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("model_values", "partials")),
        ("reductions", ctypes.c_int64),
        *((name, ctypes.c_uint64) for name in ("seed", "call")),
        ("cell_offset", ctypes.c_void_p),
    ]


@dataclass(frozen=True)
class Reduction:
    """Where the partials of one reduction end: an operation, a reach, a slot of its values."""

    operation: str
    reach: str
    slot: int = 0


class Launch:
    """One phase over one table, with everything it is called with; made once, run each step.

    `host` is a float64 tensor [host rows, scalars], written in place between runs. The values are
    float64 tensors: tensor_values [slots, rows], group_values [slots, groups], model_values
    [slots]; group and model values may be shared by the launches of several tables.
    """

    def __init__(
        self,
        phase: Any,
        table: Table,
        *,
        host: Tensor | None = None,
        host_row: Sequence[int] | None = None,
        group_of_row: Sequence[int] | None = None,
        tensor_values: Tensor | None = None,
        group_values: Tensor | None = None,
        model_values: Tensor | None = None,
        reductions: Sequence[Reduction] = (),
        seed: int = 0,
    ) -> None:
        self.table, self.host, self.reductions = table, host, tuple(reductions)
        self.tensor_values, self.group_values = tensor_values, group_values
        self.model_values = model_values
        self._phase = ctypes.cast(phase, ctypes.c_void_p)
        self._partials = torch.zeros(0, dtype=torch.float64, device="cpu")
        self._cuts = -1
        self._host_row = _indexes(host_row, table.rows, 1 if host is None else len(host))
        groups = 1 if group_values is None else group_values.shape[1]
        self._group_of_row = _indexes(group_of_row, table.rows, groups)
        check_slots(self.reductions, table.rows, tensor_values, group_values, model_values)
        self._ends = [
            (ctypes.c_int32 * len(self.reductions))(*column)
            for column in (
                [OPERATIONS.index(one.operation) for one in self.reductions],
                [REACHES.index(one.reach) for one in self.reductions],
                [one.slot for one in self.reductions],
            )
        ]
        self._args = Args(
            addr=table.addr.data_ptr(),
            numel=table.numel.data_ptr(),
            rows=table.rows,
            host_row=ctypes.addressof(self._host_row),
            host=_place(host),
            host_stride=0 if host is None else host.shape[1],
            tensor_values=_place(tensor_values),
            group_values=_place(group_values),
            group_of_row=ctypes.addressof(self._group_of_row),
            groups=groups,
            model_values=_place(model_values),
            reductions=len(self.reductions),
            seed=seed % 2**64,
            cell_offset=table.cell_offset.data_ptr(),
        )

    def run(self, *, call: int = 0, first: bool = True, threads: int | None = None) -> None:
        """Run every chunk, then finish the reductions.

        `first=False` goes on with the group and model values that another table has begun.
        """
        table, args, library = self.table, self._args, _library()
        if not table.ready:
            raise RuntimeError("the table holds no gradients: refresh it before each launch")
        if self._cuts != table.cuts:
            self._follow(table.cuts)
        args.call = call % 2**64
        place, loop = ctypes.addressof(args), parallel_loop()
        threads = thread_count() if threads is None else threads
        if library.optc_launch(loop, self._phase, place, threads) != 0:
            raise RuntimeError("torch's parallel loop failed")
        if self.reductions:
            library.optc_finish(place, *map(ctypes.addressof, self._ends), first)

    def _follow(self, cuts: int) -> None:
        """The chunks of the table are others, or lie elsewhere."""
        table, args, self._cuts = self.table, self._args, cuts
        args.chunk_row = table.chunk_row.data_ptr()
        args.chunk_start = table.chunk_start.data_ptr()
        args.chunks = table.chunks
        size = len(self.reductions) * table.chunks
        if size > len(self._partials):
            self._partials = torch.zeros(size, dtype=torch.float64, device="cpu")
        args.partials = self._partials.data_ptr()


def check_slots(
    reductions: Sequence[Reduction],
    rows: int,
    tensor_values: Tensor | None,
    group_values: Tensor | None,
    model_values: Tensor | None,
) -> None:
    """What a kernel would read beyond its end."""
    sizes = {
        "tensor": 0 if tensor_values is None else len(tensor_values),
        "group": 0 if group_values is None else len(group_values),
        "model": 0 if model_values is None else len(model_values),
    }
    for one in reductions:
        if not 0 <= one.slot < sizes[one.reach]:
            raise ValueError(f"{one} has no slot: there are {sizes[one.reach]}")
    if tensor_values is not None and tensor_values.shape[1] != rows:
        raise ValueError(f"tensor_values must be [slots, {rows}]")


def launch(phase: Any, table: Table, *, call: int = 0, **options) -> Launch:
    """Run a phase once; the options are those of Launch."""
    prepared = Launch(phase, table, **options)
    prepared.run(call=call)
    return prepared


def thread_count() -> int:
    """As torch is set; one in a forked child, where the threads of the parent are missing."""
    return torch.get_num_threads() if os.getpid() == _pid else 1


@functools.cache
def parallel_loop() -> int | None:
    """The address of torch's own parallel loop; None where torch does not export it."""
    folder = os.path.join(os.path.dirname(torch.__file__), "lib")
    for name in ("libtorch_cpu.so", "libtorch_cpu.dylib"):
        try:
            found = ctypes.CDLL(os.path.join(folder, name)).torch_parallel_for
        except (OSError, AttributeError):
            continue
        return ctypes.cast(found, ctypes.c_void_p).value
    return None


def increment_version(tensors: Iterable[Tensor]) -> None:
    """Tell autograd that the tensors were written: a stale graph raises instead of lying."""
    torch.autograd.graph.increment_version(tensors)


def _indexes(given: Sequence[int] | None, rows: int, limit: int) -> ctypes.Array:
    found = [0] * rows if given is None else list(given)
    if len(found) != rows or not all(0 <= index < limit for index in found):
        raise ValueError(f"one index below {limit} is needed for each of {rows} rows")
    return (ctypes.c_int32 * rows)(*found)


def _place(values: Tensor | None) -> int | None:
    """The address of values that C reads as doubles."""
    if values is None:
        return None
    if values.dtype != torch.float64 or not values.is_contiguous() or values.device.type != "cpu":
        raise ValueError("values and scalars are contiguous float64 tensors on the CPU")
    return values.data_ptr()


@functools.cache
def _library() -> ctypes.CDLL:
    """Loaded so that the GIL is free while a phase runs."""
    library = native.load(source())
    pointer, integer = ctypes.c_void_p, ctypes.c_int64
    library.optc_launch.argtypes = [pointer, pointer, pointer, integer]
    library.optc_launch.restype = ctypes.c_int32
    library.optc_finish.argtypes = [pointer] * 4 + [ctypes.c_int32]
    library.optc_finish.restype = None
    return library
