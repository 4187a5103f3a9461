"""What is wrong with a text that the grammar refuses, in the words of those who wrote it."""

from __future__ import annotations

from collections.abc import Collection

from lark import Token

from .layout import INFIX_WORDS, ITEM_WORDS, LINE_WORDS, STATEMENT_WORDS
from .source import nearest

Complaint = tuple[str, str, Token, str]
"""A code, what is wrong, where, and what helps."""

SIGNS = {
    "LPAR": "`(`", "RPAR": "`)`", "LSQB": "`[`", "RSQB": "`]`", "COMMA": "`,`", "COLON": "`:`",
    "SEMICOLON": "`;`", "EQUAL": "`=`", "DOT": "`.`", "ARROW": "`->`", "WRITE": "`<-`",
    "MINUS": "an operator", "OPERATOR": "an operator", "NAME": "a name", "UNIT": "a unit",
    "_NL": "the end of the line", "DOC": "a doc string", "WHEN": "`when`", "AS": "`as`",
    "UNTIL": "`until`", "WHERE": "`where`", "OVER": "`over`", "GIVES": "`gives`",
    "WITHIN": "`within`", "OTHER": "`other`", "$END": "the end",
}  # fmt: skip
"""How the words that the grammar expects are called."""

_EXPRESSION = {"NAME", "NUMBER", "STRING", "LPAR"}

# The mistakes that have an answer of their own: what was found -> what helps.
HELPS = {
    "SEMICOLON": "a statement ends with its line",
    "DOC": "a doc string stands directly below the line that ends in `:`, or opens the file",
    "EQUAL": "equality is `==`; an option of a call stands between its parentheses",
    "WRITE": "`<-` writes a slot; for `less than minus`, put a space between them",
}
WORD_HELPS = {
    "elif": "write `else:` and an `if` below it",
    "while": "a loop is bounded: `repeat n until c:`",
    "def": "a function is `name = p -> expression`, or a `function` of its own",
    "lambda": "write `p -> expression`",
    "if": "a choice is `where(condition, a, b)`",
    "in": "`for` routes tensors; a loop is `repeat n as i:`",
    "print": "a number to report is `metric name = ..`",
    "import": "a rule is data: its functions are those of the language and of primitives",
    "return": "`return` begins a line",
    "**": "a power is `x^y`",
}
SIGN_HELPS = {
    "'": "strings stand in double quotes",
    "&": "both are `a and b`",
    "|": "one of them is `a or b`",
    "!": "write `not a`, or `a != b`",
    "−": "minus is `-`",
    "–": "minus is `-`",
    "×": "times is `*`",
    "·": "times is `*`",
    "←": "a slot is written with `<-`",
    "≤": "write `<=`",
    "≥": "write `>=`",
    "≠": "write `!=`",
    "\u00a0": "this is a no-break space: write plain ones",
}


def broken_word(token: Token) -> Complaint:
    """What is wrong with a word that is none."""
    if token.startswith('"""'):
        return "E103", "this doc string never ends", _start(token, 3), 'it ends with `"""`'
    if token.startswith('"'):
        bad_escape = "\\" in token and token.count('"') > 1
        help = 'a backslash stands only before `"` or another backslash' if bad_escape else ""
        return "E103", "this string never ends on its line", token, help or 'it ends with `"`'
    if token[0].isdigit() or (token[0] == "." and len(token) > 1):
        digits = len(token) - len(token.lstrip("0123456789.eE"))
        names = token[digits:].isidentifier() and digits > 0
        help = f"write `{token[:digits]} * {token[digits:]}`" if names else "as in 3, 0.5, 1e-8"
        return "E105", f"`{token}` is no number", token, help
    letters = token.isalpha() and not token.isascii()
    help = "names are of letters from a to z, digits and `_`" if letters else ""
    help = SIGN_HELPS.get(token, help)
    return "E101", f"`{token}` means nothing here", token, help


