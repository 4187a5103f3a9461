"""The declaration of a primitive, whatever it was written in, and the registry that finds it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from . import syntax as s


@dataclass(frozen=True)
class Declaration:
    """One primitive: either `tree` (written in the language) or `call` (in Python) is set."""

    kind: str
    name: str
    tree: s.Primitive | s.Bundle | None = None
    call: Callable[..., Any] | None = None
    inputs: tuple[s.Input, ...] = ()
    options: tuple[s.Option, ...] = ()
    doc: str = ""
    papers: tuple[int, ...] = ()
    address: str = ""
    origin: str = "optc"

    @property
    def of_the_model(self) -> bool:
        """Whether it computes with arrays of the model alone: then its options are the model's."""
        types = [i.type for i in self.inputs if i.type is not None]
        whole = len(types) == len(self.inputs) and all(t.reach == "model" for t in types)
        return whole and any(t.axes for t in types)


class Registry(Protocol):
    """What the checker asks of the library: a primitive by kind and name, the known names."""

    def find(self, kind: str, name: str) -> Declaration | None: ...

    def names(self, kind: str) -> Iterable[str]: ...

    def kinds_of(self, name: str) -> Iterable[str]: ...

    def plugin_names(self) -> Iterable[str]: ...


class NoLibrary:
    """A registry without primitives: only what the file itself defines is known."""

    def find(self, kind: str, name: str) -> Declaration | None:
        return None

    def names(self, kind: str) -> Iterable[str]:
        return ()

    def kinds_of(self, name: str) -> Iterable[str]:
        return ()

    def plugin_names(self) -> Iterable[str]:
        return ()


def from_syntax(tree: s.Primitive, origin: str = "optc") -> Declaration:
    """The declaration of a primitive that is written in the language."""
    papers = [p for p in tree.body if isinstance(p, s.Paper)]
    return Declaration(
        tree.kind,
        tree.name,
        tree=tree,
        inputs=tree.inputs,
        options=tree.options,
        doc=tree.doc,
        papers=tuple(p.number for p in papers if p.number),
        address=next((p.address for p in papers if p.address), ""),
        origin=origin,
    )


class State:
    """Annotation of a positional argument of a Python primitive that is kept between steps."""


def primitive(
    kind: str, *, paper: int = 0, address: str = ""
) -> Callable[[Callable[..., Any]], Declaration]:
    """Declare a pure Python function as a primitive; its signature is the declaration.

    Positional arguments are inputs by name (`g`, `w`, `loss`, `grad`), those annotated `State` are
    kept between steps and start at zero, keyword-only arguments are options with their defaults
    and, as annotation, a bound ("positive", "unit", ...). The result is the new direction, then
    each new state. The function is traced once with torch.fx: it may use torch functions and
    operators only.
    """
    if kind not in s.KINDS:
        raise ValueError(f"Invalid kind of primitive: {kind!r}; one of {', '.join(s.KINDS)}")

    def declare(function: Callable[..., Any]) -> Declaration:
        parameters = inspect.signature(function).parameters.values()
        inputs, options = [], []
        for p in parameters:
            mark = p.annotation if isinstance(p.annotation, str) else ""
            if p.kind is inspect.Parameter.KEYWORD_ONLY:
                options.append(s.Option(p.name, mark, _literal(p.default)))
            else:
                state = p.annotation is State or mark.rpartition(".")[2] == "State"
                inputs.append(s.Input(p.name, s.TypeExpr("state" if state else "element")))
        return Declaration(
            kind,
            function.__name__,
            call=function,
            inputs=tuple(inputs),
            options=tuple(options),
            doc=inspect.getdoc(function) or "",
            papers=(paper,) if paper else (),
            address=address,
            origin=function.__module__,
        )

    return declare


def _literal(value: Any) -> s.Expr | None:
    if value is inspect.Parameter.empty:
        return None
    if isinstance(value, tuple):
        return s.Tuple(tuple(s.Number(v) for v in value))
    return s.Number(value)
