"""What a terminal gets: colour where it is wanted, diagnostics, errors of the command line."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from typing import TextIO

from ..compiler.source import Diagnostic

STYLES = {"red": "31", "green": "32", "yellow": "33", "blue": "34", "bold": "1", "dim": "2"}


class UsageError(Exception):
    """The command line is wrong: the message is all that the user sees, the exit status is 2."""


def colourful(stream: TextIO) -> bool:
    """Whether to colour what is written here: a terminal, and nobody asked for none."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb" and stream.isatty()


def paint(text: str, style: str, stream: TextIO | None = None) -> str:
    """The text in a colour or weight of STYLES, if the stream (standard output) shows it."""
    if not colourful(stream or sys.stdout):
        return text
    return f"\x1b[{STYLES[style]}m{text}\x1b[0m"


def report(diagnostics: Iterable[Diagnostic], as_json: bool = False) -> None:
    """All that is wrong with a spec: to read on standard error, or as JSON on standard output."""
    if as_json:
        print(json.dumps([diagnostic.as_dict() for diagnostic in diagnostics], indent=2))
        return
    print("\n\n".join(_picture(diagnostic) for diagnostic in diagnostics), file=sys.stderr)


def _picture(diagnostic: Diagnostic) -> str:
    """The diagnostic with its message bold, its carets red and its help green."""
    head, *rest = str(diagnostic).split("\n")
    lines = [paint(head, "bold", sys.stderr)]
    for line in rest:
        if line.startswith("  help: "):
            line = paint(line, "green", sys.stderr)
        elif set(line) <= set(" |^"):
            line = paint(line, "red", sys.stderr)
        lines.append(line)
    return "\n".join(lines)
