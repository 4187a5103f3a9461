"""The graph: pure, typed nodes, shared where equal; slots with versions; the only place of
networkx.

A node is an operation on other nodes. Equal nodes are one node (they are interned), so sharing of
common subexpressions needs no pass. Nothing is ordered: text order became data flow when the names
were resolved. What a rule does is `writes` (the last version of each slot), `outcomes`, `metrics`
and `evals`.

    kind      operations                                          cut
    leaf      const option input clock meta read parameter        no
    map       the rows of ops.OPS, expand                         no
    random    random                                              no (may be drawn again)
    reduce    reduce                                              where it is used coarser
    contract  contract matmul                                     yes
    view      matrix flat back transpose index set_index prime    flat, back of flat
              restrict merge
    linalg    solve eigh qr svd polar lstsq cholesky inverse      yes
    oracle    evaluate value gradient hvp jvp vjp oracle          yes
    data      batch draw split each subset cells                  host
    loop      loop out                                            yes
    comm      mix                                                 yes
    extern    extern                                              yes
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from .ops import OPS
from .source import NOWHERE, Span
from .types import BUILD, DEVICE, HOST, Type

KIND = {
    **dict.fromkeys(("const", "option", "input", "clock", "meta", "read", "parameter"), "leaf"),
    **dict.fromkeys((*OPS, "expand"), "map"),
    "random": "random",
    "reduce": "reduce",
    **dict.fromkeys(("contract", "matmul"), "contract"),
    **dict.fromkeys(
        (
            "matrix",
            "wide",
            "flat",
            "back",
            "transpose",
            "index",
            "set_index",
            "prime",
            "restrict",
            "merge",
        ),
        "view",
    ),
    **dict.fromkeys(
        ("solve", "eigh", "qr", "svd", "polar", "lstsq", "cholesky", "inverse", "sqrtm", "upper"),
        "linalg",
    ),
    **dict.fromkeys(("eye", "iota", "size", "select", "order", "rename", "first"), "view"),
    **dict.fromkeys(
        ("evaluate", "value", "gradient", "hvp", "jvp", "vjp", "oracle", "outputs"), "oracle"
    ),
    **dict.fromkeys(("batch", "draw", "split", "each", "subset", "cells"), "data"),
    **dict.fromkeys(("loop", "out"), "loop"),
    "mix": "comm",
    "extern": "extern",
    "python": "python",
}


class Node:
    """One operation. Compare by identity: the graph interns equal nodes."""

    __slots__ = ("attrs", "inputs", "known", "number", "op", "span", "type")

    def __init__(
        self,
        number: int,
        op: str,
        inputs: tuple[Node, ...],
        attrs: tuple[tuple[str, Hashable], ...],
        type: Type,
        known: int,
        span: Span,
    ):
        self.number, self.op, self.inputs, self.attrs = number, op, inputs, attrs
        self.type, self.known, self.span = type, known, span

    @property
    def kind(self) -> str:
        return KIND[self.op]

    def __getitem__(self, name: str) -> Any:
        return next(value for key, value in self.attrs if key == name)

    def get(self, name: str, default: Any = None) -> Any:
        return next((value for key, value in self.attrs if key == name), default)

    def __repr__(self) -> str:
        return f"%{self.number}"


@dataclass(frozen=True, eq=False)
class Region:
    """The body of a loop: parameters, what they become, and when to stop; interned by identity."""

    parameters: tuple[Node, ...]
    index: Node
    outputs: tuple[Node, ...]
    until: Node | None


@dataclass(frozen=True)
class Domain:
    """Cells that belong together: a declared target, or those of it that a `for` block routes.

    `where` is a node of tensor reach over the parent's cells that the host knows; `rest` domains
    take what their earlier siblings left.
    """

    name: str
    parent: str = ""
    where: Node | None = None
    siblings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Slot:
    """A thing that `<-` may write: a target's tensors or a state that is kept between steps."""

    path: str
    kind: str  # target or state
    type: Type
    init: Node | None
    span: Span = NOWHERE


@dataclass(frozen=True)
class OptionInfo:
    name: str
    bound: str
    default: Any
    span: Span = NOWHERE


@dataclass(frozen=True)
class Ending:
    """`veto when c`, `restore n when c`, `snapshot when c`."""

    kind: str
    when: Node
    count: Node | None = None


