"""Kind and name to declaration. The path of a file is its name, so nothing is read before its use.

The built-in library is asked first, other packages only for what it does not have. A package that
cannot be imported is remembered in `failures` and takes nothing else down.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pluggy

from ..compiler import syntax as s
from ..compiler.parse import parse
from ..compiler.primitive import Declaration, from_syntax
from ..compiler.source import NOWHERE, CompileError, Diagnostic, Source, Span
from . import builtin, hookspecs

GROUP = "optc"


class Plugin:
    """What one plugin contributes: folders of the language, and primitives in Python."""

    def __init__(self, name: str, module: Any):
        manager = pluggy.PluginManager("optc")
        manager.add_hookspecs(hookspecs)
        manager.register(module, name)
        manager.check_pending()
        self.name, self.package = name, module.__name__.partition(".")[0]
        self.folders = [Path(f) for found in manager.hook.optc_libraries() for f in found]
        python: list[Declaration] = [d for found in manager.hook.optc_primitives() for d in found]
        self.python = {(d.kind, d.name): d for d in python}

    def names(self, kind: str) -> set[str]:
        files = {p.stem for folder in self.folders for p in (folder / kind).glob("*.opt")}
        return files | {name for k, name in self.python if k == kind}

    def find(self, kind: str, name: str) -> Declaration | None:
        if (kind, name) in self.python:
            return self.python[kind, name]
        for folder in self.folders:
            path = folder / kind / f"{name}.opt"
            if path.is_file():
                return read(path, kind, name, self.name)
        return None


def read(path: Path, kind: str, name: str, origin: str) -> Declaration:
    """The one primitive of a file; its path says what it must be."""
    file = parse(Source(str(path), path.read_text(encoding="utf-8")))
    for item in file.items:
        if isinstance(item, s.Primitive) and (item.kind, item.name) == (kind, name):
            return from_syntax(item, origin)
        if isinstance(item, s.Bundle) and (kind, item.name) == ("function", name):
            return Declaration("function", name, tree=item, doc=item.doc, origin=origin)
    span = file.items[0].span if file.items else NOWHERE
    raise _error("E503", f"the file must hold `{kind} {name}`", span, "its path is its name")


class Library:
    """A registry over plugins, the built-in one first."""

    def __init__(self, plugins: Sequence[Plugin], strangers: bool = True):
        self.plugins = list(plugins)
        self.failures: dict[str, str] = {}
        self._complete = not strangers
        self._found: dict[tuple[str, str], Declaration | None] = {}

    def find(self, kind: str, name: str) -> Declaration | None:
        """A primitive by kind and name, or None. A name that two plugins have is an error."""
        if not name.isidentifier():
            return None
        if (kind, name) not in self._found:
            holders = [p for p in self._asked(kind, name) if name in p.names(kind)]
            if len(holders) > 1:
                names = " and ".join(p.name for p in holders)
                raise _error(
                    "E501", f"{kind} `{name}` is contributed twice, by {names}", NOWHERE,
                    "remove one of the packages, or rename its primitive",
                )  # fmt: skip
            self._found[kind, name] = holders[0].find(kind, name) if holders else None
        return self._found[kind, name]

    def _asked(self, kind: str, name: str) -> list[Plugin]:
        """The plugins to look in: strangers for what is not built in, or once they are there."""
        if not any(name in p.names(kind) for p in self.plugins):
            self._load()
        return self.plugins

    def names(self, kind: str) -> Iterable[str]:
        self._load()
        return sorted(set().union(*(p.names(kind) for p in self.plugins)))

    def kinds_of(self, name: str) -> Iterable[str]:
        built_in = [k for k in s.KINDS if any(name in p.names(k) for p in self.plugins)]
        if built_in:
            return built_in
        self._load()
        return [k for k in s.KINDS if any(name in p.names(k) for p in self.plugins)]

    def _load(self) -> None:
        """Import the plugins of other packages, once."""
        if self._complete:
            return
        self._complete = True
        for point in sorted(entry_points(group=GROUP), key=lambda p: p.name):
            try:
                self.plugins.append(Plugin(point.name, point.load()))
            except Exception as why:  # whatever a stranger's import raises is theirs, and reported
                self.failures[point.name] = f"{type(why).__name__}: {why}"


def _error(code: str, message: str, span: Span, help: str) -> CompileError:
    return CompileError([Diagnostic(code, message, span, help)])


@cache
def library() -> Library:
    """The built-in library and all installed plugins."""
    return Library([Plugin("optc", builtin)])
