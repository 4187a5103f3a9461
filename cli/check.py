"""`optc check`: read rules, and say everything that is wrong with them."""

from __future__ import annotations

import argparse
import json

from ..compiler import syntax as s
from ..compiler.check import check, check_file
from ..compiler.driver import tree
from ..compiler.ir import Graph, Slot
from ..compiler.passes.prune import prune
from ..compiler.primitive import Registry, from_syntax
from ..compiler.schedule import illegal
from ..compiler.source import CompileError, Diagnostic
from ..plugins.registry import library
from .files import read_source

HELP = "read rules and primitives, and say everything that is wrong"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="+", metavar="FILE", help="a .opt or .yaml file")
    parser.add_argument("--rule", default="", help="only this rule of the file")
    parser.add_argument(
        "--private", action="store_true", help="every rule must be differentially private"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    wrong: list[Diagnostic] = []
    rows = []
    for path in args.files:
        try:
            file = tree(read_source(path))
            registry = library()
            graphs = [check(file, registry, args.rule)] if args.rule else check_file(file, registry)
            for graph in graphs if args.private else ():
                _require_privacy(graph)
            if found := [*illegal(file, graphs), *_unheld(file, registry, args.rule)]:
                raise CompileError(found)
        except CompileError as error:
            wrong += error.diagnostics
            continue
        unread = [_unread(g, path) for g in graphs]
        rows += [_row(path, g, slots) for g, slots in zip(graphs, unread, strict=True)]
        if not args.json:
            print(f"{path}: {', '.join(_names(file, args.rule))}: fine")
            for slot in (slot for slots in unread for slot in slots):
                print(f"{_place(slot)}: warning: nothing reads what `{slot.path}` held before: "
                      "it is not kept between steps")  # fmt: skip
    if wrong:
        raise CompileError(wrong)
    if args.json:
        print(json.dumps(rows, indent=1))
    return 0


def _unheld(file: s.File, registry: Registry, rule: str) -> list[Diagnostic]:
    """The lines of the `check` blocks of the file that do not hold."""
    checked = [x for x in file.items if isinstance(x, s.Primitive) and x.checks and not rule]
    if not checked:
        return []
    from ..compiler.checks import run_checks
    from .contract import numbers

    wrong = []
    for own in checked:
        for found in run_checks(from_syntax(own), registry, numbers, file):
            named = [c.lines for c in own.checks if c.name == found.check]
            at = next(lines[found.line - 1].span for lines in named if len(lines) >= found.line)
            message = f"{found.what} must be {found.expected}, and it is {found.found}"
            wrong.append(Diagnostic("E221", f"check `{found.check}`: {message}", at))
    return wrong


def _unread(graph: Graph, path: str) -> list[Slot]:
    """The states of the file's own rules that a step does not keep."""
    kept = prune(graph).slots
    slots = (slot for name, slot in graph.slots.items() if name not in kept)
    return [slot for slot in slots if slot.span.source.path == path]


def _place(slot: Slot) -> str:
    return f"{slot.span.source.path}:{slot.span.row}:{slot.span.column}"


def _names(file: s.File, rule: str) -> list[str]:
    named = [item.name for item in file.items if hasattr(item, "name")]
    return [rule] if rule else list(dict.fromkeys(named))


def _require_privacy(graph: Graph) -> None:
    """Raises where the rule lets out more than its noise hides."""
    from ..compiler.pipeline import run as run_passes
    from ..compiler.privacy import require

    require(run_passes(graph))


def _row(path: str, graph: Graph, unread: list[Slot]) -> dict[str, object]:
    return {
        "path": path,
        "rule": graph.name,
        "options": {o.name: o.default for o in graph.options.values()},
        "slots": {s.path: str(s.type) for s in graph.slots.values()},
        "unread": [s.path for s in unread],
        "losses": sorted(graph.objectives),
    }
