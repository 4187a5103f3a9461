"""Where text comes from and what is wrong with it: Source, Span, Diagnostic, CompileError."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Source:
    """A text and the name it is shown under (a path, or `<string>`)."""

    path: str
    text: str

    def line(self, row: int) -> str:
        """The text of line `row`, counted from 1, without its end."""
        lines = self.text.splitlines()
        return lines[row - 1] if 0 < row <= len(lines) else ""


@dataclass(frozen=True)
class Span:
    """A stretch of a source: rows and columns count from 1, the end column is exclusive.

    `caller` is the rule's own line that led here, if this is a library's.
    """

    source: Source = field(repr=False)
    row: int
    column: int
    end_row: int
    end_column: int
    caller: Span | None = field(default=None, repr=False, compare=False)

    def until(self, other: Span) -> Span:
        """The stretch from the start of this span to the end of the other."""
        return Span(self.source, self.row, self.column, other.end_row, other.end_column)

    def quoted(self) -> str:
        """Where the rule's own line stands, and what it says; without the folders of a machine."""
        at = self.caller or self
        file = at.source.path.replace("\\", "/").rpartition("/")[2]
        return f"{file}:{at.row}:{at.column}: {at.source.line(at.row).strip()}"


NOWHERE = Span(Source("<built in>", ""), 1, 1, 1, 1)


@dataclass(frozen=True)
class Diagnostic:
    """One thing that is wrong: a stable code, what is wrong in the user's words, where, what helps.

    Codes go in bands: E1xx syntax, E2xx names and options, E3xx types, E4xx schedule, E5xx plugins,
    E6xx privacy. `compiler/codes.py` explains each.
    """

    code: str
    message: str
    span: Span
    help: str = ""
    met: Span | None = None
    """Where in a library it was met, if `span` is the call that led there."""

    def __post_init__(self) -> None:
        if self.met is None and self.span.caller is not None:
            object.__setattr__(self, "met", self.span)
            object.__setattr__(self, "span", self.span.caller)

    def __str__(self) -> str:
        span = self.span
        line = span.source.line(span.row).expandtabs(1)
        end = span.end_column if span.end_row == span.row else len(line) + 1
        number = str(span.row)
        text = f"{span.source.path}:{span.row}:{span.column}: error[{self.code}]: {self.message}"
        if line:
            mark = " " * (span.column - 1) + "^" * max(1, end - span.column)
            text += f"\n  {number} | {line}\n  {' ' * len(number)} | {mark}"
        if self.met is not None:
            at = self.met
            inside = at.source.line(at.row).strip()
            text += f"\n  met in {at.source.path}:{at.row}:{at.column}: {inside}"
        return f"{text}\n  help: {self.help}" if self.help else text

    def as_dict(self) -> dict[str, object]:
        """The same for `--json`."""
        at = self.met
        return {
            "code": self.code,
            "message": self.message,
            "path": self.span.source.path,
            "row": self.span.row,
            "column": self.span.column,
            "end_row": self.span.end_row,
            "end_column": self.span.end_column,
            "help": self.help,
            "met": f"{at.source.path}:{at.row}:{at.column}" if at else "",
        }


class CompileError(Exception):
    """A spec is wrong. Holds every diagnostic found, in the order of the text."""

    def __init__(self, diagnostics: Iterable[Diagnostic]):
        self.diagnostics = tuple(diagnostics)
        super().__init__("\n\n".join(str(d) for d in self.diagnostics))


def near(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """The known name that a misspelt one is meant for; "" where none is near."""
    return next(iter(difflib.get_close_matches(name, sorted(set(known)), 1, cutoff)), "")


def nearest(name: str, known: Iterable[str]) -> str:
    """A suggestion for a misspelt name: `did you mean ...?`, or what there is."""
    known = sorted(set(known))
    if close := near(name, known):
        return f"did you mean `{close}`?"
    if not known:
        return ""
    shown = ", ".join(known[:12])
    return f"known here: {shown}" + (", ..." if len(known) > 12 else "")