@dataclass
class Graph:
    """A rule as data flow. Built by `check`, rewritten by the passes, read by everything else."""

    name: str = ""
    doc: str = ""
    options: dict[str, OptionInfo] = field(default_factory=dict)
    domains: dict[str, Domain] = field(default_factory=dict)
    slots: dict[str, Slot] = field(default_factory=dict)
    objectives: dict[str, Type] = field(default_factory=dict)
    oracles: dict[str, Type] = field(default_factory=dict)
    inputs: dict[str, Type] = field(default_factory=dict)
    externs: dict[str, Type] = field(default_factory=dict)
    python: dict[str, Any] = field(default_factory=dict)
    writes: dict[str, Node] = field(default_factory=dict)
    always: frozenset[str] = frozenset()
    outcomes: list[Ending] = field(default_factory=list)
    metrics: dict[str, Node] = field(default_factory=dict)
    evals: dict[str, Node] = field(default_factory=dict)
    workers: bool = False
    unread: tuple[str, ...] = ()
    """States that nothing reads, which are therefore gone."""
    nodes: dict[tuple[Any, ...], Node] = field(default_factory=dict, repr=False)
    caller: Span | None = field(default=None, repr=False)
    """The rule's own line, while what it calls in a library is read."""

    @property
    def snapshots(self) -> int | None:
        """How many snapshots a rule may ever go back to; None where only a run tells."""
        counts = [e.count for e in self.outcomes if e.count is not None]
        known = [c["value"] for c in counts if c.op == "const"]
        return int(max(known, default=0)) if len(known) == len(counts) else None

    def add(
        self,
        op: str,
        *inputs: Node,
        type: Type,
        known: int | None = None,
        span: Span = NOWHERE,
        **attrs: Hashable,
    ) -> Node:
        """The node of this operation on these inputs; the equal one where there is one."""
        items = tuple(sorted(attrs.items()))
        key = (op, inputs, items, type)
        node = self.nodes.get(key)
        if node is None:
            if known is None:
                known = max((i.known for i in inputs), default=BUILD)
                if KIND[op] not in ("map", "leaf") and known == HOST or KIND[op] in _DEVICE_KINDS:
                    known = DEVICE
            if self.caller is not None and span.source not in (NOWHERE.source, self.caller.source):
                span = replace(span, caller=self.caller)
            node = Node(len(self.nodes), op, inputs, items, type, known, span)
            self.nodes[key] = node
        return node

    def const(self, value: float | int | bool, span: Span = NOWHERE) -> Node:
        kind = "bool" if isinstance(value, bool) else "int" if isinstance(value, int) else "float"
        logical = isinstance(value, bool)
        return self.add(
            "const", type=Type("model", logical=logical), span=span, value=value, of=kind
        )

    # What the graph does ----------------------------------------------------------------------

    def roots(self) -> list[Node]:
        """All nodes that something outside reads, in the order of the text."""
        endings = [n for e in self.outcomes for n in (e.when, e.count) if n is not None]
        return [*self.writes.values(), *endings, *self.metrics.values(), *self.evals.values()]

    def mixes(self) -> bool:
        """Whether workers exchange anything."""
        begins = [slot.init for slot in self.slots.values() if slot.init is not None]
        return any(map(_mixes, postorder([*self.roots(), *begins])))

    def with_roots(self, change: Callable[[Node], Node]) -> Graph:
        """The same rule with every root replaced; shares the table of nodes."""
        return Graph(
            **{
                **self.__dict__,
                "writes": {k: change(v) for k, v in self.writes.items()},
                "metrics": {k: change(v) for k, v in self.metrics.items()},
                "evals": {k: change(v) for k, v in self.evals.items()},
                "outcomes": [
                    Ending(e.kind, change(e.when), change(e.count) if e.count else None)
                    for e in self.outcomes
                ],
            }
        )

    def rebuild(self, node: Node, inputs: tuple[Node, ...]) -> Node:
        """The same operation on other inputs."""
        if inputs == node.inputs:
            return node
        return self.add(
            node.op,
            *inputs,
            type=node.type,
            known=node.known if not inputs else None,
            span=node.span,
            **dict(node.attrs),
        )

    def text(self) -> str:
        """The graph as text: one line a node that is read, then what is written."""
        from .display import graph_text

        return graph_text(self)


_DEVICE_KINDS = {
    "random",
    "contract",
    "linalg",
    "oracle",
    "loop",
    "comm",
    "extern",
    "reduce",
    "python",
}


