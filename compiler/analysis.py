"""What can be read off a graph: what the loop must offer, evaluations, state, bytes, locality."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

from .ir import Graph, Node, inputs_of, postorder
from .scope import constant
from .types import HOST


@dataclass(frozen=True)
class Cost:
    """The cost sheet of a rule; counts are for one step, bytes for one float32 parameter."""

    level: str
    evaluations: dict[str, Fraction] = field(default_factory=dict)
    state: int = 0
    coarse: tuple[str, ...] = ()
    least: int = 0
    reductions: int = 0
    locality: str = "element"
    asks: tuple[str, ...] = ()
    guard: str = ""


def loop_level(graph: Graph) -> str:
    """What the training loop must offer: gradients, a closure, or an objective."""
    nodes = list(postorder(graph.roots()))
    evaluations = [n for n in nodes if n.op == "evaluate"]
    data = any(n.op in ("draw", "split", "each", "subset") for n in nodes)
    curved = any(n.op in ("hvp", "jvp", "vjp", "oracle", "extern") for n in nodes)
    if data or curved or any(e["objective"] != "loss" for e in evaluations):
        return "objective"
    held = all(x.op == "read" for e in evaluations for x in e.inputs[: len(e["targets"])])
    valued = any(n.op == "value" for n in nodes)
    return "gradients" if held and not valued else "closure"


def cost(graph: Graph) -> Cost:
    """The cost sheet."""
    from .passes.guard import is_free

    nodes = list(postorder(graph.roots()))
    fine = [s for s in graph.slots.values() if s.kind == "state" and s.type.reach == "element"]
    coarse = tuple(
        f"{s.path}: {s.type}"
        for s in graph.slots.values()
        if s.kind == "state" and (s.type.reach != "element" or s.type.axes)
    )
    plain = [s for s in fine if not s.type.axes]
    wide = [
        n for n in nodes if n.op in ("reduce", "contract", "flat") and n.type.reach == "model"
        and any(i.type.reach not in ("model", "group") for i in n.inputs)
    ]  # fmt: skip
    asks = (*graph.oracles, *graph.externs, *graph.inputs)
    gradients = any(n.op == "gradient" for n in nodes)
    return Cost(
        level=loop_level(graph),
        evaluations=evaluations(graph),
        state=4 * len(plain),
        coarse=coarse,
        least=least_bytes(graph, nodes),
        reductions=len(wide),
        locality="model" if wide else _locality(nodes),
        asks=asks,
        guard="" if not gradients else "free" if is_free(graph) else "4 more bytes a parameter",
    )


def _locality(nodes: list[Node]) -> str:
    tensor = any(n.op in ("matrix", "reduce") and n.type.reach != "model" for n in nodes)
    return "tensor" if tensor else "element"


def least_bytes(graph: Graph, nodes: list[Node]) -> int:
    """Every slot and gradient that the step reads once, and every slot that it writes once.

    What is known only after a pass over the model (a norm) costs what the norm was taken of once
    more.
    """
    reads = {n for n in nodes if n.op == "read" and _plain(n)}
    gradients = {n for n in nodes if n.op in ("gradient", "hvp", "vjp") and _plain(n)}
    points = [n for n in nodes if n.op == "evaluate"]
    written = [n for n in graph.writes.values() if _plain(n)]
    moved = {x for e in points for x in e.inputs[: len(e["targets"])] if x.op != "read"}
    again = set()
    for node in nodes:
        wide = node.op in ("reduce", "contract") and node.type.reach == "model"
        if wide and _read_after(node, graph):
            again |= {
                i for i in postorder([node]) if i in gradients or i in reads and i not in again
            }
    return 4 * (len(reads) + len(gradients) + len(written) + len(moved) + len(again))


def _plain(node: Node) -> bool:
    return node.type.reach == "element" and not node.type.axes


def _read_after(reduction: Node, graph: Graph) -> bool:
    """Whether what a write computes element by element depends on the reduction."""
    return any(reduction in set(postorder([n])) for n in graph.writes.values() if _plain(n))


def evaluations(graph: Graph) -> dict[str, Fraction]:
    """How often a step asks the loop, by what it asks; `every k` counts as 1 / k."""
    share = _shares(graph)
    result: dict[str, Fraction] = {}
    seen: dict[tuple[Node, str], Fraction] = {}
    for node in postorder(graph.roots()):
        if node.op not in ("value", "gradient", "hvp", "jvp", "vjp"):
            continue
        at = node.inputs[0]
        what = {"value": "loss value", "gradient": "gradient"}.get(node.op, node.op)
        if node.op == "value" and any(n.op == "gradient" and n.inputs[0] is at for n in share):
            continue  # the value comes with the gradient
        name = what if at["objective"] == "loss" else f"{what} of {at['objective']}"
        key = (at if node.op == "gradient" else node, name)
        seen[key] = max(seen.get(key, Fraction(0)), share.get(node, Fraction(1)) * _mapped(at))
    for (_, name), amount in seen.items():
        result[name] = result.get(name, Fraction(0)) + amount
    return result


def _mapped(at: Node) -> int:
    count = 1
    for axis in at.type.axes:
        size = axis.size if isinstance(axis.size, int) else constant(axis.size)
        count *= int(size) if size is not None else 1
    return count


def _shares(graph: Graph) -> dict[Node, Fraction]:
    """In which share of the steps a node is needed."""
    order = list(postorder(graph.roots()))
    share = dict.fromkeys(graph.roots(), Fraction(1))
    for user in reversed(order):
        mine = share.get(user, Fraction(1))
        for source in inputs_of(user):
            part = mine * _period(user, source)
            share[source] = max(share.get(source, Fraction(0)), part)
    return share


def _period(user: Node, source: Node) -> Fraction:
    """The share of the steps in which a selection takes a side that `every k` guards."""
    if user.op != "where" or source is user.inputs[0] or user.inputs[1] is user.inputs[2]:
        return Fraction(1)
    condition = user.inputs[0]
    if condition.known != HOST or condition.op != "eq" or condition.inputs[0].op != "mod":
        return Fraction(1)
    period = constant(condition.inputs[0].inputs[1])
    if period is None or period < 1:
        return Fraction(1)
    due = Fraction(1, int(period))
    return due if source is user.inputs[1] else 1 - due
