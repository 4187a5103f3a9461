"""Constants are computed, and algebra is done where it is exact for every value.

Every equation holds in IEEE arithmetic for NaN, infinities and the sign of zero too (the sign of a
NaN apart). So x * 1, x / 1, x - 0 and -(-x) fold, and x * 0 does not. x + 0 makes 0 of -0, which a
division sees: it folds only where x cannot be -0, as in sums, squares and absolute values.
"""

from __future__ import annotations

from typing import Any

from ..ir import KIND, Graph, Node
from ..least import within
from ..ops import OPS
from ..rewrite import Const, Rule, Var, op, rewrite
from ..scalars import HOST
from ..types import COARSE, SIDES, TypeClash, meet

X, Y = Var("x"), Var("y")


def _x(graph: Graph, node: Node, x: Node, **rest: Any) -> Node:
    return x


def _made(name: str, *order: str) -> Any:
    """A builder of another operation on what was matched."""

    def build(graph: Graph, node: Node, **bound: Node) -> Node:
        inputs = [bound[k] for k in order]
        return graph.add(name, *inputs, type=node.type, span=node.span)

    return build


def _one(graph: Graph, node: Node, x: Node) -> Node:
    """x^0, except where only x says how many places its axes have, or which cells are there."""
    open = any(a.size is None and a.name not in SIDES for a in node.type.axes)
    return node if open or not everywhere(graph, x) else graph.const(1.0, node.span)


def _same(graph: Graph, node: Node, c: Node, x: Node) -> Node:
    """Sides that are equal, except where the condition says which cells are there."""
    return x if everywhere(graph, c) else node


def _choose(graph: Graph, node: Node, c: Any, a: Node, b: Node) -> Node:
    return a if c else b


def _unsigned(graph: Graph, node: Node, x: Node) -> Node:
    return node if negative_zero(x) else x


FOLD = (
    Rule("times one", op("mul", X, Const(1)), _x),
    Rule("one times", op("mul", Const(1), X), _x),
    Rule("times minus one", op("mul", X, Const(-1)), _made("neg", "x")),
    Rule("minus one times", op("mul", Const(-1), X), _made("neg", "x")),
    Rule("over one", op("div", X, Const(1)), _x),
    Rule("plus zero", op("add", X, Const(0)), _unsigned),
    Rule("zero plus", op("add", Const(0), X), _unsigned),
    Rule("plus minus zero", op("add", X, Const(-0.0)), _x),
    Rule("minus zero plus", op("add", Const(-0.0), X), _x),
    Rule("minus zero", op("sub", X, Const(0)), _x),
    Rule("plus minus", op("add", X, op("neg", Y)), _made("sub", "x", "y")),
    Rule("minus plus", op("add", op("neg", Y), X), _made("sub", "x", "y")),
    Rule("less minus", op("sub", X, op("neg", Y)), _made("add", "x", "y")),
    Rule("minus minus", op("neg", op("neg", X)), _x),
    Rule("first power", op("pow", X, Const(1)), _x),
    Rule("square", op("pow", X, Const(2)), _made("mul", "x", "x")),
    Rule("no power", op("pow", X, Const(0)), _one),
    Rule("largest of one", op("max", X, X), _x),
    Rule("smallest of one", op("min", X, X), _x),
    Rule("not not", op("not", op("not", X)), _x),
    Rule("and true", op("and", X, Const(True)), _x),
    Rule("true and", op("and", Const(True), X), _x),
    Rule("or false", op("or", X, Const(False)), _x),
    Rule("false or", op("or", Const(False), X), _x),
    Rule("known condition", op("where", Const(name="c"), Var("a"), Var("b")), _choose),
    Rule("same sides", op("where", Var("c"), X, X), _same),
    Rule("the condition itself", op("where", X, Const(True), Const(False)), _x),
    Rule("its opposite", op("where", X, Const(False), Const(True)), _made("not", "x")),
    Rule("expand expand", op("expand", op("expand", X)), _x),
)


def negative_zero(node: Node) -> bool:
    """Whether a value may be -0; a sum is only if both of its parts are."""
    while node.op == "expand":
        node = node.inputs[0]
    if node.op == "const":
        return str(float(node["value"])) == "-0.0"
    if node.op == "mul":
        return node.inputs[0] is not node.inputs[1]
    if node.op == "add":
        return all(negative_zero(i) for i in node.inputs)
    return node.op not in ("abs", "exp", "sigmoid", "clock", "meta", "size", "iota", "value")


