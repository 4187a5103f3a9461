"""`optc fmt`: the canonical form of a spec, and the way between .opt and YAML."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from ..compiler.format import to_opt
from ..compiler.parse import parse
from ..compiler.source import CompileError, Diagnostic, Source
from ..compiler.syntax import File
from ..compiler.yaml_form import parse_yaml, to_yaml
from .files import read_source, write_text
from .terminal import UsageError

HELP = """Rewrite specs in the canonical form, comments kept.

Files are rewritten where they stand; standard input (`-`) and conversions go to standard output."""

READ: dict[str, Callable[[Source], File]] = {"opt": parse, "yaml": parse_yaml}
WRITE: dict[str, Callable[[File], str]] = {"opt": to_opt, "yaml": to_yaml}
SUFFIXES = {".opt": "opt", ".yaml": "yaml", ".yml": "yaml"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="+", metavar="FILE", help="a .opt or .yaml file, or -")
    parser.add_argument(
        "--check", action="store_true", help="change nothing; status 1 if a file would change"
    )
    parser.add_argument("--to", choices=WRITE, help="the form to write (that of the file)")
    parser.add_argument(
        "--from", choices=READ, dest="form", help="the form to read, where no suffix says it (opt)"
    )
    parser.add_argument(
        "-o", "--output", metavar="PATH", help="write this file, or into this folder"
    )
    parser.add_argument("--json", action="store_true", help="what is wrong, for a program")


def run(args: argparse.Namespace) -> int:
    if len(args.files) > 1 and args.output and not Path(args.output).is_dir():
        raise UsageError(f"{args.output}: several files need a folder to go into")
    wrong: list[Diagnostic] = []
    changed = 0
    for path in args.files:
        try:
            changed += _one(args, path)
        except CompileError as error:  # the files behind it are worth formatting all the same
            wrong += error.diagnostics
    if wrong:
        raise CompileError(wrong)
    return 1 if args.check and changed else 0


def canonical(source: Source, form: str, to: str) -> str:
    """The text in the form `to`; it reads back as the same tree, or nothing is returned."""
    tree = READ[form](source)
    text = WRITE[to](tree)
    again = READ[to](Source(source.path, text))
    assert again == tree, f"optc fmt would have changed the meaning of {source.path}"
    return text


def _one(args: argparse.Namespace, path: str) -> bool:
    """Format one file; whether that changed it."""
    source = read_source(path)
    form = SUFFIXES.get(Path(path).suffix.lower()) or args.form or "opt"
    to = args.to or form
    text = canonical(source, form, to)
    changed = text != source.text
    if args.check:
        if changed:
            print(f"{path} is not in the canonical form", file=sys.stderr)
        return changed
    place = _place(args.output, path, form, to)
    if place != path or changed:
        write_text(place, text)
    return changed


def _place(output: str | None, path: str, form: str, to: str) -> str:
    """Where the text goes: back, unless it is another form or another place is named."""
    if output is None:
        return path if form == to else "-"
    if output != "-" and Path(output).is_dir():
        if path == "-":
            raise UsageError("what comes from standard input has no name: name a file")
        return str(Path(output) / Path(path).with_suffix(f".{to}").name)
    return output
