"""Text to syntax: `parse` reads a file, `parse_expression` one expression (of the YAML form)."""

from __future__ import annotations

import functools
import gc
import re
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from . import syntax as s
from .source import CompileError, Diagnostic, Source, Span

if TYPE_CHECKING:
    from lark import Lark, Token
    from lark.parsers.lalr_interactive_parser import InteractiveParser

LARGEST = 256 * 1024
"""Characters that a file may have."""

MOST_ERRORS = 20

CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f\x85\u2028\u2029\ud800-\udfff]")


def parse(source: Source) -> s.File:
    """The syntax of a `.opt` file; raises a CompileError with everything that is wrong in it."""
    text = _readable(source)
    return _Parser(source, _place(source)).file(text)


def parse_expression(text: str, source: Source, at: Span, exact: bool = False) -> s.Expr:
    """The syntax of an expression that stands at `at` in another form of the source.

    `exact` says that the text stands there letter for letter, on one row.
    """
    from .expression_builder import Place

    place = Place(source, at.row - 1, at.column - 1) if exact else Place(source, fixed=at)
    _refuse_control(text, place)
    return _Parser(source, place).expression(text)


def _place(source: Source) -> Any:
    from .expression_builder import Place

    return Place(source)


def _readable(source: Source) -> str:
    """The text with one kind of line end, if it is no binary and not too long."""
    if len(source.text) > LARGEST:
        span = Span(source, 1, 1, 1, 1)
        kilobytes = LARGEST // 1024
        raise CompileError(
            [
                Diagnostic(
                    "E104",
                    f"the file is longer than {kilobytes} KB",
                    span,
                    "a rule is a page; split a library into files",
                )
            ]  # fmt: skip
        )
    text = source.text.removeprefix("\ufeff").replace("\r\n", "\n")  # as Windows writes it
    _refuse_control(text, _place(source))
    return text


def _refuse_control(text: str, place: Any) -> None:
    found = CONTROL.search(text)
    if found is None:
        return
    row = text.count("\n", 0, found.start()) + 1
    column = found.start() - (text.rfind("\n", 0, found.start()) + 1) + 1
    span = place.span(row, column, row, column + 1)
    message = f"the control character U+{ord(found[0]):04X} is no part of a rule"
    raise CompileError([Diagnostic("E101", message, span, "is this a text file, in UTF-8?")])


@functools.cache
def _grammar() -> Lark:
    from lark import Lark
    from lark.lark import PostLex

    from .table_cache import table_file

    class KeepBroken(PostLex):
        always_accept = ("BROKEN", "_NL")

        def process(self, stream: Any) -> Any:
            return stream

    text = (files("optc.spec") / "grammar.lark").read_text(encoding="utf-8")
    collected = gc.isenabled()
    gc.disable()  # Building the table makes many objects and no garbage: a quarter of its time.
    try:
        return Lark(
            text,
            start=["file", "expression"],
            parser="lalr",
            lexer="basic",
            postlex=KeepBroken(),
            keep_all_tokens=True,
            maybe_placeholders=True,
            cache=table_file() or False,
        )
    finally:
        if collected:
            gc.enable()


class _Parser:
    """One parse: feeds the words to the grammar, and goes on behind a line that is wrong."""

    def __init__(self, source: Source, place: Any):
        self.source = source
        self.place = place
        self.diagnostics: list[Diagnostic] = []
        self.rows: set[int] = set()

    def file(self, text: str) -> s.File:
        from .builder import Builder
        from .layout import lay_out

        raw = self.words(text + "\n")
        layout = lay_out(raw, self.complain)
        tree = self.feed(layout.tokens, "file")
        builder = Builder(self.place, layout.notes, layout.trailing)
        result: s.File = builder.transform(tree)
        self.stop(builder.diagnostics)
        return result

    def expression(self, text: str) -> s.Expr:
        from .builder import Builder
        from .layout import fragment

        tokens = fragment(self.words(text), self.complain)
        self.stop([])
        tree = self.feed(tokens, "expression")
        self.stop([])
        builder = Builder(self.place, {}, [])
        result: s.Expr = builder.transform(tree)
        self.stop(builder.diagnostics)
        return result

    def words(self, text: str) -> list[Token]:
        from .mistakes import broken_word

        words = list(_grammar().lex(text))
        for word in words:
            if word.type == "BROKEN":
                self.complain(*broken_word(word))
        return words

    def complain(self, code: str, message: str, token: Token, help: str = "") -> None:
        """Notes what is wrong at a word, once a line: what follows from it is no news."""
        row = token.line or 1
        if row in self.rows:
            return
        self.rows.add(row)
        self.diagnostics.append(Diagnostic(code, message, self.place.of(token), help))

    def stop(self, more: list[Diagnostic]) -> None:
        """Raises what was found, in the order of the text."""
        found = self.diagnostics + more
        if found:
            found.sort(key=lambda d: (d.span.row, d.span.column))
            raise CompileError(found[:MOST_ERRORS])

    def feed(self, tokens: list[Token], start: str) -> Any:
        from lark import Token, UnexpectedToken

        from .mistakes import unexpected

        parser = _grammar().parse_interactive(start=start)
        at = 0
        while at < len(tokens):
            try:
                parser.feed_token(tokens[at])
                at += 1
            except UnexpectedToken:
                self.complain(*unexpected(tokens, at, parser.accepts()))
                if start == "expression" or len(self.diagnostics) > MOST_ERRORS:
                    self.stop([])
                at = _recover(parser, tokens, at)
        try:
            last = tokens[-1] if tokens else Token("_NL", "", 0, 1, 1, 1, 1, 0)
            return parser.feed_eof(last)
        except UnexpectedToken:
            self.complain(*unexpected([*tokens, Token.new_borrow_pos("$END", "", last)],
                                      len(tokens), parser.accepts()))  # fmt: skip
            self.stop([])
            raise


def _recover(parser: InteractiveParser, tokens: list[Token], at: int) -> int:
    """Takes a wrong line for a broken statement; the place behind it and the block below it."""
    from lark import Token

    token = tokens[at]
    if token.type != "_INDENT":
        state = parser.parser_state
        states = state.parse_conf.states
        while "BROKEN" not in states[state.state_stack[-1]]:
            state.state_stack.pop()
            state.value_stack.pop()
        parser.feed_token(Token.new_borrow_pos("BROKEN", "", token))
        parser.feed_token(Token.new_borrow_pos("_NL", "", token))
        while tokens[at].type != "_NL":
            at += 1
        at += 1
    depth = 0
    while at < len(tokens) and (depth or tokens[at].type == "_INDENT"):
        depth += (tokens[at].type == "_INDENT") - (tokens[at].type == "_DEDENT")
        at += 1
    return at
