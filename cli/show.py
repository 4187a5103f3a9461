"""`optc show`: the text of a primitive, with its documentation."""

from __future__ import annotations

import argparse
import inspect

from ..compiler import syntax as s
from ..compiler.format import to_opt
from ..compiler.primitive import Declaration
from ..compiler.source import nearest
from ..compiler.syntax import KINDS
from ..plugins.registry import library
from .terminal import UsageError

HELP = "print a primitive: its text, its documentation, its checks"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="a primitive, or KIND/NAME where several kinds have it")


def run(args: argparse.Namespace) -> int:
    registry = library()
    kind, _, name = args.name.rpartition("/")
    kinds = [kind] if kind else list(registry.kinds_of(name))
    found = [d for k in kinds if (d := registry.find(k, name)) is not None]
    if not found:
        known = {n for k in KINDS for n in registry.names(k)}
        raise UsageError(f"unknown primitive {args.name!r}; {nearest(name, known)}")
    for declaration in found:
        print(_text(declaration))
    return 0


def _text(declaration: Declaration) -> str:
    if declaration.call is not None:
        return f"# {declaration.kind}, written in Python\n{inspect.getsource(declaration.call)}"
    assert isinstance(declaration.tree, s.Primitive | s.Bundle)
    return to_opt(s.File("", (declaration.tree,)))
