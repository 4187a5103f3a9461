"""What values are called in a standalone module: parameters of its functions, and their results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import fx

from ..program import Compute, Host, Plan, Port
from .python import identifier


def _unique(names: Sequence[str], reserved: Sequence[str] = ()) -> list[str]:
    result: list[str] = []
    for name in names:
        result.append(identifier(name, {*result, *reserved}))
    return result


def _leaf_name(leaf: Any) -> str:
    kind, what = leaf[0], str(leaf[1])
    place = leaf[2] if kind == "option" else leaf[3] if kind == "meta" and what == "shape" else -1
    return f"{what}_{place}" if place >= 0 else what


def leaf_names(host: Host) -> dict[str, str]:
    """Placeholder -> parameter of a host function."""
    names = _unique([_leaf_name(leaf) for _, leaf in host.leaves])
    return dict(zip((n for n, _ in host.leaves), names, strict=True))


def host_names(host: Host) -> list[str]:
    """Names of the scalars of a row: the leaf's own where it is one, else h and its place."""
    assert isinstance(host.module, fx.GraphModule)
    leaves = leaf_names(host)
    returned = next(n for n in host.module.graph.nodes if n.op == "output").args[0]
    return [
        leaves[x.name] if isinstance(x, fx.Node) and x.name in leaves else f"h{k}"
        for k, x in enumerate(returned)
    ]


def port_names(phase: Compute, graph: fx.Graph, hosts: Sequence[str]) -> dict[str, str]:
    """Placeholder -> parameter of a phase's function."""
    holders = [n for n in graph.nodes if n.op == "placeholder"]
    ports = [phase.inputs[n.meta["port"]] for n in holders]
    assert [id(p) for p in ports] == [id(p) for p in phase.inputs]
    names = _unique([_port_name(p, hosts) for p in ports])
    return dict(zip((n.name for n in holders), names, strict=True))


def _port_name(port: Port, hosts: Sequence[str]) -> str:
    if port.how == "host":
        return hosts[int(port.source)]
    return short(port.source[5:]) if port.source.startswith("slot:") else port.name


def short(slot: str) -> str:
    """What a slot is called where its step and its domain are clear."""
    return slot.rpartition(".")[2].partition("@")[0]


def slot_names(plan: Plan) -> dict[str, str]:
    """Value -> the slot or metric that it becomes."""
    names = {value: metric for metric, value in plan.metrics.items()}
    names |= {value: f"{short(slot)}_new" for slot, value in plan.deferred.items()}
    return names


def result_name(output: Any, slots: dict[str, str]) -> str:
    if output.slot:
        return f"{short(output.slot)}_new"
    return slots.get(output.value, output.combine or output.value)
