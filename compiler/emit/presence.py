"""What a step gives for a tensor whose gradient is absent, though other values of it are there.

A pass over cells passes over a tensor that lacks one of its columns. What does not need that column
is done by parts of the pass, one for each result and each way in which selections over the whole
step come out: the side that is taken need not be the one that needs a gradient.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import fx

from .. import cells
from ..ir import Node, Region, body_nodes
from ..program import Compute, Output, Part
from ..types import COARSE

Needs = frozenset[object]
"""What must be there for a value to be there: the gradients of evaluations, and what is told by a
run alone."""

NOTHING: Needs = frozenset()
MOST = 64
"""Parts of one pass; a rule needs two or three."""


def needs(n: Node, known: Mapping[Node, Needs]) -> Needs:
    """What a value needs of a tensor; `known` has the needs of its inputs."""
    if n.type.reach in COARSE:
        return NOTHING
    if n.op in ("gradient", "hvp", "vjp"):
        return frozenset({n.inputs[0]})  # elsewhere the loss may use other tensors
    each = [known.get(i, NOTHING) for i in n.inputs]
    if n.op in ("merge", "out") or _splits(n, known):
        return frozenset({n})
    return NOTHING.union(*each)


def of_loop(region: Region, first: list[Needs], outer: Mapping[Node, Needs]) -> dict[Node, Needs]:
    """The needs of what a loop carries: told by a run where one turn's are not the next one's."""
    carried = dict(zip(region.parameters, first, strict=True))
    while True:
        known = {**outer, **carried}
        for n in body_nodes(region):
            known[n] = needs(n, known)
        pairs = zip(region.parameters, region.outputs, strict=True)
        changed = [p for p, o in pairs if known.get(o, NOTHING) != carried[p] != {p}]
        if not changed:
            return carried
        carried |= {p: frozenset({p}) for p in changed}


def _splits(n: Node, known: Mapping[Node, Needs]) -> bool:
    """Whether a node is a selection over the whole step whose sides need different things."""
    if n.op != "where" or n.inputs[0].type.reach != "model" or n.inputs[0].type.axes:
        return False
    return known.get(n.inputs[1], NOTHING) != known.get(n.inputs[2], NOTHING)


def parts(phase: Compute, known: Mapping[Node, Needs]) -> list[Part]:
    """What may be there for a tensor that a phase passes over."""
    assert isinstance(phase.module, fx.GraphModule)
    whole = _all(phase.module.graph, known)
    found: list[Part] = []
    for at, output in enumerate(phase.outputs):
        for graph, truth in _ways(_alone(phase.module.graph, at), whole, known):
            found.append(_part(phase, output, graph, truth))
            if len(found) == MOST:
                return found
    return found


def _ways(
    graph: fx.Graph, whole: Needs, known: Mapping[Node, Needs], truth: tuple[bool, ...] = ()
) -> Iterator[tuple[fx.Graph, tuple[bool, ...]]]:
    """The graphs of one result that need less than the whole pass, and when they are taken."""
    result = graph.output_node().args[0]
    if _surely(result[0], known, {}) >= whole:  # type: ignore[index]
        return
    where = next((n for n in graph.nodes if _open(n, known)), None)
    if where is None:
        yield graph, truth
        return
    at = list(graph.nodes).index(where)
    for taken in (True, False):
        copy = _copy(graph)
        chosen = list(copy.nodes)[at]
        condition = _condition(chosen)
        for n in [n for n in copy.nodes if _is_where(n) and _condition(n) is condition]:
            side = n.args[1 if taken else 2]
            n.args = (n.args[0], side, side, *n.args[3:])
        end = copy.output_node()
        end.args = ((*end.args[0], condition),)  # type: ignore[misc]
        _clean(copy)
        yield from _ways(copy, whole, known, (*truth, taken))


def _is_where(n: fx.Node) -> bool:
    return n.target in (torch.where, cells.either)


def _condition(where: fx.Node) -> fx.Node:
    """What decides a selection, before it was brought to the axes of its sides."""
    found = where.args[0]
    while isinstance(found, fx.Node) and found.target is cells.arrange:
        found = found.args[0]
    assert isinstance(found, fx.Node)
    return found


def _open(n: fx.Node, known: Mapping[Node, Needs]) -> bool:
    """Whether it makes a difference which side of a selection is taken."""
    made = n.meta.get("node")
    return _is_where(n) and n.args[1] is not n.args[2] and made is not None and _splits(made, known)


def _surely(n: object, known: Mapping[Node, Needs], done: dict[object, Needs]) -> Needs:
    """What a value of a graph needs whichever sides are taken."""
    if not isinstance(n, fx.Node):
        return NOTHING
    if n not in done:
        done[n] = NOTHING
        if n.op == "placeholder":
            done[n] = _of_holder(n, known)
        elif _open(n, known):
            a, b = (_surely(x, known, done) for x in n.args[1:3])
            done[n] = a & b
        else:
            done[n] = NOTHING.union(*(_surely(i, known, done) for i in n.all_input_nodes))
    return done[n]


def _of_holder(holder: fx.Node, known: Mapping[Node, Needs]) -> Needs:
    return known.get(holder.meta.get("node"), NOTHING)  # type: ignore[arg-type]


def _all(graph: fx.Graph, known: Mapping[Node, Needs]) -> Needs:
    holders = [n for n in graph.nodes if n.op == "placeholder"]
    return NOTHING.union(*(_of_holder(n, known) for n in holders))


def _copy(graph: fx.Graph) -> fx.Graph:
    copy = fx.Graph()
    copy.output(copy.graph_copy(graph, {}))
    return copy


def _alone(graph: fx.Graph, at: int) -> fx.Graph:
    """The graph of one of the results."""
    copy = _copy(graph)
    end = copy.output_node()
    end.args = ((end.args[0][at],),)  # type: ignore[index]
    _clean(copy)
    return copy


def _clean(graph: fx.Graph) -> None:
    """Without what nothing reads, inputs included."""
    graph.eliminate_dead_code()
    for n in [n for n in graph.nodes if n.op == "placeholder" and not n.users]:
        graph.erase_node(n)


def _part(phase: Compute, output: Output, graph: fx.Graph, truth: tuple[bool, ...]) -> Part:
    holders = [n for n in graph.nodes if n.op == "placeholder"]
    inputs = [phase.inputs[n.meta["port"]] for n in holders]
    for at, holder in enumerate(holders):
        holder.meta["port"] = at
    graph.lint()
    conditions = [Output(f"taken_{at}", "model") for at in range(len(truth))]
    module = fx.GraphModule({}, graph)
    own = Compute(phase.name, "torch", phase.space, inputs, [output, *conditions], module)
    return Part(own, truth)
