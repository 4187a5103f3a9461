"""Prints an element-wise phase as C over a pointer table.

One function runs a range of chunks; a chunk is a stretch of one tensor. Sums run in 16 double lanes
that are added in a fixed order.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from ..formats import Format, sizes_of
from ..ops import Op
from ..program import Compute
from .element import Printer

LANES = 16

_START = {"sum": "0", "max": "-INFINITY", "min": "INFINITY"}
_ADD = {
    "sum": "{0} += {1};",
    "max": "{0} = optc_larger({0}, {1});",
    "min": "{0} = optc_smaller({0}, {1});",
}
_VALUE = {
    "host": "h[{0}]",
    "tensor": "a->tensor_values[{0} * a->rows + r]",
    "group": "a->group_values[{0} * a->groups + a->group_of_row[r]]",
    "model": "a->model_values[{0}]",
}


class CPrinter(Printer):
    """C; `signature.typed` names `real`, `F` and the types of the columns."""

    def number(self, value: Any, coarse: bool) -> str:
        return number(value, "double" if coarse else "real")

    def assign(self, name: str, text: str, coarse: bool, logical: bool) -> str:
        kind = "int" if logical else "double" if coarse else "real"
        return f"const {kind} {name} = {text};"

    def truth(self, value: bool) -> str:
        return number(value, "int")

    def narrowed(self, name: str, coarse_name: str) -> str:
        return f"const real {name} = (real){coarse_name};"

    def cell(self, place: int) -> str:
        format = self.phase.coded.get(self.phase.columns()[0][place])
        if format is not None:
            return f"(real)optc_decode(c{place}[i], z{place}, {format.power})"
        return f"load{place}(c{place}[i])"

    def store(self, place: int, value: str) -> str:
        """The line that keeps an element; codes are made of a whole block."""
        if self.phase.columns()[0][place] in self.phase.coded:
            return f"q{place}[i - b] = (float)({value});"
        return f"c{place}[i] = store{place}({value});"

    def value(self, how: str, place: int) -> str:
        return _VALUE[how].format(place)

    def draw(self, how: str, stream: int) -> str:
        key = f"k{len(self.head)}"
        cell = "(uint64_t)(a->cell_offset[r] + start + i)"
        made = f"optc_key(a->seed, {stream}u)"
        if how.startswith("chance"):
            self.head.append(f"const uint64_t {key} = optc_call_key({made}, a->call);")
            return f"F({how})(optc_mixed({key}, {cell}))"
        self.head.append(f"const uint64_t {key} = {made};")
        return f"F({how})(optc_philox({key}, {cell}, a->call, 0))"

    def apply(self, op: Op, operands: list[str], coarse: bool) -> str:
        text = op.c.format(*operands, f="" if coarse else "@")
        return re.sub(r"optc_(\w+)@", r"F(\1)", text)


def number(value: Any, kind: str) -> str:
    """A constant as a C literal of its type."""
    if isinstance(value, bool):
        return str(int(value))
    value = float(value)
    if math.isnan(value):
        return f"({kind})NAN"
    if math.isinf(value):
        return f"({kind}){'-' if value < 0 else ''}INFINITY"
    return f"({kind}){value!r}"


def print_phase(phase: Compute) -> str:
    """The C function `phase`, without the lines that name its types."""
    printer = CPrinter(phase)
    stores, sums = printer.walk()
    return _function(printer, [printer.store(*one) for one in stores], sums)


def _function(p: CPrinter, stores: list[str], sums: list[tuple[str, str]]) -> str:
    written = {place for place in p.phase.columns()[1] if place >= 0}
    pointers = []
    codes = _codes(p.phase)
    block = codes[0].format.block if codes else 1
    written |= {c.sizes for c in codes if c.place in written}
    sizes = {c.sizes for c in codes}
    for k in range(len(p.phase.columns()[0])):
        type = f"type{k}" if k in written else f"const type{k}"
        first = f"start / {block}" if k in sizes else "start"
        pointers.append(f"{type} *c{k} = ({type} *)a->addr[{k} * a->rows + r] + {first};")
    lanes = [
        f"double s{k}[{LANES}]; for (int j = 0; j < {LANES}; ++j) s{k}[j] = {_START[how]};"
        for k, (how, _) in enumerate(sums)
    ]
    inner = [*p.body, *stores]
    adds = [
        _ADD[how].format(f"s{k}[j]", f"(double)({value})") for k, (how, value) in enumerate(sums)
    ]
    finish = []
    for k, (how, _) in enumerate(sums):
        finish.append(f"a->partials[c * {len(sums)} + {k}] = optc_lanes_{how}(s{k});")
    loop = _lanes("n", "0", [*inner, *adds]) if sums else _plain(inner)
    if codes:
        loop = _coded([*inner, *adds], codes, written, bool(sums))
    lines = [
        "const int64_t r = a->chunk_row[c], start = a->chunk_start[c];",
        "const int64_t n = optc_length(a, c);",
        "const double *h = a->host + a->host_row[r] * a->host_stride; (void)h;",
        *pointers,
        *p.head,
        *lanes,
        *loop,
        *finish,
    ]
    text = "\n".join("    " + line for line in lines)
    return (
        "void phase(const optc_args *a, int64_t begin, int64_t end) {\n"
        f"  for (int64_t c = begin; c < end; ++c) {{\n{text}\n  }}\n}}\n"
    )


def _plain(inner: list[str]) -> list[str]:
    return ["OPTC_VECTOR", "for (int64_t i = 0; i < n; ++i) {", *("  " + x for x in inner), "}"]


@dataclass(frozen=True)
class _Codes:
    """A column of int8 codes, and the column of the sizes of its blocks."""

    place: int
    sizes: int
    format: Format

    def size(self) -> str:
        at = f"c{self.sizes}[b / {self.format.block}]"
        return f"const float z{self.place} = {at}; (void)z{self.place};"


def _codes(phase: Compute) -> list[_Codes]:
    names = phase.columns()[0]
    return [
        _Codes(names.index(name), names.index(sizes_of(name)), format)
        for name, format in phase.coded.items()
    ]


def _coded(inner: list[str], codes: list[_Codes], written: set[int], sums: bool) -> list[str]:
    """Block by block: the cells, and then the codes of what was written."""
    block = codes[0].format.block
    new = [c for c in codes if c.place in written]
    return [
        f"for (int64_t b = 0; b < n; b += {block}) {{",
        f"  const int64_t m = n - b < {block} ? n - b : {block};",
        *(f"  {c.size()}" for c in codes),
        *(f"  float q{c.place}[{block}];" for c in new),
        *("  " + x for x in (_lanes if sums else _cells)("m", "b", inner)),
        *(
            f"  optc_encode(q{c.place}, m, c{c.place} + b, c{c.sizes} + b / {block}, "
            f"{c.format.power});"
            for c in new
        ),
        "}",
    ]


def _cells(count: str, first: str, inner: list[str]) -> list[str]:
    """So many cells from a place on."""
    return [
        "OPTC_VECTOR",
        f"for (int64_t j = 0; j < {count}; ++j) {{",
        f"  const int64_t i = {first} + j;",
        *("  " + x for x in inner),
        "}",
    ]


def _lanes(count: str, first: str, inner: list[str]) -> list[str]:
    """Whole rows of lanes, then the rest: the same lane for the same place of a chunk."""
    body = [f"  const int64_t i = {first} + l + j;", *("  " + x for x in inner)]
    return [
        f"int64_t l = 0; for (; l + {LANES} <= {count}; l += {LANES}) {{",
        "  OPTC_VECTOR",
        f"  for (int j = 0; j < {LANES}; ++j) {{",
        *("  " + x for x in body),
        "  }",
        "}",
        f"for (int j = 0; j < {count} - l; ++j) {{",
        *body,
        "}",
    ]