def inputs_of(node: Node) -> tuple[Node, ...]:
    """All nodes that a node depends on, those inside a loop's body that it captures included."""
    if node.op != "loop":
        return node.inputs
    region: Region = node["body"]
    return (*node.inputs, *captured(region))


def captured(region: Region) -> tuple[Node, ...]:
    """The nodes outside a region that its body reads, in a stable order."""
    inside = set(body_nodes(region))
    free: dict[Node, None] = {}
    for node in (*inside, *region.outputs, *((region.until,) if region.until else ())):
        for source in (node, *inputs_of(node)) if node in inside else (node,):
            if (
                source not in inside
                and source not in region.parameters
                and source is not region.index
            ):
                free[source] = None
    return tuple(sorted(free, key=lambda n: n.number))


def body_nodes(region: Region) -> list[Node]:
    """The nodes that depend on the region's parameters or index, inputs first."""
    roots = [*region.outputs, *((region.until,) if region.until else ())]
    bound = {*region.parameters, region.index}
    depends: dict[Node, bool] = {}
    order = []
    for node in postorder(roots):
        depends[node] = node in bound or any(depends[i] for i in inputs_of(node))
        if depends[node] and node not in bound:
            order.append(node)
    return order


def _mixes(node: Node) -> bool:
    """Whether a node is where workers meet, or a loop in which they do."""
    return node.kind == "comm" or node.op == "loop" and any(map(_mixes, body_nodes(node["body"])))


def asks(node: Node) -> bool:
    """Whether a node asks the loop for a loss or a derivative."""
    if node.op == "loop":
        return any(map(asks, body_nodes(node["body"])))
    return node.kind in ("oracle", "extern") and node.op != "evaluate"


def may_fail(node: Node) -> bool:
    """Whether torch may refuse to compute a node: of a matrix that is singular, or not finite."""
    if node.op == "loop":
        return any(map(may_fail, body_nodes(node["body"])))
    return node.kind == "linalg" and node.op not in ("qr", "upper")


def postorder(roots: Iterable[Node]) -> Iterator[Node]:
    """Every node that the roots depend on, inputs before users, without recursion."""
    seen: set[Node] = set()
    stack = [(node, False) for node in reversed(list(roots))]
    while stack:
        node, ready = stack.pop()
        if ready:
            yield node
        elif node not in seen:
            seen.add(node)
            stack.append((node, True))
            stack.extend((i, False) for i in reversed(inputs_of(node)) if i not in seen)


def users(roots: Iterable[Node]) -> dict[Node, list[Node]]:
    """Who reads each node."""
    result: dict[Node, list[Node]] = {}
    for node in postorder(roots):
        result.setdefault(node, [])
        for source in inputs_of(node):
            result.setdefault(source, []).append(node)
    return result


def substitute(graph: Graph, roots: Iterable[Node], table: dict[Node, Node]) -> dict[Node, Node]:
    """Every node under the roots with the table's replacements made; the table is not searched
    again.
    """
    done = dict(table)
    for node in postorder(roots):
        if node in done:
            continue
        inputs = tuple(done[i] for i in node.inputs)
        if node.op == "loop":
            done[node] = _loop_with(graph, node, inputs, done)
        else:
            done[node] = graph.rebuild(node, inputs)
    return done


def _loop_with(graph: Graph, node: Node, inputs: tuple[Node, ...], done: dict[Node, Node]) -> Node:
    region: Region = node["body"]
    free = captured(region)
    changed = {n: done[n] for n in free if done.get(n, n) is not n}
    if changed:
        ends = [*region.outputs, *((region.until,) if region.until else ())]
        inner = substitute(graph, ends, {**changed, **{p: p for p in region.parameters}})
        region = Region(
            region.parameters,
            region.index,
            tuple(inner[n] for n in region.outputs),
            inner[region.until] if region.until else None,
        )
    elif inputs == node.inputs:
        return node
    return graph.add("loop", *inputs, type=node.type, span=node.span, body=region)


def as_networkx(graph: Graph) -> Any:
    """The graph as a networkx DiGraph, edges from inputs to users, for analyses."""
    import networkx

    result = networkx.DiGraph()
    for node in postorder(graph.roots()):
        result.add_node(node)
        result.add_edges_from((source, node) for source in inputs_of(node))
    return result
