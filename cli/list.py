"""`optc list`: the primitives there are, or the papers and what of them works."""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

from ..compiler.syntax import KINDS
from ..plugins.papers import PAPER, papers
from ..plugins.registry import library
from .terminal import UsageError

DOC = re.compile(r'"""(.*?)"""', re.DOTALL)
HELP = "list the primitives of the library, or the papers they come from"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "word", nargs="?", default="", help="a kind, or what stands in a name or its meaning"
    )
    parser.add_argument("--kind", choices=KINDS, help="only primitives of this kind")
    parser.add_argument("--papers", action="store_true", help="the papers and what of them works")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    if args.papers:
        return _papers(args.json)
    if args.word in KINDS and args.kind is None:
        args.kind, args.word = args.word, ""
    return _primitives(args.kind, args.word.lower(), args.json)


def _primitives(kind: str | None, word: str, as_json: bool) -> int:
    registry = library()
    kinds = [kind] if kind else KINDS
    rows = {k: [_about(k, name) for name in registry.names(k)] for k in kinds}
    for k in kinds:
        rows[k] = [r for r in rows[k] if word in f"{r['name']} {r['meaning']}".lower()]
    if not any(rows.values()):
        raise UsageError(f"no primitive has `{word}` in its name or meaning")
    if as_json:
        found = {
            "primitives": [row for k in kinds for row in rows[k]],
            "failures": registry.failures,
            "clashes": registry.clashes,
        }
        print(json.dumps(found, indent=1, ensure_ascii=False))
        return 0
    for k in kinds:
        if rows[k]:
            print(k)
        for row in rows[k]:
            number = " ".join(f"[{p}]" for p in row["papers"])
            foreign = f"({row['origin']})" if row["origin"] != "optc" else ""
            shown = (row["name"].ljust(28), row["meaning"], number, foreign)
            print("  " + " ".join(x for x in shown if x).rstrip())
    for plugin, why in registry.failures.items():
        print(f"warning[E502]: plugin {plugin} could not be imported: {why}")
    for clash in registry.clashes:
        print(f"warning[E501]: {clash}")
    return 0


def _about(kind: str, name: str) -> dict[str, Any]:
    """One row. The words are read off the text: to parse every file would take seconds."""
    for plugin in library().plugins:
        for place in plugin.places(kind, name):
            if not isinstance(place, Path):
                return _row(kind, name, _first(place.doc), place.papers, plugin.name)
            text = place.read_text(encoding="utf-8")
            doc = DOC.search(text)
            numbers = tuple(int(n) for n in PAPER.findall(text))
            return _row(kind, name, _first(doc[1] if doc else ""), numbers, plugin.name)
    raise AssertionError(f"{kind} {name} is listed and nowhere")


def _first(doc: str) -> str:
    return doc.strip().partition("\n")[0]


def _row(
    kind: str, name: str, meaning: str, papers: tuple[int, ...] = (), origin: str = "optc"
) -> dict[str, Any]:
    return {"kind": kind, "name": name, "meaning": meaning, "papers": papers, "origin": origin}


def _papers(as_json: bool) -> int:
    rows = papers()
    if as_json:
        print(json.dumps(rows, indent=1, ensure_ascii=False))
        return 0
    for row in rows:
        none = "-" if row["missing"] else "offers no primitive"
        shown = ", ".join(row["primitives"]) or none
        print(f"{row['id']:>3}  {row['status']:<8} {row['title'][:60]:<60}  {shown}")
    count = Counter(row["status"] for row in rows)
    print(", ".join(f"{count[s]} {s}" for s in ("working", "partial", "missing")))
    return 0
