"""What torch does in fewer passes: norms, and products of values rounded to bfloat16.

The meaning of `bf16(x)` is a float32 value on bfloat16's grid. Where a product or a quotient takes
such values and is rounded itself, only bfloat16 need move: `bf16(x @ y)`, `bf16(x / y)`, and
`bf16(a * z + b * (x @ y))` as one call, which sums in float32.
"""

from __future__ import annotations

import operator

import torch
from torch import fx

from .. import cells, matrices
from ..types import FINE


def low(graph: fx.Graph) -> None:
    """Fuse rounded sums with products, then let the products that may run in bfloat16."""
    for node in list(graph.nodes):
        _norm(graph, node)
    for node in list(graph.nodes):
        rounded = bool(node.users) and all(u.target is cells.bf16 for u in node.users)
        if rounded and node.target in (operator.add, operator.sub):
            _fuse(graph, node)
    chosen = [n for n in graph.nodes if _is_product(n) and _may(n)]
    held = {n for n in graph.nodes if n.target is cells.low}  # inputs that came so
    held |= {_origin(x) for n in chosen for x in _operands(n)}
    held |= {n for n in graph.nodes if n.target is cells.bf16 and _leaves(n)}
    for node in held:
        assert node is not None
        node.target = cells.low
    for node in graph.nodes:
        if node.target is cells.norm and _origin(node.args[0]) in held and _ends_rounded(node):
            node.target = cells.low_norm
    for node in list(graph.nodes):
        if _origin(node) in held:
            for user in list(node.users):
                if user not in chosen and user.target not in TAKE_LOW and user.op != "output":
                    with graph.inserting_after(node):
                        user.replace_input_with(node, graph.call_function(cells.high, (node,)))


TURNED = (torch.transpose, cells.arrange, cells.matrix, cells.wide, cells.narrow, cells.back)
TAKE_LOW = (*TURNED, cells.low, cells.norm, cells.low_norm)


def _leaves(n: fx.Node) -> bool:
    """Whether a rounded value only leaves the phase: what reads it there takes bfloat16."""
    return all(
        u.op == "output" or u.target in (cells.narrow, cells.back) and _leaves(u) for u in n.users
    )


def _ends_rounded(n: fx.Node) -> bool:
    """Whether a value is only rounded, at once or bounded by numbers: rounding keeps the order."""
    return all(
        u.target in (cells.bf16, cells.low)
        or u.target in (cells.maximum, cells.minimum)
        and any(isinstance(x, int | float) for x in u.args)
        and _ends_rounded(u)
        for u in n.users
    )


def _norm(graph: fx.Graph, node: fx.Node) -> None:
    """The root of a sum of squares."""
    fold = node.args[0] if node.target is torch.sqrt else None
    if not isinstance(fold, fx.Node) or fold.target is not cells.fold_axes or fold.args[1] != "sum":
        return
    square = fold.args[0]
    if not isinstance(square, fx.Node) or not len(fold.users) == len(square.users) == 1:
        return
    if square.target is operator.mul and square.args[0] is square.args[1]:
        with graph.inserting_before(node):
            made = graph.call_function(cells.norm, (square.args[0], fold.args[2]))
        made.meta.update(node.meta)
        node.replace_all_uses_with(made)
        for gone in (node, fold, square):
            graph.erase_node(gone)


def _fuse(graph: fx.Graph, node: fx.Node) -> None:
    """a z + b (x @ y), in either order, as one call."""
    signs = {node.args[1]: -1.0 if node.target is operator.sub else 1.0}
    for term, product in (node.args, node.args[::-1]):
        a, z = _scaled(term, signs.get(term, 1.0))
        b, inner = _scaled(product, signs.get(product, 1.0))
        if (
            isinstance(inner, fx.Node)
            and inner.target is matrices.matmul
            and len(inner.users) == 1
            and len(product.users) == 1  # type: ignore[union-attr]
            and isinstance(z, fx.Node)
            and _axes(z) == _axes(inner) == 2
        ):
            with graph.inserting_before(node):
                made = graph.call_function(matrices.add_product, (z, *inner.args, a, b))
            made.meta.update(node.meta)
            node.replace_all_uses_with(made)
            for gone in dict.fromkeys((node, term, product, inner)):
                if isinstance(gone, fx.Node) and gone is not z and not gone.users:
                    graph.erase_node(gone)
            return


def _scaled(x: object, sign: float) -> tuple[float, object]:
    """A number and what it multiplies."""
    if isinstance(x, fx.Node) and x.target is operator.mul:
        for number, other in (x.args, x.args[::-1]):
            if isinstance(number, int | float):
                return sign * number, other
    return sign, x


def _axes(x: fx.Node) -> int:
    """How many axes a value without cells has; -1 for others."""
    node = x.meta.get("node")
    if node is None or node.type.reach in FINE:
        return -1
    return len(node.type.axes)


def _is_product(n: fx.Node) -> bool:
    return n.target in OPERANDS


OPERANDS = {matrices.matmul: 2, matrices.add_product: 3, operator.truediv: 2}
"""What may run in bfloat16, and how many operands it has: torch computes each cell in float32."""


def _operands(n: fx.Node) -> tuple[fx.Node, ...]:
    return n.args[: OPERANDS[n.target]]  # type: ignore[index, return-value]


def _origin(x: object) -> fx.Node | None:
    """The rounding whose result this is, turned or not."""
    while isinstance(x, fx.Node) and x.target in TURNED:
        x = x.args[0]
    rounded = isinstance(x, fx.Node) and x.target in (cells.bf16, cells.low)
    return x if rounded else None  # type: ignore[return-value]


def _may(n: fx.Node) -> bool:
    """Whether a product's operands and result are all rounded."""
    return all(_origin(x) is not None for x in _operands(n)) and all(
        u.target is cells.bf16 for u in n.users
    )
