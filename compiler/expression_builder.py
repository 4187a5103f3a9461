"""The parse tree of expressions to syntax, and what building any node needs: spans, comments."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from lark import Token
from lark.visitors import Transformer_NonRecursive

from . import syntax as s
from .layout import LIMIT, UNITS, Note
from .operators import BINARY, COMPARISON, NOT, POWER, PREFIX
from .source import Diagnostic, Source, Span

N = TypeVar("N", bound=s.Syntax)
S = TypeVar("S", bound=s.Statement)

MOST_DIGITS = 40


@dataclass(frozen=True)
class Place:
    """Where a text lies in its source: shifted, or (`fixed`) no more exact than a whole span."""

    source: Source
    row: int = 0
    column: int = 0
    fixed: Span | None = None

    def span(self, row: int, column: int, end_row: int, end_column: int) -> Span:
        if self.fixed is not None:
            return self.fixed
        return Span(
            self.source,
            row + self.row,
            column + (self.column if row == 1 else 0),
            end_row + self.row,
            end_column + (self.column if end_row == 1 else 0),
        )

    def of(self, token: Token) -> Span:
        row, column = token.line or 1, token.column or 1
        return self.span(row, column, token.end_line or row, token.end_column or column)


@dataclass(frozen=True)
class Several:
    """The parts of a list in the grammar, which is no node of its own."""

    items: tuple[Any, ...]
    span: Span | None
    commas: bool = False


class Expressions(Transformer_NonRecursive):  # type: ignore[type-arg]
    """Builds expressions; what is wrong beyond the grammar lands in `diagnostics`."""

    def __init__(self, origin: Place, notes: dict[int, Note], trailing: list[str]):
        super().__init__()
        self.origin = origin
        self.notes = notes
        self.trailing = trailing
        self.diagnostics: list[Diagnostic] = []
        self.heights: dict[int, int] = {}

    # What all rules share

    def wrong(self, message: str, span: Span, help: str = "", code: str = "E101") -> None:
        self.diagnostics.append(Diagnostic(code, message, span, help))

    def span(self, children: Sequence[Any]) -> Span:
        """From the first to the last part that is written."""
        spans = [span for span in map(self.span_of, children) if span is not None]
        return spans[0].until(spans[-1]) if spans else self.origin.span(1, 1, 1, 1)

    def span_of(self, part: Any) -> Span | None:
        if isinstance(part, Token):
            return None if part.type.startswith("_") else self.origin.of(part)
        return getattr(part, "span", None)

    def expression_of(self, kind: type[N], span: Span, /, *operands: Any, **fields: Any) -> N:
        """An expression node, unless it is nested too deep for those who walk the tree."""
        height = 1 + max((self.heights.get(id(part), 0) for part in operands), default=0)
        if height > LIMIT:
            self.wrong(f"this expression is nested more than {LIMIT} levels deep", span,
                       "name the inner parts in lines of their own", "E104")  # fmt: skip
            height = 1
        node = kind(**fields, span=span)
        self.heights[id(node)] = height
        return node

    def statement(self, kind: type[S], children: Sequence[Any], /, **fields: Any) -> S:
        first = children[0]
        while isinstance(first, Several) and first.items:
            first = first.items[0]
        row = first.line if isinstance(first, Token) else first.span.row
        note = self.notes.get(row or 1, Note())
        return kind(
            **fields,
            span=self.span(children),
            comments=tuple(note.above),
            comment=note.behind,
            after=tuple(note.below),
        )

    def several(self, children: list[Any]) -> Several:
        items = tuple(c for c in children if c is not None and not isinstance(c, Token | Several))
        commas = any(isinstance(c, Token) and c.type == "COMMA" for c in children)
        return Several(items, self.span(children) if items else None, commas)

    slots = axes = indices = arguments = exprs = places = _flat = several

    def second(self, children: list[Any]) -> Any:
        """The content of an optional part behind its sign or word."""
        return children[1]

    typed = given = result = size = when = where = until = within = orelse = second

    def alias(self, children: list[Any]) -> Any:
        return children[1]

    over = alias

    def comma(self, children: list[Any]) -> Any:
        return children[0]

    def expression(self, children: list[Any]) -> Any:
        return children[0]

    def lambda_(self, children: list[Any]) -> Any:
        left, _, body = children
        parts = left.items if isinstance(left, s.Tuple) else (left,)
        if not all(isinstance(p, s.Name) and not p.primes for p in parts):
            self.wrong("left of `->` stands a name, or names in parentheses", left.span)
        names = tuple(p.id for p in parts if isinstance(p, s.Name))
        if len(set(names)) != len(names):
            self.wrong("two parameters have the same name", left.span)
        return self.expression_of(s.Lambda, self.span(children), body, parameters=names, body=body)

    def chain(self, children: list[Any]) -> Any:
        """Operands and operators in the order of the text, grouped by `operators.BINARY`."""
        operands: list[Any] = []
        pending: list[tuple[Token, int, bool]] = []

        def reduce_down_to(level: int) -> None:
            while pending and pending[-1][1] >= level:
                self.apply(pending.pop(), operands)

        ready = False
        for part in children:
            if not isinstance(part, Token):
                operands.append(part)
                ready = True
            elif ready:
                level = BINARY[part]
                if level == COMPARISON:
                    reduce_down_to(level + 1)
                    if pending and pending[-1][1] == COMPARISON:
                        self.wrong("comparisons do not chain", self.origin.of(part),
                                   "write `a < b and b < c`")  # fmt: skip
                reduce_down_to(level + 1 if level == POWER else level)
                pending.append((part, level, False))
                ready = False
            else:
                if part == "not" and pending and pending[-1][1] > NOT:
                    self.wrong("`not` stands in parentheses here", self.origin.of(part))
                pending.append((part, PREFIX[part], True))
        reduce_down_to(0)
        return operands[0]

    def apply(self, entry: tuple[Token, int, bool], operands: list[Any]) -> None:
        sign, _, prefix = entry
        right = operands.pop()
        if prefix:
            span = self.origin.of(sign).until(right.span)
            node: Any = self.expression_of(s.Unary, span, right, op=str(sign), operand=right)
        else:
            left = operands.pop()
            span = left.span.until(right.span)
            node = self.expression_of(
                s.Binary, span, left, right, op=str(sign), left=left, right=right
            )
        operands.append(node)

    def call(self, children: list[Any]) -> s.Call:
        function, _, before, behind, _ = children
        arguments = before.items + (behind.items if behind is not None else ())
        wrt = ""
        match function:
            case s.Index(base=s.Name(primes=0) as base, items=(s.Name(primes=0) as target,)):
                function, wrt = base, target.id
        return self.expression_of(
            s.Call,
            self.span(children),
            function,
            *(argument.value for argument in arguments),
            function=function,
            arguments=arguments,
            wrt=wrt,
            separator=len(before.items) if behind is not None else -1,
        )

    def argument(self, children: list[Any]) -> s.Argument:
        name = str(children[0]) if len(children) == 3 else ""
        return s.Argument(name, children[-1], span=self.span(children))

    def index(self, children: list[Any]) -> s.Index:
        base, items = children
        return self.expression_of(
            s.Index, self.span(children), base, *items.items, base=base, items=items.items
        )

    def slice_(self, children: list[Any]) -> s.Slice:
        return s.Slice(span=self.span(children))

    def attribute(self, children: list[Any]) -> s.Attribute:
        base, _, name = children
        return self.expression_of(s.Attribute, self.span(children), base, base=base, name=str(name))

    def name(self, children: list[Any]) -> s.Name:
        base = children[0].rstrip("'")
        primes = len(children[0]) - len(base)
        return self.expression_of(s.Name, self.span(children), id=base, primes=primes)

    def number(self, children: list[Any]) -> s.Number:
        text, span = str(children[0]), self.span(children)
        if len(text) > MOST_DIGITS:
            self.wrong(f"a number has at most {MOST_DIGITS} digits", span, code="E105")
            text = "0"
        value = int(text) if text.isdigit() else float(text)
        if value == float("inf"):
            self.wrong("this number is too large", span, "infinity is `inf`", "E105")
        return self.expression_of(s.Number, span, value=value, text=text)

    def quantity(self, children: list[Any]) -> s.Quantity:
        number = self.number(children[:1])
        unit = UNITS[children[1]]
        return self.expression_of(s.Quantity, self.span(children), number, value=number, unit=unit)

    def text(self, children: list[Any]) -> s.Text:
        value = re.sub(r"\\(.)", r"\1", children[0][1:-1])
        return self.expression_of(s.Text, self.span(children), value=value)

    def list_(self, children: list[Any]) -> s.List:
        values = self.unnamed(children[1].items)
        return self.expression_of(s.List, self.span(children), *values, items=values)

    def group(self, children: list[Any]) -> Any:
        """Parentheses: round one expression, or a tuple if there is a comma."""
        values = self.unnamed(children[1].items)
        span = self.span(children)
        commas = children[1].commas
        if len(values) == 1 and not commas:
            inner = replace(values[0], span=span)
            self.heights[id(inner)] = self.heights.get(id(values[0]), 1)
            return inner
        if not values:
            self.wrong("an expression is missing between these parentheses", span)
        return self.expression_of(s.Tuple, span, *values, items=values)

    def unnamed(self, arguments: Sequence[s.Argument]) -> tuple[Any, ...]:
        for argument in arguments:
            if argument.name:
                self.wrong("`=` stands between the parentheses of a call", argument.span)
        return tuple(argument.value for argument in arguments)
