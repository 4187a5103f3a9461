"""The plan of a step: its phases, and for each write the place where it happens.

A write is made in place by the kernel that computes it, if nobody reads the old version afterwards
and the outcome of the step is known by then: nothing is written before the loop was asked for the
last time, and the last matrix was decomposed, so that what raises, or a scaler that finds its scale
too large, finds all as it was. Other writes wait for the end of the step.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..ir import Graph, Node, asks, may_fail
from ..least import ASKS, company, handed_over, plain, worth_storing
from ..program import Compute, Plan, Rest
from .again import mark_again
from .axis_sizes import counting
from .host import host_module
from .lower import Lowering
from .versions import aliases, idle, last_reader, late, lent, reads, touches, within


def plan(graph: Graph) -> Plan:
    """Lower a graph; kernel writes move to later phases until no old version is read after them."""
    given = handed_over(graph)
    writes = {
        key: _computed(graph, s, node, given)
        for s, n in graph.writes.items()
        for key, node in parts(s, n).items()
        if not _stays(graph, s, node)
    }
    reported = {k: _as_it_is(graph, n) for k, n in graph.metrics.items()}
    # what is written to the parts of a slot is reported whole; what evaluation holds is a slot
    held = [n for n in graph.evals.values() if n not in graph.writes.values()]
    others = [n for n in (*_ends(graph), *reported.values(), *held) if n not in writes.values()]
    low = Lowering(graph, list(dict.fromkeys([*writes.values(), *others])))
    low.stored = worth_storing(graph)
    # what raises must leave everything as it was, so nothing is written before the last such node
    asked = max(
        (low.level[n] + 1 for n in low.order if _raises(n) and low.cls[n] != "leaf"), default=0
    )
    decided = max([*(low.level[e.when] + 1 for e in graph.outcomes), asked])
    if graph.outcomes and graph.always:
        decided = max(decided, asked + 1)  # a phase is passed over whole, so `always` stands apart
    for slot, node in writes.items():
        if low.cls[node] == "c":
            low.write_level[node] = asked if slot in graph.always else decided
    low.write_level |= _company(low, writes)
    for _ in range(8):
        low.hosts.clear()
        phases = low.phases()
        behind = _late_readers(low, phases, writes)
        if not behind:
            break
        low.write_level.update(behind)
    in_place = _mark_in_place(low, phases, writes, list(reported.values()), decided)
    made = Plan(
        phases=phases,
        host=host_module([]),
        deferred={s: low.name(n) for s, n in writes.items() if s not in in_place},
        in_place=in_place,
        outcomes=[
            (e.kind, low.name(e.when), low.name(e.count) if e.count is not None else "")
            for e in graph.outcomes
        ],
        metrics={k: low.name(n) for k, n in reported.items()},
        evals={k: low.name(n) for k, n in graph.evals.items()},
        always=graph.always,
        reaches={f"v{n.number}": n.type.reach for n in low.order},
        reported={k: (n.type.reach, n.type.logical) for k, n in graph.metrics.items()},
    )
    # last: naming a scalar of the host gives it a place in the row
    made.host = host_module(low.hosts, counting(graph))
    made.last_read = _last_reads(made)
    made.lent = lent(made)
    mark_again(made.phases)
    made.idle = idle(made)
    made.late = late(made)
    return made


def _raises(node: Node) -> bool:
    """Whether a step may end with it: a loss of the user's, or a matrix that torch refuses."""
    return asks(node) or may_fail(node)


def _last_reads(made: Plan) -> list[tuple[str, ...]]:
    """Values end with the phase that reads them last, so that a step holds no more than it needs.

    A point of an evaluation, say, is not held beside the gradient that was taken there.
    """
    ends = {x for _, when, count in made.outcomes for x in (when, count)}
    kept = {*made.deferred.values(), *made.metrics.values(), *made.evals.values(), *ends}
    result: list[tuple[str, ...]] = []
    for phase in reversed(made.phases):
        last = {x for x in reads(phase) if x.startswith("v")} - kept
        kept |= last
        result.append(tuple(sorted(last)))
    return result[::-1]


def _computed(graph: Graph, slot: str, node: Node, given: set[Node]) -> Node:
    """What is written as something that a kernel can write in the pass at hand."""
    there = node.op == "read" and node["slot"] != slot or node.op in ASKS or node in given
    return graph.add("copy", node, type=node.type) if there and plain(node) else node


def _as_it_is(graph: Graph, node: Node) -> Node:
    """A slot that is reported, before the step writes it."""
    slot = node["slot"] if node.op == "read" else ""
    return graph.add("copy", node, type=node.type) if slot in graph.writes else node


