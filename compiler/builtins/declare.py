"""How a function of the language is declared: a name, its parameters, and what builds its nodes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from ..meanings import Arguments
from ..scope import Context, Scope
from ..source import Span, nearest

Build = Callable[[Context, Scope, Arguments, Span], Any]
At = Mapping[str, Span]
"""Where the arguments of a call stand, by the names of the parameters."""
NOWHERE: At = {}
BUILTINS: dict[str, Build] = {}

OVER = "`over` names what it goes over, a reach or an axis: `over = row`"


def builtin(name: str, parameters: str = "", rest: bool = False) -> Callable[..., Any]:
    """Register a function; `parameters` are names, a trailing `?` marks an optional one.

    One that takes `at` is told where each of its arguments stands.
    """
    names = [p.strip("?") for p in parameters.split()]
    needed = [p for p in parameters.split() if not p.endswith("?")]

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        takes = inspect.signature(function).parameters
        placed = "at" in takes
        by_name = names if not rest else [n for n in takes if takes[n].default is None]

        def build(ctx: Context, scope: Scope, given: Arguments, span: Span) -> Any:
            at: dict[str, Any] = {"at": _at(given, names)} if placed else {}
            for key in given.named:
                if key not in by_name:
                    ctx.error(
                        "E203",
                        f"`{name}` has no argument `{key}`",
                        given.spans.get(key, span),
                        OVER
                        if key in ("dim", "axis") and "over" in by_name
                        else nearest(key, by_name),
                    )
            if rest:
                return function(ctx, scope, span, *given.positional, **given.named, **at)
            more = next((k for k, n in enumerate(names) if n in given.named), len(names))
            if len(given.positional) > more:
                wrong = f"`{name}({', '.join(names)})` has no place for this"
                ctx.error("E205", wrong, given.spans.get(more, span))
            bound = {**dict(zip(names, given.positional, strict=False)), **given.named}
            missing = [n for n in needed if n not in bound]
            if missing:
                help = "name what it goes over: `over = model`" if missing == ["over"] else ""
                ctx.error("E207", f"`{name}` needs `{missing[0]}`", span, help)
            return function(ctx, scope, span, **bound, **at)

        BUILTINS[name] = build
        return function

    return register


def _at(given: Arguments, names: list[str]) -> At:
    """Where arguments stand, by the names of the parameters."""
    positional = {name: given.spans[k] for k, name in enumerate(names) if k in given.spans}
    return {**positional, **{n: given.spans[n] for n in given.named if n in given.spans}}
