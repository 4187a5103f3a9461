"""What is asked of the training loop: losses and their derivatives, data, functions of its own."""

from __future__ import annotations

import itertools
from typing import Any

import torch

from ..ir import Node
from ..types import Axis
from .oracles import Mapped, Oracles
from .state import Cells
from .values import Values

QUESTIONS = {
    "value": (),
    "gradient": ("wrt",),
    "hvp": ("wrt", "of"),
    "jvp": ("wrt",),
    "vjp": ("wrt",),
}
"""What an oracle is told besides point, data and a vector: with respect to what, and of what."""


def evaluate(values: Values, node: Node) -> Cells:
    return node


def ask(values: Values, node: Node) -> Cells:
    """Ask the loop at a point, once for each place of the axes that point and data have."""
    at, *extra = node.inputs
    targets = at["targets"]
    data = values.memo[at.inputs[len(targets)]]
    own = _mapped(node)
    sizes = []
    for a in own:
        in_data = isinstance(data, Mapped) and any(x.same(a) for x in data.axes)
        sizes.append(len(data.items) if in_data else values.size(a))
    if 0 in sizes:
        return _nowhere(values, node, sizes)
    question = getattr(_oracles(values), node.op)
    more = [node[name] for name in QUESTIONS[node.op]]
    answers = []
    for place in itertools.product(*(range(n) for n in sizes)):
        where = dict(zip([a.label for a in own], place, strict=True))
        points = {
            t: _standing(values, t, _pick(values, x, where))
            for t, x in zip(targets, at.inputs, strict=False)
        }
        chosen = data.items[where[data.axes[0].label]] if isinstance(data, Mapped) else data
        vectors = [_pick(values, x, where) for x in extra]
        answers.append(question(at["objective"], points, chosen, *more, *vectors))
    return _stacked(answers, sizes) if own else answers[0]


def _nowhere(values: Values, node: Node, sizes: list[int]) -> Cells:
    """The answer of an axis without places."""
    if node.op in ("value", "jvp"):
        return torch.zeros(sizes, dtype=torch.float64)
    held = values.state.slots[node["wrt"]]
    return [torch.zeros(*sizes, *x.shape, dtype=torch.float64) for x in held]


def gradient(values: Values, node: Node) -> Cells:
    g = ask(values, node)
    return [None if x is None else -x for x in g] if values.state.maximize else g


def _mapped(node: Node) -> list[Axis]:
    """The axes of an answer for each place of which the loop is asked anew."""
    at, *extra = node.inputs
    vectors = extra if node.op in ("hvp", "jvp") else []
    mapped = [b for x in (at, *vectors) for b in x.type.axes]
    return [a for a in node.type.axes if any(a.same(b) for b in mapped)]


def _standing(values: Values, target: str, point: Any) -> Any:
    """A point; where it is absent, the target stands as the step found it."""
    if not isinstance(point, list) or None not in point:
        return point
    held = values.state.slots[target]
    return [h if x is None else x for x, h in zip(point, held, strict=True)]


def _pick(values: Values, node: Node, where: dict[str, int]) -> Any:
    """The value at one place of the mapped axes."""

    def one(x: Any) -> Any:
        if x is None:
            return None
        for d in range(len(node.type.axes) - 1, -1, -1):
            name = node.type.axes[d].label
            if name in where:
                x = x.select(d, where[name])
        return x

    value = values.memo[node]
    return [one(x) for x in value] if isinstance(value, list) else one(value)


def _stacked(results: list[Any], sizes: list[int]) -> Cells:
    def stack(parts: list[Any]) -> Any:
        there = next((x for x in parts if x is not None), None)
        if there is None:
            return None
        whole = torch.stack([torch.zeros_like(there) if x is None else x for x in parts])
        return whole.reshape(*sizes, *whole.shape[1:])

    if isinstance(results[0], list):
        return [stack([r[k] for r in results]) for k in range(len(results[0]))]
    return stack(results)


def oracle(values: Values, node: Node) -> Cells:
    name, arguments = node["name"], [values.memo[x] for x in node.inputs]
    if not name.endswith(".vjp"):
        return _oracles(values).call(name, arguments)
    first, *rest, weights = arguments
    plain = name.removesuffix(".vjp")
    _, back, *_ = torch.func.vjp(lambda x: _oracles(values).call(plain, [x, *rest]), first)
    return back(weights)[0]


def batch(values: Values, node: Node) -> Cells:
    return values.batch


def data(values: Values, node: Node) -> Cells:
    memo = [values.memo[x] for x in node.inputs]
    # an option that the groups agree on
    arguments = [
        v[0] if x.type.reach == "group" else v for x, v in zip(node.inputs, memo, strict=True)
    ]
    result = _oracles(values).data(node.op, arguments, dict(node.attrs))
    return Mapped(node.type.axes, list(result)) if node.op in ("split", "each") else result


def _oracles(values: Values) -> Oracles:
    if values.state.oracles is None:
        raise ValueError("the rule evaluates the loss, and the loop supplies none")
    return values.state.oracles
