"""Kind and name to declaration: the path of a file is its name, so nothing is loaded before its use."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path

from ..compiler import syntax as s
from ..compiler.parse import parse
from ..compiler.primitive import Declaration, from_syntax
from ..compiler.source import Source

HERE = Path(__file__).parent


class Library:
    """The primitives of folders `<folder>/<kind>/<name>.opt`."""

    def __init__(self, folders: Iterable[Path]):
        self.folders = list(folders)
        self.known: dict[tuple[str, str], Declaration | None] = {}

    def find(self, kind: str, name: str) -> Declaration | None:
        key = (kind, name)
        if key not in self.known:
            self.known[key] = self._load(kind, name)
        return self.known[key]

    def _load(self, kind: str, name: str) -> Declaration | None:
        if not name.isidentifier():
            return None
        for folder in self.folders:
            path = folder / kind / f"{name}.opt"
            if path.exists():
                return self._read(path, kind, name)
        return None

    def _read(self, path: Path, kind: str, name: str) -> Declaration | None:
        for item in parse(Source(str(path), path.read_text(encoding="utf-8"))).items:
            if isinstance(item, s.Primitive) and item.name == name:
                return from_syntax(item)
            if isinstance(item, s.Bundle) and item.name == name:
                return Declaration("function", name, tree=item, doc=item.doc)
        return None

    def names(self, kind: str) -> Iterable[str]:
        return sorted({p.stem for f in self.folders for p in (f / kind).glob("*.opt")})

    def kinds_of(self, name: str) -> Iterable[str]:
        return [k for k in s.KINDS if any((f / k / f"{name}.opt").exists() for f in self.folders)]


@cache
def library() -> Library:
    return Library([HERE])
