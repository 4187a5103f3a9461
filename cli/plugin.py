"""`optc plugin test`: the contract over the primitives of a package."""

from __future__ import annotations

import argparse
import json

from ..compiler.source import CompileError, nearest
from ..compiler.syntax import KINDS
from ..plugins.registry import library
from .terminal import UsageError

HELP = "test a plugin: documentation, checks, one meaning however it is run, save and resume"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=["test"])
    parser.add_argument("package", help="a package or its entry point; `optc` is built in")
    parser.add_argument("--kind", choices=KINDS, help="only primitives of this kind")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    registry = library()
    for kind in KINDS:
        registry.names(kind)  # imports the plugins of other packages
    if args.package in registry.failures:
        print(f"{args.package} could not be imported: {registry.failures[args.package]}")
        return 1
    plugins = {name: p for p in registry.plugins for name in (p.package, p.name)}
    if args.package not in plugins:
        raise UsageError(f"unknown plugin {args.package!r}; {nearest(args.package, plugins)}")
    names = [(k, n) for k in KINDS for n in sorted(plugins[args.package].names(k))]
    rows = [_row(k, n, args.json) for k, n in names if args.kind in (None, k)]
    broken = sum(bool(row["broken"]) for row in rows)
    if args.json:
        print(json.dumps(rows, indent=1))
    else:
        print(f"{len(rows) - broken} passed, {broken} failed")
    return 1 if broken else 0


def _row(kind: str, name: str, quiet: bool) -> dict[str, object]:
    from .contract import contract

    registry = library()
    try:
        declaration = registry.find(kind, name)
        assert declaration is not None
        broken = contract(declaration, registry)
    except CompileError as error:
        broken = [str(d) for d in error.diagnostics]
    if not quiet:
        print(f"{'broken' if broken else 'ok':<6} {kind} {name}")
        for what in broken:
            print(f"       {what}")
    return {"kind": kind, "name": name, "broken": broken}
