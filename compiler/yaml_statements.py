"""Statements of the YAML form: a mapping with one leading key, expressions as texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import yaml

from . import syntax as s
from .builder import clean_doc
from .expression_text import text
from .parse import parse_expression
from .source import CompileError, Diagnostic, Source, Span, nearest
from .yaml_nodes import Node, Nodes

T = TypeVar("T")
Entries = dict[str, tuple[Node, Node]]

NOTES = ("comments", "comment", "after")
STATEMENT_KEYS = {
    "bind": (),
    **dict.fromkeys(("target", "state", "var", "input", "loss", "oracle"), ()),
    "write": (),
    "always": (),
    **{kind: ("as", "when") for kind in (*s.KINDS, "step") if kind != "function"},
    "veto": (),
    "snapshot": (),
    "restore": ("when",),
    "return": (),
    "eval": (),
    "metric": (),
    "for": ("where", "other", "do"),
    "other": (),
    "repeat": ("as", "until", "do"),
    "every": ("do", "else"),
    "if": ("then", "else"),
    "paper": ("address",),
    "address": (),
    "store": (),
    "run": (),
}
"""The leading key of a statement -> the keys that may stand beside it."""


class Statements:
    """Reads statements, and the parts of them that items have too."""

    def __init__(self, source: Source):
        self.source = source
        self.nodes = Nodes(source)
        self.found: list[Diagnostic] = []

    # What all parts share

    def each(self, nodes: Sequence[Node], read: Callable[[Node], Sequence[T]]) -> tuple[T, ...]:
        """Reads all, and goes on behind what is wrong."""
        result: list[T] = []
        for node in nodes:
            try:
                result += read(node)
            except CompileError as error:
                self.found += error.diagnostics
        return tuple(result)

    def expr(self, node: Node) -> Any:
        """An expression, with spans into the YAML where its text stands there as it is."""
        if isinstance(node, yaml.SequenceNode):
            self.nodes.fail("E113", "an expression is a text", self.nodes.span(node),
                            "write a tuple as (0.9, 0.999), cells as '[1.0, 2.0]'")  # fmt: skip
        value, span = self.nodes.scalar(node, "an expression"), self.nodes.span(node)
        written = self.source.text[node.start_mark.index : node.end_mark.index]
        if span.row == span.end_row and value in (written, written[1:-1]):
            quote = int(value != written)
            at = Span(self.source, span.row, span.column + quote, span.row, span.end_column)
            return parse_expression(value, self.source, at, exact=True)
        return parse_expression(value, self.source, span)

    def maybe(self, entries: Entries, key: str) -> Any:
        return self.expr(entries[key][1]) if key in entries else None

    def head(self, entries: Entries, heads: Sequence[str], node: Node, what: str) -> str:
        """The leading key: the first one, if the mapping has one of them."""
        found = [key for key in entries if key in heads]
        if "address" in found and "paper" in found:
            found.remove("address")
        if "for" in found and "other" in found:
            found.remove("other")
        if found:
            return found[0]
        first = next(iter(entries), "")
        self.nodes.fail("E113", f"`{first}` begins no {what}", self.nodes.span(node),
                        nearest(first, heads))  # fmt: skip

    def notes(self, entries: Entries) -> dict[str, Any]:
        """The comments of a statement."""
        result: dict[str, Any] = {}
        if "comment" in entries:
            result["comment"] = self.nodes.line(entries["comment"][1], "a comment")
        for key in ("comments", "after"):
            if key in entries:
                lines = self.nodes.sequence(entries[key][1], f"`{key}`")
                result[key] = tuple(self.nodes.line(line, "a comment") for line in lines)
        return result

    def doc(self, entries: Entries) -> str:
        if "doc" not in entries:
            return ""
        node = entries["doc"][1]
        doc = self.nodes.scalar(node, "a doc string")
        if '"""' in doc:
            self.nodes.fail("E113", 'a doc string has no `"""`', self.nodes.span(node))
        return clean_doc(f"\n{doc}")

    def inputs(self, entries: Entries) -> tuple[s.Input, ...]:
        if "inputs" not in entries:
            return ()
        node = entries["inputs"][1]
        if isinstance(node, yaml.SequenceNode):
            names = [(n, self.nodes.name(n)) for n in node.value]
            self.distinct(names)
            return tuple(s.Input(name, span=self.nodes.span(n)) for n, name in names)
        return tuple(
            s.Input(
                self.nodes.name(key),
                None if self.nodes.is_null(value) else self.type(value),
                span=self.nodes.between(key, value),
            )
            for key, value in self.nodes.mapping(node, "`inputs`").values()
        )

    def distinct(self, names: Sequence[tuple[Node, str]]) -> None:
        seen: set[str] = set()
        for node, name in names:
            if name in seen:
                self.nodes.fail("E114", f"`{name}` stands twice", self.nodes.span(node))
            seen.add(name)

    def type(self, node: Node) -> s.TypeExpr:
        """A type, out of the expression that it looks like."""
        match self.expr(node):
            case s.Name(id=reach, primes=0, span=span):
                return s.TypeExpr(reach, span=span)
            case s.Index(base=s.Name(id=reach, primes=0), items=items, span=span):
                return s.TypeExpr(reach, tuple(self.axis(item) for item in items), span=span)
        self.nodes.fail("E113", "this is no type", self.nodes.span(node),
                        "as in `model`, `element[window(m)]`")  # fmt: skip

    def axis(self, expr: Any) -> s.AxisType:
        match expr:
            case s.Name(id=name, primes=primes, span=span):
                return s.AxisType(name, None, primes, span=span)
            case s.Call(
                function=s.Name(id=name, primes=primes),
                arguments=(s.Argument(name="", value=size),),
                wrt="",
                separator=-1,
                span=span,
            ):
                return s.AxisType(name, size, primes, span=span)
        self.nodes.fail("E113", "this is no axis of a type", expr.span, "as in `window(m)`")

    # Statements

    def block(self, entries: Entries, key: str, nested: bool = True) -> tuple[s.Statement, ...]:
        if key not in entries:
            return ()
        stmts = self.each(self.nodes.sequence(entries[key][1], f"`{key}`"), self.statement)
        for stmt in stmts:
            if isinstance(stmt, s.Store | s.Run):
                self.nodes.fail("E113", "how a rule runs is said apart from it", stmt.span,
                                "in an item `schedule: NAME`, NAME being the rule")  # fmt: skip
            if nested and isinstance(stmt, s.Paper):
                self.nodes.fail("E113", "`paper` stands in the outermost steps", stmt.span)
        return stmts

    def body(self, entries: Entries, key: str, node: Node) -> tuple[s.Statement, ...]:
        stmts = self.block(entries, key)
        if not stmts and not self.found:
            self.nodes.fail("E113", f"a block of statements stands under `{key}`",
                            self.nodes.span(node))  # fmt: skip
        return stmts

    def statement(self, node: Node) -> Sequence[s.Statement]:
        entries = self.nodes.mapping(node, "a statement")
        head = self.head(entries, tuple(STATEMENT_KEYS), node, "statement")
        self.nodes.known(entries, (head, *STATEMENT_KEYS[head], *NOTES), f"`{head}`")
        common = {"span": self.nodes.span(node), **self.notes(entries)}
        if head == "bind":
            return self.binds(entries[head][1], common)
        read = _STATEMENTS.get(head, Statements.step)
        return [read(self, head, entries[head][1], entries, common)]

    def binds(self, node: Node, common: dict[str, Any]) -> list[s.Bind]:
        """A bind an entry; the comments belong to the first."""
        result: list[s.Bind] = []
        for left, (key, value) in self.nodes.mapping(node, "`bind`").items():
            names = tuple(part.strip() for part in left.split(","))
            for name in names:
                self.nodes.name(yaml.ScalarNode("", name, key.start_mark, key.end_mark))
            self.distinct([(key, name) for name in names])
            own = common if not result else {}
            result.append(
                s.Bind(names, self.expr(value), **{**own, "span": self.nodes.between(key, value)})
            )
        if not result:
            self.nodes.fail("E113", "`bind` names a value", self.nodes.span(node))
        return result

    def declare(self, head: str, node: Node, entries: Entries, common: Any) -> s.Declare:
        if isinstance(node, yaml.ScalarNode):
            slots = [s.Slot(self.nodes.name(node), span=self.nodes.span(node))]
        elif isinstance(node, yaml.SequenceNode):
            names = [(n, self.nodes.name(n)) for n in node.value]
            self.distinct(names)
            slots = [s.Slot(name, span=self.nodes.span(n)) for n, name in names]
        else:
            parts = self.nodes.mapping(node, f"`{head}`")
            slots = [self.slot(head, key, value) for key, value in parts.values()]
        if not slots:
            self.nodes.fail("E113", f"`{head}` declares nothing", self.nodes.span(node))
        return s.Declare(head, tuple(slots), **common)

    def slot(self, head: str, key: Node, node: Node) -> s.Slot:
        name, span = self.nodes.name(key), self.nodes.between(key, node)
        if self.nodes.is_null(node):
            return s.Slot(name, span=span)
        if not isinstance(node, yaml.MappingNode) and head != "oracle":
            return s.Slot(name, None, self.expr(node), span=span)
        parts = self.nodes.mapping(node, f"a slot of `{head}`")
        keys = ("inputs", "type") if head == "oracle" else ("type", "value")
        self.nodes.known(parts, keys, f"a slot of `{head}`")
        type = self.type(parts["type"][1]) if "type" in parts else None
        inputs = self.inputs(parts)
        if any(i.type is not None for i in inputs):
            self.nodes.fail("E113", "the inputs of an oracle are names only", span)
        parameters = tuple(i.name for i in inputs)
        return s.Slot(name, type, self.maybe(parts, "value"), parameters, span=span)

    def write(self, head: str, node: Node, entries: Entries, common: Any) -> s.Write:
        pairs = list(self.nodes.mapping(node, f"`{head}`").values())
        places = tuple(self.place(key) for key, _ in pairs)
        values = tuple(self.expr(value) for _, value in pairs)
        if not pairs:
            self.nodes.fail("E113", f"`{head}` writes nothing", self.nodes.span(node))
        self.distinct([(node, text(place)) for place in places])
        return s.Write(places, values, head == "always", **common)

    def place(self, node: Node) -> s.Name | s.Index:
        place = self.expr(node)
        match place:
            case s.Name(primes=0) | s.Index(base=s.Name(primes=0)):
                return place
        self.nodes.fail("E113", "only a slot or a part of one is written", self.nodes.span(node))

    def step(self, head: str, node: Node, entries: Entries, common: Any) -> s.Step:
        alias = self.nodes.name(entries["as"][1]) if "as" in entries else ""
        return s.Step(head, self.expr(node), alias, self.maybe(entries, "when"), **common)

    def outcome(self, head: str, node: Node, entries: Entries, common: Any) -> s.Outcome:
        if head != "restore":
            return s.Outcome(head, self.expr(node), **common)
        if "when" not in entries:
            self.nodes.fail("E113", "`restore` says `when`", common["span"])
        return s.Outcome(head, self.maybe(entries, "when"), self.expr(node), **common)

    def return_(self, head: str, node: Node, entries: Entries, common: Any) -> s.Return:
        return s.Return(self.expr(node), **common)

    def eval(self, head: str, node: Node, entries: Entries, common: Any) -> s.Eval:
        return s.Eval(self.expr(node), **common)

    def metric(self, head: str, node: Node, entries: Entries, common: Any) -> s.Metric:
        pairs = list(self.nodes.mapping(node, "`metric`").values())
        if len(pairs) != 1:
            self.nodes.fail("E113", "`metric` names one value", self.nodes.span(node))
        return s.Metric(self.nodes.name(pairs[0][0]), self.expr(pairs[0][1]), **common)

    def for_(self, head: str, node: Node, entries: Entries, common: Any) -> s.For:
        other = "other" in entries and self.nodes.boolean(entries["other"][1], "`other`")
        target, where = self.nodes.name(node), self.maybe(entries, "where")
        if other and where is not None:
            self.nodes.fail("E113", "what is `other` has no `where`", common["span"])
        if target == "other":
            self.nodes.fail("E113", "`other` is no target", self.nodes.span(node),
                            "write `other:` and the statements")  # fmt: skip
        return s.For(target, where, self.body(entries, "do", node), other, **common)

    def other(self, head: str, node: Node, entries: Entries, common: Any) -> s.For:
        return s.For("", None, self.body(entries, "other", node), True, **common)

    def repeat(self, head: str, node: Node, entries: Entries, common: Any) -> s.Repeat:
        index = self.nodes.name(entries["as"][1]) if "as" in entries else ""
        body = self.body(entries, "do", node)
        return s.Repeat(self.expr(node), body, index, self.maybe(entries, "until"), **common)

    def every(self, head: str, node: Node, entries: Entries, common: Any) -> s.Every:
        body = self.body(entries, "do", node)
        return s.Every(self.expr(node), body, self.block(entries, "else"), **common)

    def if_(self, head: str, node: Node, entries: Entries, common: Any) -> s.If:
        body = self.body(entries, "then", node)
        return s.If(self.expr(node), body, self.block(entries, "else"), **common)

    def paper(self, head: str, node: Node, entries: Entries, common: Any) -> s.Paper:
        given = entries.get("address")
        address = self.nodes.text(given[1], "an address") if given else ""
        if head == "address":
            return s.Paper(0, address, **common)
        number = self.expr(node)
        if not isinstance(number, s.Number) or not isinstance(number.value, int):
            self.nodes.fail("E113", "a paper is a number", self.nodes.span(node),
                            "an address stands under `address`")  # fmt: skip
        return s.Paper(number.value, address, **common)

    def store(self, head: str, node: Node, entries: Entries, common: Any) -> s.Store:
        pairs = list(self.nodes.mapping(node, "`store`").values())
        if len(pairs) != 1:
            self.nodes.fail("E113", "`store` names one slot", self.nodes.span(node))
        return s.Store(self.expr(pairs[0][0]), self.expr(pairs[0][1]), **common)

    def run(self, head: str, node: Node, entries: Entries, common: Any) -> s.Run:
        return s.Run(self.expr(node), **common)


_STATEMENTS: dict[str, Callable[..., s.Statement]] = {
    **dict.fromkeys(("target", "state", "var", "input", "loss", "oracle"), Statements.declare),
    **dict.fromkeys(("write", "always"), Statements.write),
    **dict.fromkeys(("veto", "snapshot", "restore"), Statements.outcome),
    "return": Statements.return_,
    "eval": Statements.eval,
    "metric": Statements.metric,
    "for": Statements.for_,
    "other": Statements.other,
    "repeat": Statements.repeat,
    "every": Statements.every,
    "if": Statements.if_,
    **dict.fromkeys(("paper", "address"), Statements.paper),
    "store": Statements.store,
    "run": Statements.run,
}
