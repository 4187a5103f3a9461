"""What the host knows of a tensor and of the group that it is in."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from typing import Any

from ..ir import Node


def describe(node: Node, name: str, shape: Sequence[int], module: str, dtype: str) -> Any:
    """A fact about one tensor: `ndim`, `rows`, `named("*bias")`, ..."""
    what = node["what"]
    if what in ("name", "module", "dtype"):
        text = {"name": name, "module": module, "dtype": dtype}[what]
        return any(fnmatch.fnmatchcase(text, p) for p in node["patterns"])
    count = 1
    for n in shape:
        count *= n
    rows = shape[0] if len(shape) else 1
    if what == "shape":
        return shape[node["place"]] if node["place"] < len(shape) else 1
    return {"ndim": len(shape), "rows": rows, "cols": count // rows if rows else 0, "numel": count}[
        what
    ]


def option_in(options: dict[str, Any], node: Node) -> Any:
    """The value of an option node in one group."""
    value = options[node["name"]]
    place = node.get("place", -1)
    value = value[place] if place >= 0 else value
    return value if isinstance(value, bool) else float(value)
