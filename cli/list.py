"""`optc list`: the primitives there are, or the papers and what of them works."""

from __future__ import annotations

import argparse
import json
from collections import Counter

from ..compiler.syntax import KINDS
from ..plugins.papers import papers
from ..plugins.registry import library

HELP = "list the primitives of the library, or the papers they come from"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--kind", choices=KINDS, help="only primitives of this kind")
    parser.add_argument("--papers", action="store_true", help="the papers and what of them works")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    return _papers(args.json) if args.papers else _primitives(args.kind, args.json)


def _primitives(kind: str | None, as_json: bool) -> int:
    registry = library()
    kinds = [kind] if kind else KINDS
    names = {k: list(registry.names(k)) for k in kinds}
    if as_json:
        rows = [{"kind": k, "name": n, **_about(k, n)} for k in kinds for n in names[k]]
        print(json.dumps({"primitives": rows, "failures": registry.failures}, indent=1))
        return 0
    for k in kinds:
        if names[k]:
            print(k)
        for name in names[k]:
            about = _about(k, name)
            number = " ".join(f"[{p}]" for p in about["papers"])
            print(f"  {name:<28} {about['meaning']} {number}".rstrip())
    for plugin, why in registry.failures.items():
        print(f"plugin {plugin} could not be imported: {why}")
    return 0


def _about(kind: str, name: str) -> dict[str, object]:
    found = library().find(kind, name)
    assert found is not None
    first = found.doc.strip().splitlines()[0] if found.doc.strip() else ""
    return {"meaning": first, "papers": list(found.papers), "origin": found.origin}


def _papers(as_json: bool) -> int:
    rows = papers()
    if as_json:
        print(json.dumps(rows, indent=1, ensure_ascii=False))
        return 0
    for row in rows:
        shown = ", ".join(row["primitives"]) or "-"
        print(f"{row['id']:>3}  {row['status']:<8} {row['title'][:60]:<60}  {shown}")
    count = Counter(row["status"] for row in rows)
    print(", ".join(f"{count[s]} {s}" for s in ("working", "partial", "missing")))
    return 0
