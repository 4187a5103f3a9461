"""What names mean while a rule is read: scopes and the flow of versions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

from . import syntax as s
from .ir import Graph, Node, Slot
from .meanings import POISON, AxisName, Function, Members, Mixing, SlotRef
from .ops import OPS
from .primitive import Declaration, Registry
from .scalars import HOST
from .source import Diagnostic, Source, Span, nearest
from .types import COARSE, MODEL, Axis, Type, TypeClash, coarser_or_equal, meet, union


class Stop(Exception):
    """The statement at hand cannot be read further; its diagnostic is recorded already."""


class Disagreement(Exception):
    """A `var` that each group has is needed as one of the model, in the loop that carries it."""

    def __init__(self, parameter: Node):
        super().__init__(parameter)
        self.parameter = parameter


@dataclass(frozen=True)
class Turn:
    """A turn of a loop that is being read: which one, and of how many (None: only a run tells)."""

    index: Node
    count: int | None


@dataclass
class Scope:
    """Names of one block; looked up outwards.

    `turns` are those of the loops in which the primitive at hand was called; `again` says that its
    body is read once more, at another point, so that its states are there already.
    """

    parent: Scope | None = None
    names: dict[str, Any] = field(default_factory=dict)
    path: str = ""
    target: str = "w"
    in_primitive: bool = False
    block: Scope | None = None
    turns: tuple[Turn, ...] = ()
    again: bool = False
    begins: Span | None = None
    ended: list[Scope] = field(default_factory=list)

    def within(self, begins: Span, **more: Any) -> Scope:
        """The scope of a block that begins there; what it binds ends with it."""
        inner = self.child(begins=begins, **more)
        self.ended.append(inner)
        return inner

    def ending(self, name: str) -> Span | None:
        """Where a block begins that binds a name, and has ended."""
        scope: Scope | None = self
        while scope is not None:
            waiting = list(scope.ended)
            while waiting:
                inner = waiting.pop()
                if name in inner.names:
                    return inner.begins
                waiting += inner.ended
            scope = scope.parent
        return None

    def child(self, **more: Any) -> Scope:
        return Scope(
            self,
            {},
            **{
                "path": self.path,
                "target": self.target,
                "in_primitive": self.in_primitive,
                "block": self.block,
                "turns": self.turns,
                "again": self.again,
                **more,
            },
        )

    def find(self, name: str) -> Any:
        scope: Scope | None = self
        while scope is not None:
            if name in scope.names:
                return scope.names[name]
            scope = scope.parent
        return None

    def visible(self) -> Iterator[str]:
        scope: Scope | None = self
        while scope is not None:
            yield from scope.names
            scope = scope.parent


@dataclass
class Context:
    """All that is shared while one rule becomes a graph."""

    graph: Graph
    registry: Registry
    local: dict[str, Declaration]
    diagnostics: list[Diagnostic] = field(default_factory=list)
    flow: dict[str, Node] = field(default_factory=dict)
    slot_of: dict[str, str] = field(default_factory=dict)
    paths: set[str] = field(default_factory=set)
    sites: dict[str, dict[Span, int]] = field(default_factory=dict)
    instances: dict[str, dict[str, str]] = field(default_factory=dict)
    known_slots: dict[str, Slot] = field(default_factory=dict)
    forward: set[str] = field(default_factory=set)
    always: set[str] = field(default_factory=set)
    targets: list[str] = field(default_factory=list)
    routed: dict[str, str] = field(default_factory=dict)
    aliases: set[str] = field(default_factory=set)
    axes: dict[str, Axis] = field(default_factory=dict)
    domain_key: dict[str, str] = field(default_factory=dict)
    loops: list[Node] = field(default_factory=list)
    conditions: list[Node] = field(default_factory=list)
    batch: Node | None = None
    streams: int = 0
    depth: int = 0
    writes: int = 0
    statements: int = 0
    turns: list[Turn] = field(default_factory=list)
    counted: dict[str, Node] = field(default_factory=dict)
    externs: dict[str, Function] = field(default_factory=dict)
    source: Source | None = None

    def error(self, code: str, message: str, span: Span, help: str = "") -> NoReturn:
        """Record what is wrong and give up on this statement."""
        diagnostic = self._seen_from_the_rule(Diagnostic(code, message, span, help))
        if diagnostic not in self.diagnostics:
            self.diagnostics.append(diagnostic)
        raise Stop

    def _seen_from_the_rule(self, found: Diagnostic) -> Diagnostic:
        """What is wrong inside a library points to the rule's line that called it."""
        if found.span.source == self.source or self.graph.caller is None:
            return found
        return replace(found, span=self.graph.caller, met=found.span)

    def unknown(self, what: str, name: str, known: Any, span: Span, code: str = "E201") -> NoReturn:
        self.error(code, f"unknown {what} `{name}`", span, nearest(name, known))

    @contextmanager
    def deeper(self, span: Span) -> Iterator[None]:
        """Bound the nesting of calls: a function that calls itself never ends."""
        if self.depth > 60:
            self.error("E209", "functions call each other without end", span)
        self.depth += 1
        try:
            yield
        finally:
            self.depth -= 1

    @contextmanager
    def calling(self, span: Span) -> Iterator[None]:
        """While the body of what is called at `span` is read."""
        before = self.graph.caller
        if span.source == self.source:
            self.graph.caller = span
        try:
            yield
        finally:
            self.graph.caller = before

    # Nodes --------------------------------------------------------------------------------

    def map(self, op: str, *inputs: Node, span: Span) -> Node:
        """An element-wise operation; the type is where its operands meet."""
        inputs = self.narrowed(inputs)
        try:
            type = meet([i.type for i in inputs])
        except TypeClash as clash:
            self.error("E301", str(clash), span)
        row = OPS[op]
        if not row.logical and op not in ("where", "copy"):
            inputs = tuple(self.number(i, span) for i in inputs)
        logical = row.logical or (
            op == "where" and inputs[1].type.logical and inputs[2].type.logical
        )
        type = Type(type.reach, type.axes, type.domain, logical)
        return self.graph.add(op, *inputs, type=type, span=span)

    def number(self, value: Node, span: Span) -> Node:
        """A truth value counts 1 or 0 where it is computed with."""
        if not value.type.logical:
            return value
        one, zero = self.graph.const(1.0, span), self.graph.const(0.0, span)
        return self.map("where", value, one, zero, span=span)

    def expand(self, value: Node, type: Type, span: Span) -> Node:
        """Broadcast a coarser value to a type (no-op where it has it)."""
        if value.type.reach == type.reach and same_axes(value.type, type):
            return value
        return self.graph.add("expand", value, type=type, span=span)

    def fits(self, value: Type, slot: Type) -> bool:
        """Whether a value can be broadcast into a slot."""
        axes = all(any(a.same(b) for b in slot.axes) for a in value.axes)
        domain = not value.domain or value.domain == slot.domain or not slot.domain
        return (
            value.kind == "array" and coarser_or_equal(value.reach, slot.reach) and axes and domain
        )

    def where(self, condition: Node, yes: Node, no: Node, span: Span) -> Node:
        return yes if yes is no else self.map("where", condition, yes, no, span=span)

    # Routing --------------------------------------------------------------------------------

    def restrict(self, value: Node, domain: str) -> Node:
        """The value at the cells of a domain only."""
        if not value.type.domain or value.type.domain == domain:
            return value
        if value.op == "merge" and domain in value["domains"]:
            return value.inputs[1 + value["domains"].index(domain)]
        type = replace(value.type, domain=domain)
        return self.graph.add("restrict", value, type=type, span=value.span)

    def narrowed(self, inputs: tuple[Node, ...]) -> tuple[Node, ...]:
        """Values that meet a part of a target count in it at the part's cells only."""
        domains = {i.type.domain for i in inputs if i.type.domain}
        for part in domains:
            above = self.above(part)
            if len(domains) > 1 and domains <= set(above):
                return tuple(self.down(i, above) for i in inputs)
        return inputs

    def above(self, domain: str) -> list[str]:
        """A domain and those that it is a part of, from inside to outside."""
        result = [domain]
        while self.graph.domains[result[-1]].parent:
            result.append(self.graph.domains[result[-1]].parent)
        return result

    def down(self, value: Node, above: list[str]) -> Node:
        """A value from one of these domains at the first of them; any other as it is."""
        if value.type.domain not in above:
            return value
        for domain in reversed(above[: above.index(value.type.domain)]):
            value = self.restrict(value, domain)
        return value

    def merge(self, whole: Node, parts: dict[str, Node], span: Span) -> Node:
        """The whole with the parts of some domains replaced."""
        parts = {d: p for d, p in parts.items() if p is not self.restrict(whole, d)}
        if not parts:
            return whole
        axes = whole.type.axes
        for part in parts.values():
            axes = union(axes, part.type.axes)
        values = [
            self.expand(x, replace(x.type, reach=whole.type.reach, axes=axes), span)
            for x in (whole, *parts.values())
        ]
        type = values[0].type
        return self.graph.add("merge", *values, type=type, span=span, domains=tuple(parts))

    def whole(self, key: str, value: Node, span: Span) -> tuple[str, Node]:
        """A point of a routed part as a point of the whole target."""
        while key in self.routed:
            parent = self.routed[key]
            value = self.merge(self.flow[parent], {value.type.domain: value}, span)
            key = parent
        return key, value

    # Slots ----------------------------------------------------------------------------------

    def domain(self, scope: Scope) -> str:
        """The cells that a block works on: its target's, or those of the one target there is."""
        return self.flow[scope.target].type.domain if scope.target in self.flow else "w"

    def everything(self, domain: str) -> Axis:
        """The axis of all cells of a domain; the host knows how many they are."""
        many = self.graph.add("meta", type=MODEL, known=1, what="total", cells=domain)
        return Axis("all", many)

    def flow_of(self, path: str) -> Node:
        """A slot as it is when the step begins."""
        type = self.graph.slots[path].type
        return self.graph.add("read", type=type, known=2, slot=path)

    def fresh_path(self, name: str) -> str:
        """A name that no other instance has: `adam`, `adam_2`, ..."""
        path, n = name, 1
        while path in self.paths:
            n += 1
            path = f"{name}_{n}"
        self.paths.add(path)
        return path

    def site_path(self, name: str, span: Span) -> str:
        """The name of a call in an expression: its own, however often the expression is read."""
        sites = self.sites.setdefault(name, {})
        n = sites.setdefault(span, len(sites) + 1)
        return name if n == 1 else f"{name}_{n}"

    def declare(self, path: str, kind: str, type: Type, init: Node | None, span: Span) -> str:
        """Add a slot and its first version to the flow; returns its key."""
        self.graph.slots[path] = Slot(path, kind, type, init, span)
        self.flow[path] = self.graph.add("read", type=type, known=2, span=span, slot=path)
        self.slot_of[path] = path
        return path


