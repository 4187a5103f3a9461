"""`optc explain`: the algorithm and the cost sheet of a rule, or what a code of an error means."""

from __future__ import annotations

import argparse
import json
import re

from ..compiler import syntax as s
from ..compiler.codes import CODES, explain
from ..compiler.driver import tree
from ..compiler.source import nearest
from ..plugins.registry import library
from .files import read_source
from .terminal import UsageError

HELP = "explain a rule (algorithm, cost, how it runs), or the code of an error"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", metavar="FILE|CODE", help="a .opt or .yaml file, or E203")
    parser.add_argument("--rule", default="", help="the rule, if the file has several")
    parser.add_argument("--format", choices=("text", "md", "latex"), default="text")
    parser.add_argument("--cost", action="store_true", help="only the cost sheet")
    parser.add_argument("--schedule", metavar="FILE", help="how it runs, by another file")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    if re.fullmatch(r"[A-Za-z]\d+", args.what):
        code = args.what.upper()
        if code not in CODES:
            raise UsageError(f"unknown code {args.what!r}; {nearest(code, CODES)}")
        print(explain(code), end="")
        return 0
    return _rule(args)


def _rule(args: argparse.Namespace) -> int:
    from ..compiler.driver import graph, program, scheduled
    from ..compiler.emit.traffic import by_leaf
    from ..compiler.explain import box, rows_of, sheet

    source, registry = read_source(args.what), library()
    made = graph(source, registry, args.rule)
    schedule = scheduled(made, source, read_source(args.schedule) if args.schedule else None)
    compiled = program(made, source, schedule)
    moved = by_leaf(compiled, compiled.plan((True,) * len(compiled.conditions.names)))
    if args.json:
        rows = {name: value for name, value in rows_of(made, moved, schedule)}
        print(json.dumps({"rule": made.name, "doc": made.doc, **rows}, indent=1))
        return 0
    if not args.cost:
        file = tree(source)
        rule = next(r for r in file.items if isinstance(r, s.Rule) and r.name == made.name)
        print(box(file, rule, registry, args.format))
    print(sheet(made, moved, args.format, schedule), end="")
    return 0
