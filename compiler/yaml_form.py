"""The YAML form: `parse_yaml` reads the same syntax as `parse`, `to_yaml` writes it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import yaml

from . import syntax as s
from .source import CompileError, Source
from .yaml_nodes import Node
from .yaml_statements import NOTES, Entries, Statements
from .yaml_writer import to_yaml

__all__ = ["parse_yaml", "to_yaml"]

ITEM_KEYS = {
    "rule": ("options", "over", "doc", "steps"),
    **{kind: ("inputs", "options", "returns", "doc", "steps", "checks") for kind in s.KINDS},
    "extern": ("inputs", "options", "returns"),
    "bundle": ("doc", "members"),
    "use": (),
    "schedule": ("doc", "steps"),
}
"""The leading key of an item -> the keys that may stand beside it."""


def parse_yaml(source: Source) -> s.File:
    """The syntax of a rule written as YAML; raises a CompileError with everything that is wrong."""
    reader = _Reader(source)
    root = reader.nodes.root()
    file = reader.file(root) if root is not None else s.File("", ())
    if reader.found:
        raise CompileError(reader.found)
    return file


class _Reader(Statements):
    # The file and its items

    def file(self, root: Node) -> s.File:
        entries = self.nodes.mapping(root, "a file")
        if "items" not in entries:
            return s.File("", self.each([root], self.item), span=self.nodes.span(root))
        self.nodes.known(entries, ("doc", "items", "trailing"), "a file")
        items = self.nodes.sequence(entries["items"][1], "`items`")
        trailing = entries.get("trailing")
        lines = self.nodes.sequence(trailing[1], "`trailing`") if trailing else []
        return s.File(
            self.doc(entries),
            self.each(items, self.item),
            tuple(self.nodes.line(line, "a comment") for line in lines),
            span=self.nodes.span(root),
        )

    def item(self, node: Node) -> Sequence[s.Statement]:
        entries = self.nodes.mapping(node, "an item")
        head = self.head(entries, tuple(ITEM_KEYS), node, "item of a file")
        self.nodes.known(entries, (head, *ITEM_KEYS[head], *NOTES), f"`{head}`")
        common = {"span": self.nodes.span(node), **self.notes(entries)}
        name = self.nodes.name(entries[head][1])
        read = _ITEMS.get(head, _Reader.primitive)
        item = read(self, head, name, entries, common)
        named = [part for key in ("inputs", "options") for part in getattr(item, key, ())]
        named += [s.Input(n) for bind in getattr(item, "members", ()) for n in bind.names]
        self.distinct([(node, part.name) for part in named])
        parts = [getattr(item, part, ()) for part in ("doc", "body", "checks", "members")]
        if isinstance(item, s.Rule | s.Primitive | s.Bundle | s.Schedule) and not (
            any(parts) or self.found
        ):
            self.nodes.fail("E113", f"the {head} `{name}` says nothing", common["span"])
        return [item]

    def rule(self, head: str, name: str, entries: Entries, common: Any) -> s.Rule:
        over = entries.get("over")
        if over and self.nodes.scalar(over[1], "`over`") != "workers":
            self.nodes.fail("E113", "a rule goes over `workers`", self.nodes.span(over[1]))
        return s.Rule(
            name,
            self.options(entries),
            self.block(entries, "steps", nested=False),
            self.doc(entries),
            over is not None,
            **common,
        )

    def primitive(self, head: str, name: str, entries: Entries, common: Any) -> s.Primitive:
        checks = entries.get("checks")
        nodes = self.nodes.sequence(checks[1], "`checks`") if checks else []
        return s.Primitive(
            head,
            name,
            self.inputs(entries),
            self.options(entries),
            self.block(entries, "steps", nested=False),
            self.doc(entries),
            self.each(nodes, self.check),
            self.type(entries["returns"][1]) if "returns" in entries else None,
            **common,
        )

    def extern(self, head: str, name: str, entries: Entries, common: Any) -> s.Extern:
        if "returns" not in entries:
            self.nodes.fail("E113", "an extern says what it `returns`", common["span"])
        type = self.type(entries["returns"][1])
        return s.Extern(name, self.inputs(entries), self.options(entries), type, **common)

    def bundle(self, head: str, name: str, entries: Entries, common: Any) -> s.Bundle:
        members: tuple[Any, ...] = ()
        if "members" in entries:
            node = entries["members"][1]
            if isinstance(node, yaml.SequenceNode):
                members = self.each(node.value, self.statement)
            else:
                members = tuple(self.binds(node, {}))
        for member in members:
            if not isinstance(member, s.Bind):
                self.nodes.fail("E113", "a bundle holds only binds", member.span)
        return s.Bundle(name, members, self.doc(entries), **common)

    def use(self, head: str, name: str, entries: Entries, common: Any) -> s.Use:
        return s.Use(name, **common)

    def schedule(self, head: str, name: str, entries: Entries, common: Any) -> s.Schedule:
        nodes = self.nodes.sequence(entries["steps"][1], "`steps`") if "steps" in entries else []
        lines = self.each(nodes, self.statement)
        for line in lines:
            if not isinstance(line, s.Store | s.Run):
                self.nodes.fail("E113", "a schedule holds only `store` and `run`", line.span)
        kept = tuple(line for line in lines if isinstance(line, s.Store | s.Run))
        return s.Schedule(name, kept, self.doc(entries), **common)

    def options(self, entries: Entries) -> tuple[s.Option, ...]:
        if "options" not in entries:
            return ()
        options = self.nodes.mapping(entries["options"][1], "`options`")
        return tuple(self.option(key, value) for key, value in options.values())

    def option(self, key: Node, value: Node) -> s.Option:
        name, span = self.nodes.name(key), self.nodes.between(key, value)
        if self.nodes.is_null(value):
            return s.Option(name, span=span)
        if not isinstance(value, yaml.MappingNode):
            return s.Option(name, "", self.expr(value), span=span)
        parts = self.nodes.mapping(value, "an option")
        self.nodes.known(parts, ("bound", "default"), "an option")
        bound = self.nodes.name(parts["bound"][1], "a bound") if "bound" in parts else ""
        return s.Option(name, bound, self.maybe(parts, "default"), span=span)

    # Checks

    def check(self, node: Node) -> Sequence[s.Check]:
        entries = self.nodes.mapping(node, "a check")
        self.nodes.known(entries, ("check", "lines", *NOTES), "a check")
        if "check" not in entries or "lines" not in entries:
            self.nodes.fail("E113", "a check has its name and `lines`", self.nodes.span(node))
        name = self.nodes.name(entries["check"][1])
        lines = self.each(self.nodes.sequence(entries["lines"][1], "`lines`"), self.check_line)
        if not lines and not self.found:
            self.nodes.fail("E113", "a check has `lines`", self.nodes.span(node))
        common = {"span": self.nodes.span(node), **self.notes(entries)}
        return [s.Check(name, lines, **common)]

    def check_line(self, node: Node) -> Sequence[s.CheckLine]:
        entries = self.nodes.mapping(node, "a line of a check")
        self.nodes.known(entries, ("given", "gives", "within", *NOTES), "a line of a check")
        if "gives" not in entries:
            self.nodes.fail("E113", "a line of a check says what it `gives`", self.nodes.span(node))
        given = self.arguments(entries["given"][1], False) if "given" in entries else ()
        gives = self.arguments(entries["gives"][1], True)
        if not gives:
            self.nodes.fail("E113", "a line of a check gives something", self.nodes.span(node))
        self.distinct([(node, a.name) for a in gives if a.name])
        common = {"span": self.nodes.span(node), **self.notes(entries)}
        return [s.CheckLine(given, gives, self.maybe(entries, "within"), **common)]

    def arguments(self, node: Node, unnamed: bool) -> tuple[s.Argument, ...]:
        """`name: value` pairs; where it may be `unnamed`, also a value alone or a list of both."""
        if unnamed and isinstance(node, yaml.ScalarNode):
            return (s.Argument("", self.expr(node), span=self.nodes.span(node)),)
        if unnamed and isinstance(node, yaml.SequenceNode):
            return tuple(a for part in node.value for a in self.arguments(part, True))
        return tuple(
            s.Argument(self.nodes.name(key), self.expr(value), span=self.nodes.between(key, value))
            for key, value in self.nodes.mapping(node, "what is given").values()
        )


_ITEMS: dict[str, Callable[..., s.Statement]] = {
    "rule": _Reader.rule,
    "extern": _Reader.extern,
    "bundle": _Reader.bundle,
    "use": _Reader.use,
    "schedule": _Reader.schedule,
}
