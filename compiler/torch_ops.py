"""Each node as calls of torch, one call at a time.

`do(function, *arguments)` makes a call: the interpreter calls at once, the emitter writes a
torch.fx node. So a phase holds plain torch operations, and both have one source.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch

from . import cells, matrices, scalars
from .ir import Node
from .ops import OPS
from .types import FINE, Axis, Type

Do = Callable[..., Any]

FUNCTIONS: dict[str, Callable[..., Any]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "div": operator.truediv,
    "ratio": cells.ratio,
    "mod": operator.mod,
    "pow": operator.pow,
    "neg": operator.neg,
    "f16": cells.f16,
    "dither_bf16": cells.dither_bf16,
    "dither_f16": cells.dither_f16,
    "sign": cells.sign,
    "max": cells.maximum,
    "min": cells.minimum,
    "bf16": cells.bf16,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
    "eq": operator.eq,
    "ne": operator.ne,
    **{
        name: getattr(torch, OPS[name].torch)
        for name in (
            "abs sqrt exp ln sin cos arctan tanh sigmoid erf floor ceil round where "
            "and or not isfinite copy"
        ).split()
    },
}
"""The torch function of each element-wise operation."""


def at_once(function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments)


def apply(
    node: Node, inputs: Sequence[Any], like: Any, sizes: Callable[[Axis], Any], do: Do = at_once
) -> Any:
    """The value of a node on the cells of the parameter `like` (None: of the model or a group)."""
    if node.op in OPS:
        if node.type.axes or any(i.type.axes for i in node.inputs):
            inputs = [
                align(x, i.type, node.type, like, do)
                for x, i in zip(inputs, node.inputs, strict=True)
            ]
        of_numbers = node.op == "where" and not node.type.logical and _numbers(inputs[1:])
        if of_numbers and not _numbers(inputs[:1]):
            return do(cells.either, *inputs, like)
        return call(node.op, inputs, do)
    return _APPLY[node.op](node, inputs, like, sizes, do)


def _numbers(values: Sequence[Any]) -> bool:
    return all(isinstance(v, bool | int | float) for v in values)


def call(op: str, values: Sequence[Any], do: Do = at_once) -> Any:
    """One element-wise operation, on tensors or numbers."""
    if _numbers(values):
        return scalars.HOST[op](*values)
    if op in ("and", "or", "not", "where"):
        first = 1 if op == "where" else len(values)
        values = [
            do(torch.tensor, bool(v)) if isinstance(v, bool | int | float) and i < first else v
            for i, v in enumerate(values)
        ]
    return do(FUNCTIONS[op], *values)


def align(x: Any, have: Type, want: Type, like: Any, do: Do = at_once) -> Any:
    """Bring a value's axes into the order of another type, with room for the axes it lacks."""
    places = tuple(next((i for i, a in enumerate(have.axes) if a.same(b)), -1) for b in want.axes)
    fine, wanted = have.reach in FINE, want.reach in FINE
    if (
        isinstance(x, bool | int | float)
        or places == tuple(range(len(have.axes)))
        and fine == wanted
    ):
        return x
    return do(cells.arrange, x, places, len(have.axes), like if wanted else None, fine)


def _expand(node: Node, inputs: Sequence[Any], like: Any, sizes: Any, do: Do) -> Any:
    source = node.inputs[0].type
    x = align(inputs[0], source, node.type, like, do)
    if node.type.reach not in FINE and all(
        any(a.same(b) for b in source.axes) for a in node.type.axes
    ):
        return x  # it has its places, which nobody else may know
    lengths = tuple(sizes(a) for a in node.type.axes)
    if node.type.reach in FINE:
        return do(cells.spread, x, lengths, node.type.reach, like)
    return do(cells.filled, x, lengths)


def _place(type: Type, label: str) -> int:
    return [a.label for a in type.axes].index(label)


def _reduce(node: Node, inputs: Sequence[Any], like: Any, sizes: Any, do: Do) -> Any:
    source, over, how = node.inputs[0].type, node["over"], node["how"]
    if how == "quantile":
        return do(cells.quantile, *inputs[:2], _place(source, over[0]), *inputs[2:])
    if isinstance(over, tuple):
        kind = (like,) if source.logical else ()
        return do(cells.fold_axes, inputs[0], how, tuple(_place(source, o) for o in over), *kind)
    if source.reach not in FINE:
        return inputs[0]
    return do(cells.fold_cells, inputs[0], how, len(source.axes), over, like, True)


