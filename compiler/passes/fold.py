"""Constants are computed, and algebra that is exact for every value, NaN and infinities included.

So x * 1, x / 1, x - 0 and -(-x) fold, and x * 0 does not. x + 0 folds only where the 0 is written
by the rule: it changes -0 into 0 at most, which no comparison sees.
"""

from __future__ import annotations

from typing import Any

from ..ir import Graph, Node
from ..ops import OPS
from ..rewrite import Const, Rule, Var, op, rewrite
from ..scalars import HOST

X = Var("x")


def _x(graph: Graph, node: Node, x: Node, **rest: Any) -> Node:
    return x


def _square(graph: Graph, node: Node, x: Node) -> Node:
    return graph.add("mul", x, x, type=node.type, span=node.span)


def _choose(graph: Graph, node: Node, c: Any, a: Node, b: Node) -> Node:
    return a if c else b


FOLD = (
    Rule("times one", op("mul", X, Const(1)), _x),
    Rule("one times", op("mul", Const(1), X), _x),
    Rule("over one", op("div", X, Const(1)), _x),
    Rule("plus zero", op("add", X, Const(0)), _x),
    Rule("zero plus", op("add", Const(0), X), _x),
    Rule("minus zero", op("sub", X, Const(0)), _x),
    Rule("minus minus", op("neg", op("neg", X)), _x),
    Rule("not not", op("not", op("not", X)), _x),
    Rule("first power", op("pow", X, Const(1)), _x),
    Rule("square", op("pow", X, Const(2)), _square),
    Rule("known condition", op("where", Const(name="c"), Var("a"), Var("b")), _choose),
    Rule("same sides", op("where", Var("c"), X, X), lambda graph, node, c, x: x),
    Rule("expand expand", op("expand", op("expand", X)), _x),
)


def compute(graph: Graph, node: Node) -> Node:
    """An element-wise operation on constants is a constant."""
    if node.op not in OPS or not node.inputs or any(i.op != "const" for i in node.inputs):
        return node
    value = HOST[node.op](*(i["value"] for i in node.inputs))
    if isinstance(value, float) and value == int(value if abs(value) < 2**53 else 0):
        integers = all(isinstance(i["value"], int) for i in node.inputs)
        value = int(value) if integers and node.op in ("add", "sub", "mul") else value
    return graph.const(value, node.span)


def fold(graph: Graph) -> Graph:
    """The graph with constants computed and exact algebra done."""
    return rewrite(graph, FOLD, compute)
