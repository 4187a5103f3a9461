"""YAML as plain data with spans: no aliases, no tags, no code, nothing deep or given twice."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, NoReturn

import yaml

from .layout import LIMIT
from .parse import CONTROL, LARGEST
from .source import CompileError, Diagnostic, Source, Span, nearest

Node = yaml.Node
NAME = re.compile(r"[A-Za-z_][A-Za-z_0-9]*")
_DEEPEST = 4 * LIMIT
"""A block in a block is a list in a mapping in a list: two levels of YAML, and some to spare."""


class Nodes:
    """The nodes of one YAML text; what is wrong is raised as a CompileError."""

    def __init__(self, source: Source):
        self.source = source

    def root(self) -> Node | None:
        """The one document of the source, or None if it is empty."""
        text = self.source.text
        if len(text) > LARGEST:
            self.fail("E104", f"the file is longer than {LARGEST // 1024} KB", self.at(None))
        found = CONTROL.search(text.replace("\r\n", "\n"))
        if found:
            self.fail("E101", f"a control character, U+{ord(found[0]):04X}", self.at(None))
        try:
            self._refuse(yaml.parse(text, Loader=yaml.SafeLoader))
            return yaml.compose(text, Loader=yaml.SafeLoader)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            what = error.problem or error.context or "unreadable"
            self.fail("E110", f"this is no YAML: {what}", self.at(mark))
        except (yaml.YAMLError, ValueError) as error:
            self.fail("E110", f"this is no YAML: {error}", self.at(None))

    def _refuse(self, events: Iterable[Any]) -> None:
        depth = 0
        for event in events:
            span = self.at(event.start_mark)
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
                self.fail("E111", "anchors and aliases are no part of a rule", span,
                          "write the value out where it is used")  # fmt: skip
            if getattr(event, "tag", None):
                self.fail("E112", "tags are no part of a rule", span, "leave it out")
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > _DEEPEST:
                self.fail("E104", f"blocks stand in blocks, {LIMIT} deep", span)

    def fail(self, code: str, message: str, span: Span, help: str = "") -> NoReturn:
        raise CompileError([Diagnostic(code, message, span, help)])

    # Spans

    def at(self, mark: Any) -> Span:
        row, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        return Span(self.source, row, column, row, column)

    def span(self, node: Node) -> Span:
        """From the first to the last letter; a block ends where its last part does."""
        last = node
        while isinstance(last, yaml.CollectionNode) and not last.flow_style and last.value:
            last = last.value[-1][1] if isinstance(last, yaml.MappingNode) else last.value[-1]
        end = self.at(last.end_mark)
        if isinstance(last, yaml.ScalarNode) and last.style in ("|", ">"):
            end = self.at(last.start_mark)
        return self.at(node.start_mark).until(end)

    def between(self, first: Node, last: Node) -> Span:
        return self.span(first).until(self.span(last))

    # Values

    def is_null(self, node: Node) -> bool:
        return isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null"

    def scalar(self, node: Node, what: str) -> str:
        if not isinstance(node, yaml.ScalarNode):
            self.fail("E113", f"{what} is one text, no list or mapping", self.span(node))
        if CONTROL.search(node.value):
            self.fail("E101", f"{what} has a control character", self.span(node))
        value: str = node.value
        return value

    def text(self, node: Node, what: str) -> str:
        """A text on one line."""
        value = self.scalar(node, what)
        if "\n" in value:
            self.fail("E113", f"{what} is one line", self.span(node))
        return value

    def line(self, node: Node, what: str) -> str:
        return self.text(node, what).strip()

    def name(self, node: Node, what: str = "a name") -> str:
        value = self.scalar(node, what)
        if not NAME.fullmatch(value):
            self.fail("E113", f"`{value}` is no name", self.span(node),
                      "letters, digits and `_`, a letter first")  # fmt: skip
        return value

    def boolean(self, node: Node, what: str) -> bool:
        value = self.scalar(node, what)
        if value not in ("true", "false"):
            self.fail("E113", f"{what} is `true` or `false`", self.span(node))
        return value == "true"

    def sequence(self, node: Node, what: str) -> list[Node]:
        if not isinstance(node, yaml.SequenceNode):
            self.fail("E113", f"{what} is a list", self.span(node), "begin its lines with `-`")
        return list(node.value)

    def mapping(self, node: Node, what: str) -> dict[str, tuple[Node, Node]]:
        """Key -> its node and the node of its value."""
        if not isinstance(node, yaml.MappingNode):
            self.fail("E113", f"{what} is a mapping, `key: value`", self.span(node))
        result: dict[str, tuple[Node, Node]] = {}
        for key, value in node.value:
            text = self.scalar(key, "a key")
            if text in result:
                self.fail("E114", f"`{text}` is given twice", self.span(key))
            result[text] = (key, value)
        return result

    def known(self, entries: dict[str, tuple[Node, Node]], keys: Iterable[str], what: str) -> None:
        """Complains of a key that means nothing there."""
        keys = list(keys)
        for text, (key, _) in entries.items():
            if text not in keys:
                self.fail("E113", f"{what} has no `{text}`", self.span(key), nearest(text, keys))
