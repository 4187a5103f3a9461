"""The papers that optc grew out of, and what of them works: computed from the library itself.

`papers.json` holds numbers, titles and the names of contributions. A contribution is there if the
library has a primitive of that name which names the paper, or an example of that name does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
EXAMPLES = HERE.parent / "examples"
"""Whole rules; they are part of a checkout, not of an installed package."""
PAPER = re.compile(r"^\s*paper\s+(\d+)\s*(?:,|#|$)", re.MULTILINE)


def papers(folders: Iterable[Path] = (HERE, EXAMPLES)) -> list[dict[str, Any]]:
    """One row a paper: `id`, `title`, `status` (working, partial, missing) and `primitives`."""
    have = contributions(folders)
    rows = json.loads((HERE / "papers.json").read_text(encoding="utf-8"))
    return [_row(row, have.get(row["id"], {})) for row in rows]


def contributions(folders: Iterable[Path]) -> dict[int, dict[str, str]]:
    """For each paper the primitives whose files name it: name -> kind. Nothing is parsed.

    A file right in a folder is an example; those of a library lie in the folder of their kind.
    """
    found: dict[int, dict[str, str]] = {}
    for folder in folders:
        examples = [(path, "example") for path in folder.glob("*.opt")]
        library = [(path, path.parent.name) for path in folder.glob("*/*.opt")]
        for path, kind in sorted(examples + library):
            for number in PAPER.findall(path.read_text(encoding="utf-8")):
                found.setdefault(int(number), {})[path.stem] = kind
    return found


def _row(row: dict[str, Any], have: dict[str, str]) -> dict[str, Any]:
    wanted = [name for _, name in row["contributes"]]
    done = [name for name in wanted if name in have]
    status = "working" if wanted and len(done) == len(wanted) else "partial" if have else "missing"
    return {
        "id": row["id"],
        "slug": row["slug"],
        "title": row["title"],
        "year": row["year"],
        "status": status,
        "primitives": [f"{kind} {name}" for name, kind in sorted(have.items())],
        "missing": [f"{kind} {name}" for kind, name in row["contributes"] if name not in have],
    }
