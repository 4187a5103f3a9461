"""A matrix phase without the sides that the host's scalars rule out.

`if t == 1:` or `if (call - 1 + place) % 10 == 0:` is a selection for each tensor. The host knows
the condition before the phase runs, so an eigendecomposition that one tensor needs now is paid for
by that tensor alone: the phase has one graph for each way in which its conditions may come out.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import torch
from torch import fx

from .. import cells
from ..program import Port

MOST = 3
"""Conditions that choose a graph; further ones select in it."""


def sides(
    module: fx.GraphModule, ports: list[Port]
) -> tuple[tuple[int, ...], dict[tuple[bool, ...], Any]]:
    """The inputs that are conditions of the host, and a graph for each of their truth values."""
    holders = [n for n in module.graph.nodes if n.op == "placeholder"]
    hosts = [n for n in holders if ports[n.meta["port"]].how == "host"]
    found = [n for n in hosts if any(map(_chosen_by, _wheres(n)))][:MOST]
    if not found:
        return (), {}
    names = [n.name for n in found]
    tests = tuple(n.meta["port"] for n in found)
    return tests, {
        truth: _taken(module.graph, dict(zip(names, truth, strict=True)))
        for truth in itertools.product((False, True), repeat=len(found))
    }


def _wheres(condition: fx.Node) -> Iterable[fx.Node]:
    """The selections that a condition makes, aligned with their sides or not."""
    for user in condition.users:
        if user.target is cells.arrange:
            yield from _wheres(user)
        elif user.target is torch.where and user.args[0] is condition:
            yield user


def _chosen_by(where: fx.Node) -> bool:
    """Whether either side has the cells and axes of the whole, and may stand for it."""
    return all(_type(x) == _type(where) != () for x in where.args[1:])


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
        for where in list(_wheres(holder)):
            if _chosen_by(where):
                where.replace_all_uses_with(where.args[1 if truth[holder.name] else 2])  # type: ignore[arg-type]
    copy.eliminate_dead_code()
    copy.lint()
    return fx.GraphModule({}, copy)
