"""Prints an element-wise phase as C over a pointer table.

One function runs a range of chunks; a chunk is a stretch of one tensor. What is coarser than an
element is computed once a chunk in double (the head), elements in the working type (the body), sums
in 16 double lanes that are added in a fixed order. Only numbers and names made here are printed: no
text of a spec reaches the compiler.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any

from torch import fx

from ..cells import arrange, fold_cells, spread
from ..ops import OPS
from ..program import Compute
from ..signature import Signature, typed
from ..torch_ops import FUNCTIONS

LANES = 16
_OP_OF = {function: name for name, function in FUNCTIONS.items()}
COARSE = ("tensor", "group", "model", "host")

_START = {"sum": "0", "max": "-INFINITY", "min": "INFINITY"}
_ADD = {
    "sum": "{0} += {1};",
    "max": "{0} = optc_larger({0}, {1});",
    "min": "{0} = optc_smaller({0}, {1});",
}
FINISH = {"sum": "sum", "max": "max", "min": "min", "any": "max", "all": "min"}
"""The operation that a reduction of truth values is, on 0 and 1."""


@dataclass
class _Printer:
    phase: Compute
    head: list[str] = field(default_factory=list)
    body: list[str] = field(default_factory=list)
    names: dict[fx.Node, tuple[str, bool]] = field(default_factory=dict)
    cast: dict[str, str] = field(default_factory=dict)

    def operand(self, value: Any, coarse: bool) -> str:
        """A value as C: a number, a head variable (cast once where the body reads it), a body
        variable.
        """
        if not isinstance(value, fx.Node):
            return number(value, "double" if coarse else "real")
        name, is_coarse = self.names[value]
        if coarse or not is_coarse:
            return name
        if name not in self.cast:
            self.cast[name] = f"{name}_e"
            self.head.append(f"const real {name}_e = (real){name};")
        return self.cast[name]

    def define(self, node: fx.Node, text: str, coarse: bool, logical: bool = False) -> None:
        name = "v" + re.sub(r"\W", "_", node.name)
        kind = "int" if logical else "double" if coarse else "real"
        (self.head if coarse else self.body).append(f"const {kind} {name} = {text};")
        self.names[node] = (name, coarse)


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


def layout(phase: Compute) -> dict[str, list[Any]]:
    """Where each port finds its value: a column, or a place among the values of its reach."""
    places: dict[str, list[Any]] = {"cell": [], "tensor": [], "group": [], "model": [], "host": []}
    for port in phase.inputs:
        if port.how in places:
            places[port.how].append(port)
    return places


def print_phase(phase: Compute, signature: Signature, name: str) -> str:
    """The C source of a phase for one signature of types."""
    return typed(signature) + print_any(phase, name)


def print_any(phase: Compute, name: str) -> str:
    """The C source of a phase for any signature, without the lines that name its types."""
    assert isinstance(phase.module, fx.GraphModule)
    printer = _Printer(phase)
    result: fx.Node | None = None
    at = {"cell": 0, "tensor": 0, "group": 0, "model": 0}
    for node in phase.module.graph.nodes:
        if node.op == "placeholder":
            _placeholder(printer, node, at)
        elif node.op == "call_function":
            _call(printer, node)
        elif node.op == "output":
            result = node
    assert result is not None
    stores, sums = _results(printer, result.args[0])
    return _function(printer, name, stores, sums)


def _placeholder(p: _Printer, node: fx.Node, at: dict[str, int]) -> None:
    port = p.phase.inputs[node.meta["port"]]
    if port.how == "like":
        p.names[node] = ("like", False)
        return
    if port.how == "draw":
        how, stream = port.source.split(":")
        assert how in ("normal", "uniform", "rademacher")
        key = f"k{len(p.head)}"
        p.head.append(f"const uint64_t {key} = optc_key(a->seed, {int(stream)}u);")
        cell = "(uint64_t)(a->cell_offset[r] + start + i)"
        p.define(node, f"F({how})(optc_philox({key}, {cell}, a->call, 0))", False)
        return
    if port.how == "host":
        p.define(node, f"h[{int(port.source)}]", True)
        return
    how = "model" if port.how == "size" else port.how
    place = at[how]
    at[how] += 1
    if how == "cell":
        p.define(node, f"load{place}(c{place}[i])", False)
        return
    where = {
        "tensor": f"a->tensor_values[{place} * a->rows + r]",
        "group": f"a->group_values[{place} * a->groups + a->group_of_row[r]]",
        "model": f"a->model_values[{place}]",
    }[how]
    p.define(node, where, True)


def _call(p: _Printer, node: fx.Node) -> None:
    first = node.args[0]
    if node.target is fold_cells:  # the sum itself is taken in `_results`
        p.names[node] = p.names[first] if isinstance(first, fx.Node) else ("", False)
        return
    if node.target is arrange:  # a value without axes: its place among dimensions is nothing in C
        assert node.args[1] == () and isinstance(first, fx.Node)
        p.names[node] = p.names[first]
        return
    if node.target is spread:
        if isinstance(first, fx.Node) and not p.names[first][1]:
            p.names[node] = p.names[first]
        else:
            p.define(node, p.operand(first, False), False)
        return
    if getattr(node.target, "__name__", "") == "tensor":  # a truth value written out
        p.define(node, number(first, "int"), True, True)
        return
    op = OPS[_OP_OF[node.target]]  # type: ignore[index]
    coarse = all(not isinstance(x, fx.Node) or p.names[x][1] for x in node.args)
    operands = [p.operand(x, coarse) for x in node.args]
    if op.name == "pow" and node.args[1] == 2:
        text = f"({operands[0]} * {operands[0]})"
    else:
        text = op.c.format(*operands, f="" if coarse else "@")
        text = re.sub(r"optc_(\w+)@", r"F(\1)", text)
    p.define(node, text, coarse, op.logical)


def _results(p: _Printer, values: Any) -> tuple[list[str], list[tuple[str, str]]]:
    """Stores of the columns, and (how, value) of the reductions."""
    stores, sums = [], []
    _, places = p.phase.columns()
    for output, value, place in zip(p.phase.outputs, values, places, strict=True):
        if output.combine:
            source = (
                value.args[0]
                if isinstance(value, fx.Node) and value.target is fold_cells
                else value
            )
            sums.append((FINISH[output.combine], p.operand(source, False)))
        else:
            stores.append(f"c{place}[i] = store{place}({p.operand(value, False)});")
    return stores, sums


def _function(p: _Printer, name: str, stores: list[str], sums: list[tuple[str, str]]) -> str:
    written = {place for place in p.phase.columns()[1] if place >= 0}
    pointers = []
    for k in range(len(p.phase.columns()[0])):
        type = f"type{k}" if k in written else f"const type{k}"
        pointers.append(f"{type} *c{k} = ({type} *)a->addr[{k} * a->rows + r] + start;")
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
    loop = _blocks(inner, adds) if sums else _plain(inner)
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
        f"void {name}(const optc_args *a, int64_t begin, int64_t end) {{\n"
        f"  for (int64_t c = begin; c < end; ++c) {{\n{text}\n  }}\n}}\n"
    )


def _plain(inner: list[str]) -> list[str]:
    return ["OPTC_VECTOR", "for (int64_t i = 0; i < n; ++i) {", *("  " + x for x in inner), "}"]


def _blocks(inner: list[str], adds: list[str]) -> list[str]:
    """Whole blocks of lanes, then the rest: the same lane for the same place of a chunk."""
    body = ["  const int64_t i = b + j;", *("  " + x for x in (*inner, *adds))]
    return [
        f"int64_t b = 0; for (; b + {LANES} <= n; b += {LANES}) {{",
        "  OPTC_VECTOR",
        f"  for (int j = 0; j < {LANES}; ++j) {{",
        *("  " + x for x in body),
        "  }",
        "}",
        "for (int j = 0; j < n - b; ++j) {",
        *body,
        "}",
    ]
