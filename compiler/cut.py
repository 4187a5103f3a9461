"""The least cut of a network, which says what a pass had better read.

networkx has it too, but importing that takes longer than all the cuts of a rule, before every
first step. The tests hold the two equal.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Mapping
from math import inf

Left = dict[Hashable, dict[Hashable, float]]
"""What each edge still has room for; each has its reverse."""


def side_of_end(
    capacities: Mapping[Hashable, Mapping[Hashable, float]], start: Hashable, end: Hashable
) -> set[Hashable]:
    """The nodes behind the least cut between two nodes, of those the one that is nearest to `end`.

    `capacities[u][v]` is that of the edge from u to v. The flow grows along shortest paths
    [Edmonds 1972]. Raises ValueError where no cut is finite.
    """
    left: Left = {start: {}, end: {}}
    for u, edges in capacities.items():
        for v, room in edges.items():
            left.setdefault(u, {})[v] = left.get(u, {}).get(v, 0.0) + room
            left.setdefault(v, {}).setdefault(u, 0.0)
    while path := _path(left, start, end):
        more = min(left[u][v] for u, v in path)
        if more == inf:
            raise ValueError("Invalid network: a path has no edge of finite capacity")
        for u, v in path:
            left[u][v] -= more
            left[v][u] += more
    behind, todo = {end}, [end]
    while todo:
        v = todo.pop()
        new = [u for u in left[v] if left[u][v] > 0 and u not in behind]
        behind.update(new)
        todo += new
    return behind


def _path(left: Left, start: Hashable, end: Hashable) -> list[tuple[Hashable, Hashable]]:
    """The edges of a shortest path that has room; none if there is no such path."""
    came, todo = {start: start}, deque([start])
    while todo:
        u = todo.popleft()
        for v, room in left[u].items():
            if room > 0 and v not in came:
                came[v] = u
                todo.append(v)
    if end not in came:
        return []
    path = [(came[end], end)]
    while path[-1][0] != start:
        path.append((came[path[-1][0]], path[-1][0]))
    return path
