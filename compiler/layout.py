"""Words to lines: contextual keywords, indentation, brackets, and which comment belongs to what.

The lexer knows names, numbers and signs. Here a name becomes a keyword where it stands as one:
`step lr` is a statement; `steps % m`, `loss(w + d)` and `batch = draw()` use ordinary names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from lark import Token

from .syntax import KINDS

LIMIT = 60
"""Levels of brackets, of blocks, and of operators in one expression."""

ITEM_WORDS = {
    "rule": "RULE",
    **{kind: "KIND" for kind in KINDS},
    "function": "FUNCTION",
    "extern": "EXTERN",
    "bundle": "BUNDLE",
    "use": "USE",
    "schedule": "SCHEDULE",
}
STATEMENT_WORDS = {
    **dict.fromkeys(("target", "state", "var", "input", "loss", "losses"), "DECLARE"),
    "oracle": "ORACLE",
    "always": "ALWAYS",
    **{kind: "KIND" for kind in KINDS if kind != "function"},
    "step": "STEP",
    **dict.fromkeys(("veto", "snapshot"), "OUTCOME"),
    "restore": "RESTORE",
    "return": "RETURN",
    "eval": "EVAL",
    "metric": "METRIC",
    "for": "FOR",
    "other": "OTHER",
    "repeat": "REPEAT",
    "every": "EVERY",
    "if": "IF",
    "else": "ELSE",
    "paper": "PAPER",
    "check": "CHECK",
    "gives": "GIVES",
    "store": "STORE",
    "run": "RUN",
}
LINE_WORDS = {**ITEM_WORDS, **STATEMENT_WORDS}
"""Keywords where they begin a line that is no assignment."""

INFIX_WORDS = {
    word: word.upper() for word in ("when", "as", "until", "where", "over", "gives", "within")
}
"""Keywords where they stand directly behind an operand, where no name can stand."""

ALWAYS_WORDS = {"and": "OPERATOR", "or": "OPERATOR", "not": "NOT"}
UNITS = {"step": "step", "steps": "step", "epoch": "epoch", "epochs": "epoch"}

_OPERAND_ENDS = {"NAME", "PRIMED", "NUMBER", "UNIT", "STRING", "RPAR", "RSQB"}
_OPENS = {"LPAR": "RPAR", "LSQB": "RSQB"}
_CLOSES = {"RPAR": "LPAR", "RSQB": "LSQB"}
_BLOCK_WORDS = {
    "RULE",
    "BUNDLE",
    "SCHEDULE",
    "FOR",
    "OTHER",
    "REPEAT",
    "EVERY",
    "IF",
    "ELSE",
    "CHECK",
}
_NO_BLOCK = "below a line that ends in `:` stands an indented block"
_INDENT_IT = "indent the lines that belong to it by four spaces"

Complain = Callable[[str, str, Token, str], None]
"""Takes a code, what is wrong, where, and what helps."""


@dataclass
class Note:
    """The comments of one statement."""

    above: list[str] = field(default_factory=list)
    behind: str = ""
    below: list[str] = field(default_factory=list)


@dataclass
class Line:
    """One logical line; `end` is the token that ends it, `inner` the comments between brackets."""

    tokens: list[Token]
    end: Token
    inner: list[str]

    @property
    def column(self) -> int:
        return _column(self.tokens[0])


@dataclass
class Layout:
    """The tokens for the grammar, the comments by the row of their statement, those at the end."""

    tokens: list[Token]
    notes: dict[int, Note]
    trailing: list[str]


def lay_out(raw: Iterable[Token], complain: Complain) -> Layout:
    """The words of a file as the grammar wants them."""
    words = list(raw)
    unclosed = match_brackets(words, complain)
    first: list[Token] = []
    lines = list(_lines(words, unclosed, first))
    for line in lines:
        line.tokens = retype(line.tokens)
    notes, trailing = _comments(lines, first)
    return Layout(list(_indent(lines, complain)), notes, trailing)


def fragment(raw: Iterable[Token], complain: Complain) -> list[Token]:
    """The words of a lone expression, in which the end of a line means nothing."""
    words = [token for token in raw if token.type != "_NL"]
    match_brackets(words, complain)
    return retype(words, begins_line=False)


def match_brackets(words: list[Token], complain: Complain) -> set[int]:
    """Complains of brackets without partner; the places of those that are never closed."""
    opened: list[int] = []
    unclosed: set[int] = set()
    for at, token in enumerate(words):
        if token.type in _OPENS:
            opened.append(at)
            if len(opened) == LIMIT + 1:
                complain("E104", f"brackets stand in brackets, {LIMIT} deep", token,
                         "name the inner parts in lines of their own")  # fmt: skip
        elif token.type in _CLOSES:
            while opened and words[opened[-1]].type != _CLOSES[token.type]:
                unclosed.add(opened.pop())
            if opened:
                opened.pop()
            else:
                complain("E101", f"`{token}` closes nothing", token, "")
    unclosed.update(opened)
    for at in sorted(unclosed):
        complain("E101", f"this `{words[at]}` is never closed", words[at], "")
    return unclosed


def retype(tokens: list[Token], begins_line: bool = True) -> list[Token]:
    """Names to keywords, where they stand as such."""
    result: list[Token] = []
    depth, gives = 0, False
    for at, token in enumerate(tokens):
        before = result[-1].type if result else ""
        following = tokens[at + 1].type if at + 1 < len(tokens) else ""
        kind = token.type
        if kind == "NAME":
            if token in ALWAYS_WORDS:
                kind = ALWAYS_WORDS[token]
            elif at == 0 and begins_line and token in LINE_WORDS and not is_assignment(tokens):
                kind = LINE_WORDS[token]
            elif before == "NUMBER" and token in UNITS:
                kind = "UNIT"
            elif token in INFIX_WORDS and before in _OPERAND_ENDS | {"OUTCOME"}:
                kind = INFIX_WORDS[token]
            elif before == "FOR" and token == "other" and following in ("NAME", "COLON"):
                kind = "OTHER"
        depth += (kind in _OPENS) - (kind in _CLOSES)
        gives = gives or (kind == "GIVES" and at > 0 and depth <= 0)
        result.append(Token.new_borrow_pos(kind, str(token), token))
    if gives and begins_line:
        result.insert(0, _empty("GIVEN", result[0]))
    return result


def is_assignment(tokens: list[Token]) -> bool:
    """Whether a line begins with names and then `=`, or with places (`C[i]` too) and then `<-`."""
    at, indexed = 0, False
    while at < len(tokens) and tokens[at].type == "NAME":
        at += 1
        if at < len(tokens) and tokens[at].type == "LSQB":
            depth, indexed = 0, True
            while at < len(tokens):
                depth += (tokens[at].type in _OPENS) - (tokens[at].type in _CLOSES)
                at += 1
                if depth == 0:
                    break
        if at < len(tokens) and tokens[at].type == "COMMA":
            at += 1
        else:
            break
    return at < len(tokens) and tokens[at].type in (("WRITE",) if indexed else ("EQUAL", "WRITE"))


# Lines and blocks -----------------------------------------------------------------------------


def _lines(words: list[Token], unclosed: set[int], first: list[Token]) -> Iterator[Line]:
    tokens: list[Token] = []
    inner: list[str] = []
    depth = 0
    for at, token in enumerate(words):
        if token.type != "_NL":
            depth += token.type in _OPENS and at not in unclosed
            depth -= token.type in _CLOSES and depth > 0
            tokens.append(token)
        elif not tokens:
            first.append(token)
        elif depth > 0 or tokens[-1].type == "COMMA":
            inner.extend(text for text, _ in _comment_lines(token))
        else:
            yield Line(tokens, token, inner)
            tokens, inner = [], []
    if tokens:
        yield Line(tokens, _empty("_NL", tokens[-1], behind=True), inner)


def _indent(lines: list[Line], complain: Complain) -> Iterator[Token]:
    """The tokens of all lines, with _INDENT and _DEDENT where blocks begin and end."""
    open_blocks = [(1, True)]
    above: Line | None = None
    for line in lines:
        column, start = line.column, line.tokens[0]
        if above is not None and "\t" in above.end.rsplit("\n", 1)[-1]:
            complain("E102", "a tab indents this line", start, "indent with spaces, four a level")
        heads = above is not None and _heads_block(above)
        if heads and column <= open_blocks[-1][0] and above is not None:
            if above.tokens[-1].type == "COLON":
                complain("E102", _NO_BLOCK, above.tokens[-1], _INDENT_IT)
                yield from _missing_block(start)
        while column < open_blocks[-1][0]:
            _, real = open_blocks.pop()
            if real:
                yield _empty("_DEDENT", start)
            if column > open_blocks[-1][0]:
                complain("E102", "this indentation is none of those above", start, "")
                column = open_blocks[-1][0]
        if column > open_blocks[-1][0]:
            if heads:
                yield _empty("_INDENT", start)
            else:
                complain("E102", "this line is indented, and the line above begins no block",
                         start, "")  # fmt: skip
            open_blocks.append((column, heads))
            if len(open_blocks) == LIMIT + 2:
                complain("E104", f"blocks stand in blocks, {LIMIT} deep", start, "")
        yield from line.tokens
        yield line.end
        above = line
    if above is not None and above.tokens[-1].type == "COLON" and _heads_block(above):
        complain("E102", _NO_BLOCK, above.tokens[-1], _INDENT_IT)
        yield from _missing_block(above.end)
    for _, real in reversed(open_blocks[1:]):
        if real and above is not None:
            yield _empty("_DEDENT", above.end)


def _heads_block(line: Line) -> bool:
    """A line that ends in `:`, or a head that lacks it (which the grammar then says)."""
    start, last = line.tokens[0], line.tokens[-1]
    at_file_level = start.type in ("KIND", "FUNCTION") and line.column == 1
    return last.type == "COLON" or start.type in _BLOCK_WORDS or at_file_level


def _missing_block(at: Token) -> Iterator[Token]:
    for kind in ("_INDENT", "BROKEN", "_NL", "_DEDENT"):
        yield _empty(kind, at)


# Comments -------------------------------------------------------------------------------------


def _comments(lines: list[Line], first: list[Token]) -> tuple[dict[int, Note], list[str]]:
    """Gives every comment to a statement: the one behind, those above, those below a block."""
    notes: dict[int, Note] = {}
    carried = [text for token in first for text, _ in _comment_lines(token)]
    opened: list[tuple[int, int]] = []
    for at, line in enumerate(lines):
        row = _row(line.tokens[0])
        found = list(_comment_lines(line.end))
        behind = found.pop(0)[0] if line.end.startswith("#") else ""
        if line.tokens[0].type in ("DOC", "ELSE"):
            carried += [*line.inner, behind] if behind else line.inner
        else:
            notes[row] = Note([*carried, *line.inner], behind)
            carried = []
            opened = [entry for entry in opened if entry[0] < line.column]
            opened.append((line.column, row))
        following = lines[at + 1].column if at + 1 < len(lines) else 1
        for text, column in found:
            holder = next((e for e in reversed(opened) if e[0] <= column), None)
            if carried or holder is None or holder[0] <= following:
                carried.append(text)
            else:
                notes[holder[1]].below.append(text)
    return notes, carried


def _comment_lines(token: Token) -> Iterator[tuple[str, int]]:
    """The comments in the end of a line, with their columns."""
    for text in token.split("\n"):
        stripped = text.lstrip(" \t\ufeff")
        if stripped.startswith("#"):
            yield stripped[1:].strip(), len(text) - len(stripped) + 1


def _row(token: Token) -> int:
    return token.line or 1


def _column(token: Token) -> int:
    return token.column or 1


def _empty(kind: str, at: Token, behind: bool = False) -> Token:
    """A token without text, at another one or directly behind it."""
    row = at.end_line if behind else at.line
    column = at.end_column if behind else at.column
    return Token(kind, "", at.start_pos, row, column, row, column, at.end_pos)