Block = Callable[[Context, Scope, Iterable[s.Statement]], None]
"""Reads the statements of a block."""


def same_axes(a: Type, b: Type) -> bool:
    return len(a.axes) == len(b.axes) and all(
        x.same(y) for x, y in zip(a.axes, b.axes, strict=True)
    )


def as_node(ctx: Context, value: Any, span: Span, what: str = "this") -> Node:
    """The value as a node of the graph, or an error that says what it is instead."""
    if isinstance(value, SlotRef):
        return ctx.flow[value.key]
    if isinstance(value, Node) and (what == "this" or value.type.kind == "array"):
        return value
    if value is POISON:
        raise Stop
    if isinstance(value, bool | int | float):
        return ctx.graph.const(value, span)
    names = {
        Node: "a batch: a loss takes it, `loss(w, on = batch)`",
        Function: "a function: call it",
        tuple: "a tuple: index it, like `betas[0]`",
        AxisName: "the name of an axis",
        Mixing: "mixing weights: they stand in `mix`",
        Members: "a bundle: name one of its members",
        str: "a text",
    }
    found = next((text for kind, text in names.items() if isinstance(value, kind)), "no value")
    ctx.error("E302", f"{what} must be a value, and it is {found}", span)


REDUCED = (
    "a value of each group stands where one of the model is needed",
    "reduce it `over = model`",
)


