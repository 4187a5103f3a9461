"""Primitives written in Python become the same nodes as those written in the language.

The function is traced with torch.fx; each call of torch becomes its row of the table of operations.
Anything else is an error that names it: no primitive is opaque to the compiler.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..ir import Graph, Node, postorder, substitute
from ..ops import OPS
from ..source import CompileError, Diagnostic, Span
from ..types import Type, meet

Make = Callable[..., Node]


def inline(graph: Graph) -> Graph:
    """The graph with every Python primitive expanded."""
    calls = [n for n in postorder(graph.roots()) if n.op == "python"]
    for call in calls:
        results = _trace(graph, call)
        table = {
            n: results[n["index"]]
            for n in list(graph.nodes.values())
            if n.op == "out" and n.inputs[0] is call
        }
        done = substitute(graph, graph.roots(), table)
        graph = graph.with_roots(lambda n, done=done: done[n])  # type: ignore[misc]
    return graph


def _trace(graph: Graph, call: Node) -> list[Node]:
    """The results of one call as nodes of the graph."""
    from torch import fx

    function = graph.python[call["call"]]
    traced = fx.symbolic_trace(function)
    bound = iter(call.inputs)
    given = [next(bound) for _ in range(call["positional"])]
    options: dict[str, Any] = {}
    for name, count in call["layout"]:
        options[name] = tuple(next(bound) for _ in range(count)) if count else next(bound)
    names = [n.target for n in traced.graph.nodes if n.op == "placeholder"]
    values: dict[Any, Any] = {}
    positional = iter(given)
    for node in traced.graph.nodes:
        if node.op == "placeholder":
            values[node] = options[node.target] if node.target in options else next(positional)
        elif node.op == "output":
            found = _lookup(values, node.args[0])
            results = list(found) if isinstance(found, tuple | list) else [found]
            return [_node(graph, r, call) for r in results]
        else:
            values[node] = _call(graph, call, node, values)
    raise AssertionError(f"a traced function without a result: {names}")


def _lookup(values: dict[Any, Any], argument: Any) -> Any:
    if isinstance(argument, tuple | list):
        return tuple(_lookup(values, a) for a in argument)
    return values.get(argument, argument) if hasattr(argument, "op") else argument


def _node(graph: Graph, value: Any, call: Node) -> Node:
    if isinstance(value, Node):
        return value
    if isinstance(value, bool | int | float):
        return graph.const(value, call.span)
    raise _refused(call, f"the result {value!r}", call.span)


def _call(graph: Graph, call: Node, node: Any, values: dict[Any, Any]) -> Any:
    arguments = [_lookup(values, a) for a in node.args]
    options = {k: _lookup(values, v) for k, v in node.kwargs.items()}
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    if name == "getitem":
        return arguments[0][arguments[1]]
    make = _TABLE.get(name.strip("_"))
    if make is None or node.op not in ("call_function", "call_method"):
        raise _refused(call, f"`{name}`", call.span)

    def do(op: str, *inputs: Any) -> Node:
        nodes = [_node(graph, x, call) for x in inputs]
        type = meet([n.type for n in nodes])
        type = Type(type.reach, type.axes, type.domain, OPS[op].logical)
        return graph.add(op, *nodes, type=type, span=call.span)

    try:
        return make(do, *arguments, **options)
    except TypeError:
        raise _refused(call, f"`{name}` with these arguments", call.span) from None


def _refused(call: Node, what: str, span: Span) -> CompileError:
    return CompileError(
        [
            Diagnostic(
                "E504",
                f"the Python primitive `{call['call']}` uses {what}, which has no node",
                span,
                f"it may use {', '.join(sorted(_TABLE))}",
            )
        ]
    )


def _same(op: str) -> Make:
    return lambda do, *x: do(op, *x)


def _clamp(do: Any, x: Any, min: Any = None, max: Any = None) -> Any:
    x = x if min is None else do("max", x, min)
    return x if max is None else do("min", x, max)


def _add(do: Any, a: Any, b: Any, alpha: Any = 1) -> Any:
    return do("add", a, b if alpha == 1 else do("mul", alpha, b))


def _subtract(do: Any, a: Any, b: Any, alpha: Any = 1) -> Any:
    return do("sub", a, b if alpha == 1 else do("mul", alpha, b))


def _lerp(do: Any, a: Any, b: Any, weight: Any) -> Any:
    return do("add", a, do("mul", weight, do("sub", b, a)))


_TABLE: dict[str, Make] = {
    "add": _add,
    "sub": _subtract,
    "mul": _same("mul"),
    "truediv": _same("div"),
    "div": _same("div"),
    "mod": _same("mod"),
    "pow": _same("pow"),
    "neg": _same("neg"),
    "abs": _same("abs"),
    "sign": _same("sign"),
    "sqrt": _same("sqrt"),
    "exp": _same("exp"),
    "log": _same("ln"),
    "sin": _same("sin"),
    "cos": _same("cos"),
    "atan": _same("arctan"),
    "tanh": _same("tanh"),
    "sigmoid": _same("sigmoid"),
    "erf": _same("erf"),
    "floor": _same("floor"),
    "ceil": _same("ceil"),
    "round": _same("round"),
    "maximum": _same("max"),
    "minimum": _same("min"),
    "where": _same("where"),
    "isfinite": _same("isfinite"),
    **{name: _same(name) for name in ("lt", "le", "gt", "ge", "eq", "ne")},
    "square": lambda do, x: do("mul", x, x),
    "rsqrt": lambda do, x: do("div", 1.0, do("sqrt", x)),
    "reciprocal": lambda do, x: do("div", 1.0, x),
    "clamp": _clamp,
    "clip": _clamp,
    "clamp_min": lambda do, x, least: do("max", x, least),
    "clamp_max": lambda do, x, most: do("min", x, most),
    "lerp": _lerp,
}
"""torch functions, methods and operators by name, and the operations they are."""