def _ends(graph: Graph) -> list[Node]:
    """What decides over the step, and how many snapshots it goes back."""
    return [n for e in graph.outcomes for n in (e.when, e.count) if n is not None]


def _stays(graph: Graph, slot: str, node: Node) -> bool:
    """Whether a state keeps what it holds."""
    own = node.op == "read" and node["slot"] == slot
    return own and graph.slots[slot].kind == "state"


def _company(low: Lowering, writes: dict[str, Node]) -> dict[Node, int]:
    """The passes of the writes that kernels make."""
    kernel = {slot: n for slot, n in writes.items() if low.cls[n] == "c"}
    level = {n: max(low.level[n], low.write_level.get(n, 0)) for n in kernel.values()}
    others = [(at, n) for n, at in low.anchors().items() if low.cls[n] in "cr" and n not in level]
    found: dict[Node, int] = {}
    for domain in {n.type.domain for n in level}:
        own = {
            slot: n
            for slot, n in kernel.items()
            if n.type.domain == domain and not _apart(low.graph, slot)
        }
        beside = [(at, n) for at, n in others if low.space(n) == domain]
        found |= company(own, {n: level[n] for n in own.values()}, beside, low.columns)
    return found


def _apart(graph: Graph, slot: str) -> bool:
    """Whether a slot is written before the outcome is known, whatever it is."""
    return bool(graph.outcomes) and slot in graph.always


def parts(slot: str, node: Node) -> dict[str, Node]:
    """A write to the parts that `for` blocks route is one write a part: `PATH@DOMAIN`."""
    if node.op != "merge" or node.inputs[0].op != "read" or node.inputs[0]["slot"] != slot:
        return {slot: node}
    return {f"{slot}@{d}": p for d, p in zip(node["domains"], node.inputs[1:], strict=True)}


def _writer(phases: list[Any], value: str) -> int:
    for at, phase in enumerate(phases):
        if isinstance(phase, Compute) and any(
            o.value == value and o.how == "cell" for o in phase.outputs
        ):
            return at
    return -1


def _late_readers(low: Lowering, phases: list[Any], writes: dict[str, Node]) -> dict[Node, int]:
    """Kernel writes that must move to a later level, because the old version is read there."""
    late, known = {}, aliases(phases)
    for slot, node in writes.items():
        at = _writer(phases, f"v{node.number}")
        if at < 0 or low.cls[node] != "c" or _apart(low.graph, slot):
            continue
        last = last_reader(phases, slot, known)
        if last > at and isinstance(phases[last], Compute) and phases[last].mode == "kernel":
            values = {o.value for o in phases[last].outputs}
            level = max(low.ready[n] for n in low.ready if f"v{n.number}" in values)
            if level > low.write_level.get(node, low.level[node]):
                late[node] = level
    return late


def _mark_in_place(
    low: Lowering,
    phases: list[Any],
    writes: dict[str, Node],
    reported: list[Node],
    decided: int,
) -> set[str]:
    done: set[str] = set()
    graph = low.graph
    # the old version of a slot may be what another one gets at the end of the step, or a metric
    ends = [low.name(n) for n in (*writes.values(), *reported)]
    known = aliases(phases)
    kept = within(ends, known)
    for slot, node in writes.items():
        if any(touches(name, slot) for name in kept):
            continue
        at, value = _writer(phases, f"v{node.number}"), f"v{node.number}"
        if at < 0 or low.ready[node] < decided or node.type.axes:
            continue
        base, _, domain = slot.partition("@")
        twice = sum(n is node for n in writes.values()) > 1
        own = (domain or low.graph.slots[base].type.domain) == phases[at].space
        if last_reader(phases, slot, known) <= at and not twice and own:
            phase = phases[at]
            phase.outputs = [
                replace(o, slot=slot, low=False) if o.value == value else o for o in phase.outputs
            ]
            phase.in_place.add(slot)
            done.add(slot)
    for phase in (p for p in phases if isinstance(p, Compute) and p.in_place - graph.always):
        # what is always written does not share a pass with what a veto undoes
        apart = phase.in_place & graph.always
        phase.outputs = [
            replace(o, slot="", low=False) if o.slot in apart else o for o in phase.outputs
        ]
        phase.in_place -= apart
        done -= apart
    for rest in (p for p in phases if isinstance(p, Rest)):
        whole = next(p for p in phases if isinstance(p, Compute) and p.name == rest.of)
        own = {o.value: o for o in whole.outputs}
        for inner in (part.phase for part in rest.parts):
            inner.outputs[0] = own[inner.outputs[0].value]
            inner.in_place |= {o.slot for o in inner.outputs if o.slot}
    return done
