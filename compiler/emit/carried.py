"""The texts that a standalone module carries: the runtime and what it imports of the compiler."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable

ROOTS = (
    *("runtime/optimizer.py", "runtime/functional.py"),
    *("compiler/signature.py", "compiler/cells.py", "compiler/matrices.py", "compiler/scalars.py"),
)
FOREIGN = frozenset((*sys.stdlib_module_names, "torch", "triton"))
"""What a carried module may import besides others of ours; triton only where there is a GPU."""


@cache
def carried() -> dict[str, str]:
    """Path -> text of the runtime, in the order of their names."""
    home = resources.files(__package__.partition(".")[0])
    found: dict[str, str] = {}
    waiting = list(ROOTS)
    while waiting:
        path = waiting.pop()
        if path not in found:
            found[path] = home.joinpath(path).read_text(encoding="utf-8")
            waiting += _imports(path, found[path], home)
    for file in home.joinpath("runtime").iterdir():
        if file.name.endswith((".c", ".h")):
            found[f"runtime/{file.name}"] = file.read_text(encoding="utf-8")
    return dict(sorted(found.items()))


def _imports(path: str, text: str, home: Traversable) -> Iterator[str]:
    """The files of ours that a module imports, inside of functions too."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names, level = [a.name for a in node.names], 0
        elif isinstance(node, ast.ImportFrom):
            names, level = [node.module or ""], node.level
        else:
            continue
        if not level:
            wrong = [n for n in names if n.partition(".")[0] not in FOREIGN]
            assert not wrong, f"{path} imports {wrong[0]}: a standalone module has no such thing"
            continue
        assert isinstance(node, ast.ImportFrom)
        place = [*path.split("/")[:-level], *(node.module.split(".") if node.module else ())]
        if home.joinpath(*place).is_dir():
            yield from ("/".join([*place, a.name]) + ".py" for a in node.names)
        else:
            yield "/".join(place) + ".py"
