"""What can be read off a graph: what the loop must offer, evaluations, state, bytes, locality."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction

from .ir import Graph, Node, Region, body_nodes, inputs_of, postorder
from .least import FLOAT32, least_bytes, leaves, whole, within
from .passes.guard import price
from .passes.specialise import every_due
from .scalars import HOST as COMPUTE
from .source import Diagnostic, Span
from .types import COARSE


@dataclass(frozen=True)
class Cost:
    """The cost sheet of a rule; counts are for one step, bytes for one float32 parameter.

    `state` and `least` are by the cells that the rule treats alike. `bounded` names evaluations of
    loops that may stop earlier.
    """

    level: str
    evaluations: dict[str, Fraction] = field(default_factory=dict)
    bounded: frozenset[str] = frozenset()
    state: dict[str, float] = field(default_factory=dict)
    coarse: tuple[str, ...] = ()
    least: dict[str, float] = field(default_factory=dict)
    reductions: int = 0
    locality: str = "element"
    asks: tuple[str, ...] = ()
    guard: str = ""
    points: int = 0
    mixed: tuple[str, ...] = ()
    bar: Diagnostic | None = None
    bar_to_capture: Diagnostic | None = None


def everything(graph: Graph) -> Iterator[Node]:
    """Every node that a step or the beginning of a slot needs, those inside of loops too."""
    inits = [s.init for s in graph.slots.values() if s.init is not None]
    return _inside([*graph.roots(), *inits])


def _inside(roots: list[Node]) -> Iterator[Node]:
    seen: set[Node] = set()
    for node in postorder(roots):
        if node not in seen:
            seen.add(node)
            yield node
        if node.op == "loop":
            region: Region = node["body"]
            ends = [*region.outputs, *([region.until] if region.until is not None else [])]
            for inner in _inside(ends):
                if inner not in seen:
                    seen.add(inner)
                    yield inner


# What the loop offers -------------------------------------------------------------------------


def loop_level(graph: Graph) -> str:
    """What the training loop must offer: gradients, a closure, or an objective."""
    nodes = list(everything(graph))
    if any(n.op in _OBJECTIVE or n.op == "evaluate" and not _plain_loss(n) for n in nodes):
        return "objective"
    held = all(_held(graph, n) for n in nodes if n.op == "evaluate")
    valued = any(n.op == "value" for n in nodes)
    return "gradients" if held and not valued else "closure"


_OBJECTIVE = ("hvp", "jvp", "vjp", "oracle", "extern", "draw", "split", "each", "subset")


def _plain_loss(node: Node) -> bool:
    """Whether a point is evaluated as a closure can: the one loss, on the batch of the step."""
    data = node.inputs[len(node["targets"]) :]
    return node["objective"] == "loss" and [d.op for d in data] == ["batch"]


def _held(graph: Graph, node: Node) -> bool:
    """Whether every target stands where the model holds it when the step begins."""
    points = node.inputs[: len(node["targets"])]
    return all(p.op == "read" and graph.slots[p["slot"]].kind == "target" for p in points)


# The sheet ------------------------------------------------------------------------------------


def cost(graph: Graph, widths: Mapping[str, float] | None = None) -> Cost:
    """The cost sheet; `widths` are the bytes of a cell of each slot, where it is no float32."""
    nodes = list(everything(graph))
    states = [s for s in graph.slots.values() if s.kind == "state"]
    fine = [s for s in states if s.type.reach == "element" and not s.type.axes]
    known_widths = widths or {}
    wide = [n for n in nodes if reduces(n, "model")]
    known = {
        leaf: whole(
            sum(
                known_widths.get(s.path, FLOAT32)
                for s in fine
                if within(graph, leaf, s.type.domain)
            )
        )
        for leaf in leaves(graph)
    }
    counted, bounded = evaluations(graph)
    return Cost(
        level=loop_level(graph),
        evaluations=counted,
        bounded=bounded,
        state=known,
        coarse=tuple(f"{s.path}: {s.type}" for s in states if s not in fine),
        least={leaf: least_bytes(every_due(graph), leaf, known_widths) for leaf in leaves(graph)},
        reductions=len(wide),
        locality=locality(nodes),
        mixed=tuple(n.type.reach for n in nodes if n.kind == "comm"),
        bar=bar_to_backward(graph),
        bar_to_capture=bar_to_capture(graph),
        asks=(*_named(graph), *graph.oracles, *graph.externs, *graph.inputs),
        guard=price(graph),
        points=sum(not _held(graph, n) for n in nodes if n.op == "evaluate"),
    )


def _named(graph: Graph) -> list[str]:
    """The objectives that a loop must know by name."""
    asked = {n["objective"]: None for n in everything(graph) if n.op == "evaluate"}
    return [name for name in asked if name != "loss"]


def locality(nodes: list[Node]) -> str:
    """How far apart the cells are that one cell's update may depend on."""
    for reach in ("model", "group"):
        if any(reduces(n, reach) for n in nodes):
            return reach
    return "tensor" if any(map(_crosses_cells, nodes)) else "element"


