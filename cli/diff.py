"""`optc diff`: in what two rules differ: options, state, algorithm, cost."""

from __future__ import annotations

import argparse
import difflib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..compiler import syntax as s
from ..compiler.display import graph_text
from ..compiler.driver import graph, tree
from ..compiler.explain import box, rows_of
from ..compiler.ir import Graph
from ..compiler.source import Source
from ..plugins.registry import library
from .files import read_source
from .terminal import paint

HELP = """Say in what two rules differ: their options, state, algorithm and cost.

The algorithms are compared with all steps written out, so that two ways to write one rule differ in
nothing but names; "the same graph" means that they compile to the same step."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs=2, metavar="FILE", help="a .opt or .yaml file; FILE:RULE")
    parser.add_argument("--json", action="store_true", help="print JSON")


@dataclass(frozen=True)
class Side:
    """One of the two rules."""

    source: Source
    graph: Graph
    lines: list[str]

    @property
    def options(self) -> dict[str, str]:
        return {o.name: f"{o.bound} = {o.default}".strip() for o in self.graph.options.values()}

    @property
    def state(self) -> dict[str, str]:
        return {p: str(x.type) for p, x in self.graph.slots.items() if x.kind == "state"}

    @property
    def cost(self) -> dict[str, str]:
        """The cost sheet, without the lines of the text that it names."""
        place = re.compile(r" \([^()]*:\d+\)$")
        return {what: place.sub("", found) for what, found in rows_of(self.graph, {})}


def run(args: argparse.Namespace) -> int:
    one, two = (_side(name) for name in args.files)
    found = {
        "same_graph": _body(one.graph) == _body(two.graph),
        "options": changes(one.options, two.options),
        "state": changes(one.state, two.state),
        "cost": changes(one.cost, two.cost),
        "algorithm": [x for x in _compared(one.lines, two.lines) if not x.startswith("@@")],
    }
    if args.json:
        print(json.dumps(found, indent=1))
    else:
        _print(found)
    return 0


def _side(name: str) -> Side:
    path, _, rule = (
        name.rpartition(":") if name.rpartition(":")[2].isidentifier() else (name, "", "")
    )
    source, registry = read_source(path or name), library()
    made = graph(source, registry, rule if path else "")
    file = tree(source)
    text = next(r for r in file.items if isinstance(r, s.Rule) and r.name == made.name)
    bare = replace(text, name="rule", options=(), doc="")
    return Side(source, made, box(replace(file, doc=""), bare, registry).splitlines()[1:])


def _compared(one: list[str], two: list[str]) -> list[str]:
    return list(difflib.unified_diff(one, two, lineterm="", n=1))[2:]


def _body(made: Graph) -> str:
    """The graph as text without the name of the rule and the places of its lines."""
    return graph_text(made, spans=False).partition("\n")[2]


def changes(one: Mapping[str, str], two: Mapping[str, str]) -> dict[str, list[str | None]]:
    """What is different under each name; None where a side has nothing."""
    names = dict.fromkeys((*one, *two))
    return {n: [one.get(n), two.get(n)] for n in names if one.get(n) != two.get(n)}


def _print(found: dict[str, Any]) -> None:
    if found["same_graph"]:
        print("the same graph")
    for part in ("options", "state", "cost"):
        if found[part]:
            print(paint(part, "bold"))
        for name, (one, two) in found[part].items():
            print(f"  {name}: {_shown(one)} -> {_shown(two)}")
    if found["algorithm"]:
        print(paint("algorithm", "bold"))
    for line in found["algorithm"]:
        print(f"  {line}")


def _shown(value: str | None) -> str:
    return "(nothing)" if value is None else value