def everywhere(graph: Graph, node: Node) -> bool:
    """Whether a value surely has the cells of every tensor, those without a gradient too."""
    stack, seen = [node], {node}
    while stack:
        n = stack.pop()
        if n.type.reach in COARSE:
            continue
        slot = graph.slots[n["slot"]] if n.op == "read" else None
        if slot is None and n.op not in _STRICT:
            return False
        if slot is not None and slot.init is None and slot.kind != "target":
            return False
        before = n.inputs if slot is None or slot.init is None else (slot.init,)
        new = [i for i in before if i not in seen]
        seen.update(new)
        stack += new
    return True


_STRICT = {k for k, kind in KIND.items() if kind in ("map", "leaf", "random", "reduce")} - {
    "parameter"
}
"""What is there wherever its inputs are; what a loop carries may become absent in a turn."""


def compute(graph: Graph, node: Node) -> Node:
    """What is no equation: constants, routing, broadcasting that an operation does by itself."""
    for rule in (_constant, _restricted, _merged, _broadcast, _unmasked):
        new = rule(graph, node)
        if new is not node:
            return new
    return node


def _constant(graph: Graph, node: Node) -> Node:
    """An element-wise operation on constants is a constant."""
    bare = [i.inputs[0] if i.op == "expand" else i for i in node.inputs]
    if node.op not in OPS or any(i.op != "const" for i in bare):
        return node
    return graph.const(HOST[node.op](*(i["value"] for i in bare)), node.span)


def _restricted(graph: Graph, node: Node) -> Node:
    """Cells of a merged value are those of the part they are in; a broadcast one is narrower."""
    if node.op != "restrict":
        return node
    source, domain = node.inputs[0], node.type.domain
    if source.type.domain in ("", domain):
        return source
    if source.op == "expand" and not source.inputs[0].type.domain:
        return graph.add("expand", source.inputs[0], type=node.type, span=node.span)
    if source.op != "merge":
        return node
    for name, part in zip(source["domains"], source.inputs[1:], strict=True):
        if within(graph, domain, name):
            return _narrow(graph, node, part)
        if within(graph, name, domain):
            return node
    return _narrow(graph, node, source.inputs[0])


def _narrow(graph: Graph, node: Node, part: Node) -> Node:
    if part.type.domain == node.type.domain:
        return part
    return graph.add("restrict", part, type=node.type, span=node.span)


def _merged(graph: Graph, node: Node) -> Node:
    """A part that is the whole's own is no part."""
    if node.op != "merge":
        return node
    whole, pairs = node.inputs[0], zip(node["domains"], node.inputs[1:], strict=True)
    kept = {d: p for d, p in pairs if not (p.op == "restrict" and p.inputs[0] is whole)}
    if len(kept) == len(node["domains"]):
        return node
    if not kept:
        return whole
    domains = tuple(kept)
    return graph.add(
        "merge", whole, *kept.values(), type=node.type, span=node.span, domains=domains
    )


def _broadcast(graph: Graph, node: Node) -> Node:
    """An operation broadcasts its operands itself, where the others have its type already.

    A selection does not: where its condition is one for all cells, a side is taken as it is.
    """
    if node.op not in OPS or node.op == "where" or all(i.op != "expand" for i in node.inputs):
        return node
    inputs = list(node.inputs)
    for at, operand in enumerate(inputs):
        if operand.op == "expand" and operand.inputs[0].type.logical == operand.type.logical:
            trial = [*inputs[:at], operand.inputs[0], *inputs[at + 1 :]]
            if _meets(trial, node):
                inputs = trial
    return graph.rebuild(node, tuple(inputs))


def _unmasked(graph: Graph, node: Node) -> Node:
    """Cells that are all there need no mask."""
    if len(node.inputs) < 3 or node.op not in ("reduce", "select"):
        return node
    *rest, mask = node.inputs
    if mask.op != "flat" or mask.inputs[0].op != "expand":
        return node
    return graph.rebuild(node, tuple(rest))


def _meets(inputs: list[Node], node: Node) -> bool:
    try:
        type = meet([i.type for i in inputs])
    except TypeClash:
        return False
    return (type.reach, type.axes, type.domain) == (
        node.type.reach,
        node.type.axes,
        node.type.domain,
    )


def fold(graph: Graph) -> Graph:
    """The graph with constants computed and exact algebra done."""
    return rewrite(graph, FOLD, compute)