def agreed(ctx: Context, value: Node, span: Span, refused: tuple[str, str] = REDUCED) -> Node:
    """A value of the groups as one of the model: the host checks that the groups agree.

    `refused` is what is said of one that the host does not know, and what helps.
    """
    if value.type.reach != "group":
        return value
    if value.op == "option":
        attrs: dict[str, Any] = {k: v for k, v in value.attrs if k != "agree"}
        type = Type("model", logical=value.type.logical)
        return ctx.graph.add("option", type=type, known=1, span=value.span, agree=True, **attrs)
    if value.op in OPS:
        return ctx.map(value.op, *(agreed(ctx, i, span, refused) for i in value.inputs), span=span)
    carried = value.get("of", "") if value.op == "parameter" else ""
    if carried and carried not in ctx.graph.slots:
        raise Disagreement(value)
    coarse = value.inputs and all(i.type.reach in COARSE for i in value.inputs)
    if coarse and value.op != "out":
        inputs = (agreed(ctx, i, span, refused) for i in value.inputs)
        type = replace(value.type, reach="model")
        more: dict[str, Any] = dict(value.attrs)
        return ctx.graph.add(value.op, *inputs, type=type, span=value.span, **more)
    ctx.error("E304", refused[0], span, refused[1])


def constant(node: Any) -> float | int | bool | None:
    """The number that a node is known to be while compiling, or None."""
    if isinstance(node, bool | int | float):
        return node
    if not isinstance(node, Node) or node.known != 0:
        return None
    if node.op == "const":
        return node["value"]
    values = [constant(i) for i in node.inputs]
    if node.op not in HOST or any(v is None for v in values):
        return None
    return HOST[node.op](*values)
