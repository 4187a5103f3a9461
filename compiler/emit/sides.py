"""A matrix phase without the sides that the host's scalars rule out.

`if t == 1:` or `if (call - 1 + place) % 10 == 0:` is a selection for each tensor. The host knows
the condition before the phase runs, so an eigendecomposition that one tensor needs now is paid for
by that tensor alone: the phase has one graph for each way in which its conditions may come out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import fx

from .. import cells
from ..program import Port

MOST = 3
"""Conditions that choose a graph; further ones select in it."""


class Sides(dict[tuple[bool, ...], fx.GraphModule]):
    """A graph for each way in which conditions come out, made when it is first asked for."""

    def __init__(self, graph: fx.Graph, names: Sequence[str]):
        super().__init__()
        self.graph, self.names = graph, names

    def __missing__(self, truth: tuple[bool, ...]) -> fx.GraphModule:
        self[truth] = _taken(self.graph, dict(zip(self.names, truth, strict=True)))
        return self[truth]


def sides(module: fx.GraphModule, ports: list[Port]) -> tuple[tuple[int, ...], Sides]:
    """The inputs that are conditions of the host, and a graph for each of their truth values."""
    holders = [n for n in module.graph.nodes if n.op == "placeholder"]
    hosts = [n for n in holders if ports[n.meta["port"]].how == "host"]
    found = [n for n in hosts if next(chosen_by(n), None)][:MOST]
    return tuple(n.meta["port"] for n in found), Sides(module.graph, [n.name for n in found])


def chosen_by(condition: fx.Node) -> Iterator[fx.Node]:
    """The selections by a condition whose sides have the cells and axes of the whole: either may
    stand for it.
    """
    for user in condition.users:
        if user.target is cells.arrange:  # aligned with the sides
            yield from chosen_by(user)
        elif user.target is torch.where and user.args[0] is condition:
            if all(_type(x) == _type(user) != () for x in user.args[1:]):
                yield user


def _type(x: Any) -> tuple[Any, ...]:
    node = x.meta.get("node") if isinstance(x, fx.Node) else None
    if node is None:
        return ()
    return (node.type.reach, tuple((a.name, a.primes) for a in node.type.axes))


def _taken(graph: fx.Graph, truth: dict[str, bool]) -> fx.GraphModule:
    """A copy of the graph with one side of each selection."""
    copy = fx.Graph()
    copy.output(copy.graph_copy(graph, {}))
    for holder in [n for n in copy.nodes if n.name in truth]:
        for where in list(chosen_by(holder)):
            where.replace_all_uses_with(where.args[1 if truth[holder.name] else 2])  # type: ignore[arg-type]
    copy.eliminate_dead_code()
    copy.lint()
    return fx.GraphModule({}, copy)
