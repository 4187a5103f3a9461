"""Prints an element-wise phase as Triton over a pointer table.

One program runs one chunk of one tensor, so a phase is one launch whatever the number of tensors.
Whole blocks of a chunk whose addresses are all aligned take a loop without masks, whose loads and
stores are 128 bits wide; the rest, and tensors that begin at odd places, take a masked loop that
promises no more than the alignment of an element. Sums run in one double a lane of the block and
are folded to one partial a chunk; `finish` in runtime/triton_reduction.py adds the chunks.
"""

from __future__ import annotations

import math
from typing import Any

from ..ops import Op
from ..program import Compute
from .element import Printer

_START = {"sum": "0.0", "max": "float('-inf')", "min": "float('inf')"}
_ADD = {"sum": "({0} + {1})", "max": "optc_max({0}, {1})", "min": "optc_min({0}, {1})"}
_FOLD = {
    "sum": "tl.sum({0}, 0)",
    "max": "tl.reduce({0}, 0, optc_max)",
    "min": "tl.reduce({0}, 0, optc_min)",
}
_VALUE = {
    "host": "tl.load(host + tl.load(host_row + r) * width + {0})",
    "tensor": "tl.load(tensor_values + {0} * rows + r)",
    "group": "tl.load(group_values + {0} * groups + tl.load(group_of_row + r))",
    "model": "tl.load(model_values + {0})",
}
PARAMETERS = (
    *("addr", "numel", "chunk_row", "chunk_start", "host_row", "host"),
    *("tensor_values", "group_values", "group_of_row", "model_values", "partials"),
    *("cell_offset", "counters", "held"),
)
SIZES = ("rows", "groups", "width")
"""What a kernel is called with: tables on the device, then numbers that make no new version."""


class TritonPrinter(Printer):
    """Triton. A line of the body has a place {p} for the letter of its pointers, and {m} for the
    mask of its loads."""

    def number(self, value: Any, coarse: bool) -> str:
        return constant(value, "(), {}, tl.float64" if coarse else "(BLOCK,), {}, real")

    def assign(self, name: str, text: str, coarse: bool, logical: bool) -> str:
        return f"{name} = {text}"

    def truth(self, value: bool) -> str:
        return f"tl.full((), {int(value)}, tl.int1)"

    def narrowed(self, name: str, coarse_name: str) -> str:
        return f"{name} = tl.broadcast_to({coarse_name}.to(real), (BLOCK,))"

    def cell(self, place: int) -> str:
        return f"tl.load({{p}}{place} + i{{m}}).to(real)"

    def value(self, how: str, place: int) -> str:
        return _VALUE[how].format(place)

    def draw(self, how: str, stream: int) -> str:
        key = f"key{len(self.head)}"
        self.head.append(f"{key} = optc_key(seed, {stream % 2**32})")
        return f"optc_{how}({key}, cell + i, call, real)"

    def apply(self, op: Op, operands: list[str], coarse: bool) -> str:
        return op.triton.format(*operands)


def constant(value: Any, form: str) -> str:
    """A number in its type: a bare one would be float32 in places."""
    value = float(value)
    text = f"float('{value}')" if math.isnan(value) or math.isinf(value) else repr(value)
    return f"tl.full({form.format(text)})"


def print_phase(phase: Compute) -> str:
    """The Triton function `phase`, without the lines that name its types."""
    printer = TritonPrinter(phase)
    stores, sums = printer.walk()
    columns = range(len(phase.columns()[0]))
    wide = _loop(printer.body, stores, sums, "range(0, whole, BLOCK)", "p", "")
    rest = _loop(printer.body, stores, sums, "range(whole, n, BLOCK)", "q", "i < n")
    lines = [
        "c = tl.program_id(0).to(tl.int64)",
        "r = tl.load(chunk_row + c)",
        "start = tl.multiple_of(tl.load(chunk_start + c), CHUNK)",
        "n = tl.minimum(tl.load(numel + r) - start, CHUNK)",
        *(["n = tl.where(tl.load(held) == 0, n, 0)"] if phase.in_place else []),
        *_random(phase),
        *(f"a{k} = tl.load(addr + {k} * rows + r)" for k in columns),
        f"aligned = (({' | '.join(f'a{k}' for k in columns) or '0 * r'}) & 15) == 0",
        "whole = tl.where(aligned, n // BLOCK * BLOCK, 0)",
        *(_pointer(k, "p", f"tl.multiple_of({_cast(k)}, 16)") for k in columns),
        *(_pointer(k, "q", _cast(k)) for k in columns),
        *printer.head,
        *(
            f"s{k} = tl.full((BLOCK,), {_START[how]}, tl.float64)"
            for k, (how, _) in enumerate(sums)
        ),
        *wide,
        *rest,
        *(
            f"tl.store(partials + c * {len(sums)} + {k}, {_FOLD[how].format(f's{k}')})"
            for k, (how, _) in enumerate(sums)
        ),
    ]
    sizes = ", ".join(f'"{size}"' for size in SIZES)
    parameters = ", ".join((*PARAMETERS, *SIZES, "BLOCK: tl.constexpr", "CHUNK: tl.constexpr"))
    text = "".join(f"    {line}\n" for line in lines)
    return f"@triton.jit(do_not_specialize=[{sizes}])\ndef phase({parameters}):\n{text}"


def _cast(column: int) -> str:
    return f"a{column}.to(tl.pointer_type(type{column}))"


def _pointer(column: int, letter: str, text: str) -> str:
    return f"{letter}{column} = {text} + start"


def _random(phase: Compute) -> list[str]:
    if not any(port.how == "draw" for port in phase.inputs):
        return []
    return [
        "seed = tl.load(counters).to(tl.uint64, bitcast=True)",
        "call = tl.load(counters + 1)",
        "cell = tl.load(cell_offset + r) + start",
    ]


def _loop(
    body: list[str],
    stores: list[tuple[int, str]],
    sums: list[tuple[str, str]],
    over: str,
    letter: str,
    mask: str,
) -> list[str]:
    """The same elements with and without a mask."""
    limit = ", mask=m" if mask else ""
    lines = ["i = b + tl.arange(0, BLOCK)"]
    if mask:
        lines.append(f"m = {mask}")
    lines += [line.format(p=letter, m=limit) for line in body]
    lines += [
        f"tl.store({letter}{place} + i, optc_as({value}, type{place}){limit})"
        for place, value in stores
    ]
    for k, (how, value) in enumerate(sums):
        added = _ADD[how].format(f"s{k}", f"({value}).to(tl.float64)")
        lines.append(f"s{k} = tl.where(m, {added}, s{k})" if mask else f"s{k} = {added}")
    return [f"for b in {over}:", *(f"    {line}" for line in lines)]