def unexpected(tokens: list[Token], at: int, accepted: Collection[str]) -> Complaint:
    """What is wrong with a word that can't stand where it does."""
    token = tokens[at]
    start = _line_start(tokens, at)
    first = tokens[start]
    if token.type == "BROKEN":
        return broken_word(token) if token else ("E101", "this is no statement", token, "")
    if token.type == "_INDENT":
        return "E102", "this block belongs to no line that begins one", tokens[at + 1], ""
    if first.type == "NAME" and at - start <= 1 and _line_words(accepted, at == start):
        return _no_statement(tokens, start, at, accepted)
    if at == start and (token.type in LINE_WORDS.values()):
        return _misplaced(token, accepted)
    wanted = _wanted(accepted)
    found = "the line ends" if token.type in ("_NL", "$END") else f"`{token}` stands"
    help = HELPS.get(token.type, "")
    before = tokens[at - 1] if at else ""
    if token == "*" and before == "*":
        help = WORD_HELPS["**"]
    elif before == "else" and token == "if":
        help = WORD_HELPS["elif"]
    elif before == "<" and token == ">":
        help = "write `a != b`"
    elif token.type == "WRITE" and first == "state":
        help = f"a state begins with `state {before} = ..`; `{before} <- ..` stands below it"
    elif before in WORD_HELPS and tokens[at - 1].type == "NAME":
        help = WORD_HELPS[before]
    elif before == ":" and {"_item", "RSQB"} & set(accepted):
        help = "a slice is a whole axis, `x[:, 0]`"
    elif token.type in ("NAME", "OPERATOR"):
        words = [w for w, kind in INFIX_WORDS.items() if kind in accepted]
        close = nearest(token, [*words, "and", "or"])
        likely = len(token) > 1 and close.startswith("did")
        help = WORD_HELPS.get(token, close if likely else "")
    if "COLON" in accepted and token.type == "_NL":
        return "E101", "this line lacks its `:`", token, help
    where = "where it needs" if token.type in ("_NL", "$END") else "here, where I expect"
    return "E101", f"{found} {where} {wanted}", token, help


def _no_statement(tokens: list[Token], start: int, at: int, accepted: Collection[str]) -> Complaint:
    """A line that begins with a name, and is neither an assignment nor begun by a known word."""
    first = tokens[start]
    items = at == start and "RULE" in accepted
    if first in WORD_HELPS:
        return "E101", f"`{first}` is no word of the language", first, WORD_HELPS[first]
    words = ITEM_WORDS if items else STATEMENT_WORDS
    help = nearest(first, words)
    second = tokens[start + 1]
    if second == "<":
        help = "write `<-` without a space"
    elif (
        second.type != "NAME"
        and [t.type for t in tokens[start + 2 : start + 3]] == ["EQUAL"]
        and len(tokens[start + 1]) == 1
    ):
        help = f"write `{first} <- {first} {tokens[start + 1]} ..`"
    what = "item of a file" if items else "statement"
    if not items and not help.startswith(("did", "write")):
        help = "a statement is `name = ..`, `slot <- ..`, or begins with a word such as `step`"
    return "E101", f"`{first}` begins no {what}", first, help


def _misplaced(token: Token, accepted: Collection[str]) -> Complaint:
    if token.type == "ELSE":
        return "E101", "this `else` belongs to no `if` or `every`", token, ""
    if "RULE" in accepted:
        help = f"known here: {', '.join(sorted(ITEM_WORDS))}"
        return "E101", f"`{token}` stands in a rule or a primitive", token, help
    return "E101", f"`{token}` stands at the level of the file, not in a block", token, ""


def _line_words(accepted: Collection[str], at_start: bool) -> bool:
    """Whether the grammar waits for a whole line, or for what makes a name begin one."""
    return at_start or "WRITE" in accepted


def _wanted(accepted: Collection[str]) -> str:
    names = list(dict.fromkeys(SIGNS[kind] for kind in SIGNS if kind in accepted))
    if _EXPRESSION <= set(accepted):
        names = ["an expression", *(n for n in ("`)`", "`]`", "`:`") if n in names)]
    if not names:
        return "another word"
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


def _line_start(tokens: list[Token], at: int) -> int:
    while at > 0 and tokens[at - 1].type not in ("_NL", "_INDENT", "_DEDENT"):
        at -= 1
    return at


def _start(token: Token, length: int) -> Token:
    """The first signs of a long token."""
    row, column = token.line or 1, token.column or 1
    return Token(token.type, token[:length], token.start_pos, row, column, row, column + length)
