"""`optc show`: the text of a primitive, with its documentation."""

from __future__ import annotations

import argparse
import inspect
import re
from importlib.resources import files

from ..compiler import syntax as s
from ..compiler.builtins import BUILTINS
from ..compiler.format import to_opt
from ..compiler.primitive import Declaration
from ..compiler.source import nearest
from ..compiler.syntax import KINDS
from ..plugins.registry import library
from .terminal import UsageError

HELP = "print a primitive: its text, its documentation, its checks"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "name", help="a primitive (KIND/NAME where several kinds have it), or what is built in"
    )


def run(args: argparse.Namespace) -> int:
    registry = library()
    kind, _, name = args.name.rpartition("/")
    kinds = [kind] if kind else list(registry.kinds_of(name))
    found = [d for k in kinds if (d := registry.find(k, name)) is not None]
    if not found:
        if not kind and (row := _built_in(name)):
            print(row)
            return 0
        known = {n for k in KINDS for n in registry.names(k)} | set(BUILTINS)
        raise UsageError(f"unknown primitive {args.name!r}; {nearest(name, known)}")
    for declaration in found:
        print(_text(declaration))
    return 0


def _built_in(name: str) -> str:
    """What the reference of the language says of a built-in function, or ""."""
    if name not in BUILTINS:
        return ""
    language = (files("optc.spec") / "LANGUAGE.md").read_text(encoding="utf-8")
    table = language.partition("\n## Functions\n")[2].partition("\n## ")[0]
    for row in re.findall(r"^\| (.*) \| (.*) \|$", table, re.MULTILINE):
        if f"`{name}(" in row[0]:
            return f"built in: {row[0]}\n{row[1]}".replace("`", "")
    return ""


def _text(declaration: Declaration) -> str:
    if declaration.call is not None:
        return f"# {declaration.kind}, written in Python\n{inspect.getsource(declaration.call)}"
    assert isinstance(declaration.tree, s.Primitive | s.Bundle)
    return to_opt(s.File("", (declaration.tree,)))