def _contract(node: Node, inputs: Sequence[Any], like: Any, sizes: Any, do: Do) -> Any:
    letters: dict[str, str] = {}
    specs = [
        "".join(letters.setdefault(a.label, chr(97 + len(letters))) for a in x.type.axes)
        for x in node.inputs
    ]
    out = "".join(letters[a.label] for a in node.type.axes)
    axes = tuple(len(x.type.axes) for x in node.inputs)
    return do(cells.contract, f"{specs[0]}z,{specs[1]}z->{out}", *inputs, axes)


def _index(node: Node, inputs: Sequence[Any], like: Any, sizes: Any, do: Do) -> Any:
    dim = _place(node.inputs[0].type, node["axis"])
    return do(cells.choose, *inputs, dim, bool(node.inputs[1].type.axes))


def _set_index(node: Node, inputs: Sequence[Any], like: Any, sizes: Any, do: Do) -> Any:
    old, at, value = inputs
    dim = _place(node.type, node["axis"])
    kept = tuple(a for i, a in enumerate(node.type.axes) if i != dim)
    value = align(
        value, node.inputs[2].type, Type(node.type.reach, kept, node.type.domain), like, do
    )
    return do(cells.put, old, at, value, dim)


def _order(node: Node, inputs: Sequence[Any], like: Any, sizes: Any, do: Do) -> Any:
    return do(cells.order, inputs[0], node["how"], _place(node.inputs[0].type, node["over"]))


def _first(node: Node, inputs: Sequence[Any], like: Any, sizes: Any, do: Do) -> Any:
    dim = _place(node.inputs[0].type, node["over"])
    return do(cells.first, inputs[0], dim, sizes(node.type.axes[dim]))


def _select(node: Node, inputs: Sequence[Any], like: Any, sizes: Any, do: Do) -> Any:
    axes = len(node.type.axes) - (node.type.reach not in FINE)
    x, amount, *mask = inputs
    return do(cells.top, x, amount, node["by"], node["of"] == "fraction", axes, *mask)


def _matmul(node: Node, inputs: Sequence[Any], like: Any, sizes: Any, do: Do) -> Any:
    return do(matrices.matvec if node["vector"] else matrices.matmul, *inputs)


def _transpose(node: Node, inputs: Sequence[Any], like: Any, sizes: Any, do: Do) -> Any:
    return do(torch.transpose, inputs[0], len(node.type.axes) - 2, len(node.type.axes) - 1)


def _simple(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda node, inputs, like, sizes, do: do(function, *inputs)


def _decompose(node: Node, inputs: Sequence[Any], like: Any, sizes: Any, do: Do) -> Any:
    return do(matrices.decompose, inputs[0], node.op, node["part"])


def _solve(node: Node, inputs: Sequence[Any], like: Any, sizes: Any, do: Do) -> Any:
    a = node.inputs[0]
    lower = a.op == "transpose"
    if (a.inputs[0] if lower else a).op == "upper":
        return do(matrices.solve_triangular, *inputs, node["vector"], not lower)
    return do(matrices.solve, *inputs, node["vector"])


def _back(node: Node, inputs: Sequence[Any], like: Any, sizes: Any, do: Do) -> Any:
    wide = node.inputs[0].type.axes[-1].side == "long"
    return do(cells.narrow if wide else cells.back, inputs[0], len(node.type.axes), like)


_APPLY: dict[str, Callable[[Node, Sequence[Any], Any, Any, Do], Any]] = {
    "expand": _expand,
    "reduce": _reduce,
    "contract": _contract,
    "matmul": _matmul,
    "matrix": lambda n, x, like, s, do: do(cells.matrix, x[0], len(n.inputs[0].type.axes), like),
    "wide": lambda n, x, like, s, do: do(cells.wide, x[0], len(n.inputs[0].type.axes), like),
    "back": _back,
    "flat": lambda n, x, like, s, do: do(cells.flat, x[0], len(n.inputs[0].type.axes)),
    "transpose": _transpose,
    "index": _index,
    "set_index": _set_index,
    "order": _order,
    "first": _first,
    "select": _select,
    "eye": lambda n, x, like, sizes, do: do(cells.eye, sizes(n.type.axes[0]), like),
    "iota": lambda n, x, like, sizes, do: do(cells.iota, sizes(n.type.axes[0])),
    "size": lambda n, x, like, sizes, do: sizes(n["axis"]),
    "prime": lambda n, x, like, sizes, do: x[0],
    "rename": lambda n, x, like, sizes, do: x[0],
    "solve": _solve,
    "polar": _simple(matrices.polar),
    "sqrtm": _simple(matrices.sqrtm),
    "upper": _simple(torch.triu),
    "cholesky": _simple(torch.linalg.cholesky),
    "inverse": _simple(torch.linalg.inv),
    "lstsq": _simple(matrices.lstsq),
    "eigh": _decompose,
    "qr": _decompose,
    "svd": _decompose,
}