def _crosses_cells(node: Node) -> bool:
    """Whether a value is made of several cells of a tensor."""
    if node.op in ("reduce", "contract"):
        return node["over"] in ("row", "column", "tensor")
    return node.kind == "linalg" or node.op in ("matrix", "wide", "select")


def reduces(node: Node, reach: str) -> bool:
    """Whether a value of the model (of a group) is made of its cells."""
    wide = node.op in ("reduce", "contract", "flat", "select") and node.type.reach == reach
    return wide and any(i.type.reach not in COARSE for i in node.inputs)


ASKED_AGAIN = ("evaluate", "value", "hvp", "jvp", "vjp", "oracle")


def bar_to_backward(graph: Graph) -> Diagnostic | None:
    """Why the update cannot run inside of the backward pass, with the line; None where it can."""

    def bar(message: str, span: Span, help: str = "") -> Diagnostic:
        return Diagnostic(
            "E402", f"the update waits for the whole backward pass: {message}", span, help
        )

    nodes = list(everything(graph))
    for node in nodes:
        for reach in ("model", "group"):
            if reduces(node, reach):
                return bar(f"this needs all gradients of the {reach}", node.span)
    for node in nodes:
        if node.kind == "comm":
            return bar("workers mix all tensors at once", node.span)
    for ending in graph.outcomes:
        return bar(f"a {ending.kind} decides over the whole step", ending.when.span)
    if loop_level(graph) != "gradients":
        asked = [n for n in nodes if n.op in ASKED_AGAIN]
        span = asked[-1].span if asked else next(iter(graph.writes.values())).span
        return bar("the loss is evaluated again", span, "it needs one gradient at the held point")
    for slot, node in graph.writes.items():
        if graph.slots[slot].type.reach in COARSE:
            return bar(f"`{slot}` is written once a step, not once a tensor", node.span)
    for node in nodes:
        if node.op == "meta" and node["what"] == "total":
            return bar("this counts all parameters", node.span)
        if node.op == "random" and node.type.reach != "element":
            return bar(f"this draws one number a {node.type.reach}", node.span)
    return None


def bar_to_capture(graph: Graph) -> Diagnostic | None:
    """Why a step cannot be a CUDA graph, with the line; None where it may."""
    message = ""
    for ending in graph.outcomes:
        if ending.kind != "veto":
            message, span = f"a {ending.kind} is the host's to decide", ending.when.span
    if loop_level(graph) != "gradients":
        asked = [n for n in everything(graph) if n.op in ASKED_AGAIN]
        span = asked[-1].span if asked else next(iter(graph.writes.values())).span
        message = "the loss is evaluated within the step"
    return Diagnostic("E402", f"a graph cannot hold the step: {message}", span) if message else None


# Evaluations ----------------------------------------------------------------------------------

NAMES = {"value": "loss value", "gradient": "gradient"}


