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
        self.folders = [f for found in manager.hook.optc_libraries() for f in _folders(found)]
        self.python = [d for found in manager.hook.optc_primitives() for d in _declared(found)]

    def names(self, kind: str) -> set[str]:
        files = {p.stem for folder in self.folders for p in (folder / kind).glob("*.opt")}
        return files | {d.name for d in self.python if d.kind == kind}

    def places(self, kind: str, name: str) -> list[Path | Declaration]:
        """Where the primitive is, files and declarations; more than one is a clash."""
        paths = [folder / kind / f"{name}.opt" for folder in self.folders]
        python = [d for d in self.python if (d.kind, d.name) == (kind, name)]
        return [*(p for p in paths if p.is_file()), *python]


def _folders(found: Any) -> list[Path]:
    """The folders of a plugin, which must exist: a library that is not there is no library."""
    if isinstance(found, str | Path):
        raise TypeError("`optc_libraries` returns a tuple of folders, not one folder")
    folders = [Path(f) for f in found]
    for folder in folders:
        if not folder.is_dir():
            raise NotADirectoryError(f"`optc_libraries` names {folder}, which is no folder")
    return folders


def _declared(found: Any) -> list[Declaration]:
    for declaration in found:
        if not isinstance(declaration, Declaration):
            raise TypeError(f"`optc_primitives` returns {declaration!r}: mark it with `@primitive`")
    return list(found)


def read(path: Path, kind: str, name: str, origin: str) -> Declaration:
    """The one primitive of a file; its path says what it must be."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        at = Span(Source(str(path), ""), 1, 1, 1, 1)
        raise _error("E503", f"byte {error.start} is no UTF-8 text", at, "") from error
    source = Source(str(path), text)
    file = parse(source)
    start = Span(source, 1, 1, 1, 1)
    wrong = [i for i in file.items if _named(i) != (kind, name)]
    if wrong or len(file.items) != 1:
        span = wrong[0].span if wrong else start
        raise _error(
            "E503", f"the file must hold `{kind} {name}`, and nothing else", span,
            "its path is its name; a primitive that others use has a file of its own",
        )  # fmt: skip
    item = file.items[0]
    if isinstance(item, s.Bundle):
        return Declaration("function", name, tree=item, doc=item.doc, origin=origin)
    assert isinstance(item, s.Primitive)
    return from_syntax(item, origin)


def _named(item: s.Statement) -> tuple[str, str]:
    if isinstance(item, s.Primitive):
        return item.kind, item.name
    return ("function", item.name) if isinstance(item, s.Bundle) else ("", "")


class Library:
    """A registry over plugins, the built-in one first.

    `failures` says why a package could not be imported (E502), `clashes` what another package has
    in vain, because the built-in library has it (E501).
    """

    def __init__(self, plugins: Sequence[Plugin], strangers: bool = True):
        self.plugins = list(plugins)
        self.failures: dict[str, str] = {}
        self.clashes: list[str] = []
        self._complete = not strangers
        self._found: dict[tuple[str, str], Declaration | None] = {}

    def find(self, kind: str, name: str) -> Declaration | None:
        """A primitive by kind and name, or None. A name that two packages have is an error."""
        if kind not in s.KINDS or not name.isidentifier():
            return None
        if (kind, name) not in self._found:
            self._found[kind, name] = self._find(kind, name)
        return self._found[kind, name]

    def _find(self, kind: str, name: str) -> Declaration | None:
        built_in = self.plugins[:1]
        places = _places(built_in, kind, name)
        if not places:
            self._load()
            places = _places(self.plugins, kind, name)
        if len(places) > 1:
            raise _error(
                "E501", _twice(kind, name, [p.name for p, _ in places]), NOWHERE,
                "remove one of the packages, or rename its primitive",
            )  # fmt: skip
        for plugin, place in places:
            return read(place, kind, name, plugin.name) if isinstance(place, Path) else place
        return None

    def names(self, kind: str) -> Iterable[str]:
        self._load()
        return sorted(set().union(*(p.names(kind) for p in self.plugins)))

    def kinds_of(self, name: str) -> Iterable[str]:
        built_in = [k for k in s.KINDS if _places(self.plugins[:1], k, name)]
        if built_in or not name.isidentifier():
            return built_in
        self._load()
        return [k for k in s.KINDS if _places(self.plugins, k, name)]

    def plugin_names(self) -> Iterable[str]:
        """The plugins there are, by entry point and by package."""
        self._load()
        return sorted({name for p in self.plugins for name in (p.name, p.package)})

    def _load(self) -> None:
        """Import the plugins of other packages, once."""
        if self._complete:
            return
        self._complete = True
        for point in sorted(entry_points(group=GROUP), key=lambda p: p.name):
            try:
                self._add(Plugin(point.name, point.load()))
            except Exception as why:  # whatever a stranger's import raises is theirs, and reported
                self.failures[point.name] = f"{type(why).__name__}: {why}"

    def _add(self, plugin: Plugin) -> None:
        """A name that is built in stays what it was: no package changes it by being installed."""
        for kind in s.KINDS if self.plugins else ():
            for name in sorted(plugin.names(kind) & self.plugins[0].names(kind)):
                self.clashes.append(_twice(kind, name, [self.plugins[0].name, plugin.name]))
        self.plugins.append(plugin)


def _places(
    plugins: Iterable[Plugin], kind: str, name: str
) -> list[tuple[Plugin, Path | Declaration]]:
    return [(plugin, place) for plugin in plugins for place in plugin.places(kind, name)]


def _twice(kind: str, name: str, owners: Sequence[str]) -> str:
    return f"{kind} `{name}` is contributed twice, by {' and '.join(owners)}"


def _error(code: str, message: str, span: Span, help: str) -> CompileError:
    return CompileError([Diagnostic(code, message, span, help)])


@cache
def library() -> Library:
    """The built-in library and all installed plugins."""
    return Library([Plugin("optc", builtin)])
