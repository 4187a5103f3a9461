"""Imports modules from texts. This file stands at the end of each standalone module.

The texts become a package of their own, named after their content: two modules that carry the same
texts share it, and modules of different versions of optc do not meet.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.abc
import importlib.util
import sys
import types
import typing


class _Text:
    """A file among the texts, as importlib.resources asks for it."""

    def __init__(self, text: str):
        self.text = text

    def read_text(self, encoding: str = "utf-8") -> str:
        return self.text


class _Folder:
    """A package among the texts, as importlib.resources asks for it."""

    def __init__(self, texts: dict[str, str], place: str):
        self.texts, self.place = texts, place

    def files(self) -> _Folder:
        return self

    def __truediv__(self, name: str) -> _Text:
        return _Text(self.texts[self.place + name])


class _Embedded(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Finds and loads the modules of one package from their texts."""

    def __init__(self, texts: dict[str, str]):
        texts = {path: text.removeprefix("\n") for path, text in texts.items()}
        content = "".join(f"{len(k)} {k} {len(v)} {v}" for k, v in sorted(texts.items()))
        digest = hashlib.sha256(content.encode()).hexdigest()
        self.texts, self.package = texts, f"optc_runtime_{digest[:16]}"

    def load(self, module: str) -> typing.Any:
        """One of the modules; all of them can be imported from now on."""
        if self.package not in sys.modules:
            sys.meta_path.insert(0, self)
        return importlib.import_module(f"{self.package}.{module}")

    def find_spec(
        self, fullname: str, path: typing.Any = None, target: types.ModuleType | None = None
    ) -> typing.Any:
        place = self._place(fullname)
        if place is None:
            return None
        origin = f"{self.package}/{place}.py"
        return importlib.util.spec_from_loader(fullname, self, origin=origin)

    def _place(self, name: str) -> str | None:
        if name != self.package and not name.startswith(f"{self.package}."):
            return None
        place = name[len(self.package) + 1 :].replace(".", "/")
        known = f"{place}.py" in self.texts or self.is_package(name)
        return place if known else None

    def is_package(self, fullname: str) -> bool:
        place = fullname[len(self.package) + 1 :].replace(".", "/")
        return not place or any(text.startswith(f"{place}/") for text in self.texts)

    def get_source(self, fullname: str) -> str:
        """The text of a module: tracebacks and debuggers ask for it."""
        return self.texts.get(f"{self._place(fullname)}.py", "")

    def get_code(self, fullname: str) -> types.CodeType:
        name = f"{self.package}/{self._place(fullname)}.py"
        return compile(self.get_source(fullname), name, "exec", dont_inherit=True)

    def get_resource_reader(self, fullname: str) -> _Folder:
        return _Folder(self.texts, f"{self._place(fullname)}/")
