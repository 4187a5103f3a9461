"""The least cut, against networkx."""

from __future__ import annotations

import random
from math import inf

import networkx
import pytest

from optc.compiler.cut import side_of_end


def network(seed: int) -> dict[int, dict[int, float]]:
    """Edges among a few nodes, a fifth of them without limit; from 0 to 1 there is none."""
    draw = random.Random(seed)
    nodes = range(draw.randint(3, 12))
    found: dict[int, dict[int, float]] = {u: {} for u in nodes}
    for u in nodes:
        for v in nodes:
            if u != v and (u, v) != (0, 1) and draw.random() < 0.35:
                found[u][v] = inf if draw.random() < 0.2 else draw.choice([0.5, 1, 2, 4, 4.125])
    return found


@pytest.mark.parametrize("seed", range(300))
def test_the_cut_is_that_of_networkx(seed: int) -> None:
    capacities = network(seed)
    flow = networkx.DiGraph()
    flow.add_nodes_from(capacities)
    for u, edges in capacities.items():
        for v, room in edges.items():
            flow.add_edge(u, v, **({"capacity": room} if room < inf else {}))
    try:
        _, (_, behind) = networkx.minimum_cut(flow, 0, 1)
    except networkx.NetworkXUnbounded:
        with pytest.raises(ValueError, match="no edge of finite capacity"):
            side_of_end(capacities, 0, 1)
        return
    assert side_of_end(capacities, 0, 1) == behind


def test_nothing_flows_where_nothing_leads() -> None:
    assert side_of_end({0: {2: inf}, 3: {1: 1.0}}, 0, 1) == {1, 3}
