"""`--set lr=0.01`: options on the command line."""

from __future__ import annotations

import argparse
import ast
from collections.abc import Iterable
from typing import Any

from .terminal import UsageError


def add_set(parser: argparse.ArgumentParser, flag: str, what: str) -> None:
    """Add a flag that may be given many times; `settings` reads what it collects."""
    parser.add_argument(flag, action="append", default=[], metavar="NAME=VALUE", help=what)


def settings(pairs: Iterable[str]) -> dict[str, Any]:
    """`["lr=0.01", "betas=(0.9, 0.99)"]` as a dict; a value that is no literal stays text."""
    found: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = (part.strip() for part in pair.partition("="))
        if not (equals and text and name.isidentifier()):
            raise UsageError(f"`{pair}` sets nothing: write NAME=VALUE, as in lr=0.01")
        try:
            found[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            found[name] = text
    return found
