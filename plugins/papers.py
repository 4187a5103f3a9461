"""The papers that optc grew out of, and what of them works: computed from the library itself.

`papers.json` holds numbers, titles and the names of contributions. A contribution is there if the
library has a primitive of its kind and name that names the paper, or if an example does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
_PAPER = re.compile(r"^\s*paper\s+(\d+)", re.MULTILINE)


def papers(folders: Iterable[Path] = (HERE,)) -> list[dict[str, Any]]:
    """One row a paper: `id`, `title`, `status` (working, partial, missing) and `primitives`."""
    have = contributions(folders)
    rows = json.loads((HERE / "papers.json").read_text(encoding="utf-8"))
    return [_row(row, have.get(row["id"], {})) for row in rows]


def contributions(folders: Iterable[Path]) -> dict[int, dict[str, str]]:
    """For each paper the primitives whose files name it: name -> kind. Nothing is parsed."""
    found: dict[int, dict[str, str]] = {}
    for folder in folders:
        for path in sorted(folder.glob("*/*.opt")):
            for number in _PAPER.findall(path.read_text(encoding="utf-8")):
                found.setdefault(int(number), {})[path.stem] = path.parent.name
    return found


def _row(row: dict[str, Any], have: dict[str, str]) -> dict[str, Any]:
    wanted = [name for _, name in row["contributes"]]
    done = [name for name in wanted if name in have]
    status = "working" if wanted and len(done) == len(wanted) else "partial" if have else "missing"
    return {
        "id": row["id"],
        "title": row["title"],
        "year": row["year"],
        "status": status,
        "primitives": [f"{kind} {name}" for name, kind in sorted(have.items())],
        "missing": [f"{kind} {name}" for kind, name in row["contributes"] if name not in have],
    }