def evaluations(graph: Graph) -> tuple[dict[str, Fraction], frozenset[str]]:
    """How often a step asks the loop, by what it asks; `every k` counts as 1 / k.

    Also those that stand in a loop with an `until`, which may ask less often.
    """
    share = shares(graph)
    at: dict[tuple[Node, str], Fraction] = {}
    for node, due in share.items():
        if node.op in ("value", "gradient", "hvp", "jvp", "vjp"):
            point = node.inputs[0]
            key = (node if node.op in ("hvp", "jvp", "vjp") else point, node.op)
            at[key] = max(at.get(key, Fraction(0)), due * _mapped(graph, node))
    counts: dict[str, Fraction] = {}
    for (point, op), due in at.items():
        if op == "value":  # it comes with the gradient
            due = max(Fraction(0), due - at.get((point, "gradient"), Fraction(0)))
        objective = (point if op in NAMES else point.inputs[0])["objective"]
        name = NAMES.get(op, op) + ("" if objective == "loss" else f" of {objective}")
        if due:
            counts[name] = counts.get(name, Fraction(0)) + due
    return counts, frozenset(_stoppable(graph) & counts.keys())


def _stoppable(graph: Graph) -> set[str]:
    names = set()
    for loop in [n for n in everything(graph) if n.op == "loop"]:
        region: Region = loop["body"]
        if region.until is None:
            continue
        for node in body_nodes(region):
            if node.op in ("value", "gradient", "hvp", "jvp", "vjp"):
                objective = node.inputs[0]["objective"]
                name = NAMES.get(node.op, node.op)
                names.add(name + ("" if objective == "loss" else f" of {objective}"))
    return names


def _mapped(graph: Graph, node: Node) -> int:
    """At how many places of the axes of its point and data an oracle is asked."""
    count = 1
    for axis in node.inputs[0].type.axes:
        size = axis.size if isinstance(axis.size, int) else default(graph, axis.size)
        count *= int(size) if size is not None else 1
    return count


def shares(graph: Graph) -> dict[Node, Fraction]:
    """How often a step needs each node: less than 1 behind `every`, more in a loop."""
    share: dict[Node, Fraction] = dict.fromkeys(graph.roots(), Fraction(1))
    _spread(graph, graph.roots(), share)
    return share


def _spread(graph: Graph, roots: list[Node], share: dict[Node, Fraction]) -> None:
    for user in reversed(list(postorder(roots))):
        mine = share.setdefault(user, Fraction(0))
        for source in inputs_of(user):
            part = mine * _period(graph, user, source)
            share[source] = max(share.get(source, Fraction(0)), part)
        if user.op == "loop":
            _turns(graph, user, mine, share)


def _turns(graph: Graph, loop: Node, mine: Fraction, share: dict[Node, Fraction]) -> None:
    """The nodes of a loop's body are needed at each turn."""
    region: Region = loop["body"]
    turns = default(graph, loop.inputs[0])
    often = mine * (int(turns) if turns is not None and 0 <= turns < 1e9 else 1)
    inner = dict.fromkeys(region.outputs, often)
    if region.until is not None:
        inner[region.until] = often
    _spread(graph, list(inner), inner)
    for node in body_nodes(region):
        share[node] = inner.get(node, often)


def _period(graph: Graph, user: Node, source: Node) -> Fraction:
    """The share of the steps in which a selection takes a side that `every k` guards."""
    if user.op != "where" or source is user.inputs[0] or user.inputs[1] is user.inputs[2]:
        return Fraction(1)
    condition, turned = user.inputs[0], False
    while condition.op == "not":
        condition, turned = condition.inputs[0], not turned
    if condition.op != "eq" or condition.inputs[0].op != "mod":
        return Fraction(1)
    counter, period = condition.inputs[0].inputs
    every = default(graph, period)
    clocks = [n for n in postorder([counter]) if n.op == "clock"]
    if every is None or every < 1 or [c["which"] for c in clocks] != ["call"]:
        return Fraction(1)
    due = Fraction(1, int(every))
    return due if (source is user.inputs[1]) != turned else 1 - due


def default(graph: Graph, node: object) -> float | None:
    """The number that the host computes from constants and the defaults of options."""
    if not isinstance(node, Node):
        return None
    if node.op == "const":
        return float(node["value"])
    if node.op == "option":
        value = graph.options[node["name"]].default
        value = value[node["place"]] if isinstance(value, tuple) else value
        return float(value) if isinstance(value, bool | int | float) else None
    if node.op == "expand":
        return default(graph, node.inputs[0])
    values = [default(graph, i) for i in node.inputs]
    if node.op not in COMPUTE or not values or any(v is None for v in values):
        return None
    return float(COMPUTE[node.op](*values))
