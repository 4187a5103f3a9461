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
        placed = "at" in inspect.signature(function).parameters

        def build(ctx: Context, scope: Scope, given: Arguments, span: Span) -> Any:
            at: dict[str, Any] = {"at": _at(given, names)} if placed else {}
            if rest:
                return function(ctx, scope, span, *given.positional, **given.named, **at)
            bound = dict(zip(names, given.positional, strict=False))
            if len(given.positional) > len(names):
                ctx.error(
                    "E205", f"`{name}` takes {len(names)} arguments: {', '.join(names)}", span
                )
            for key, value in given.named.items():
                if key not in names:
                    ctx.error(
                        "E203",
                        f"`{name}` has no argument `{key}`",
                        given.spans.get(key, span),
                        OVER if key in ("dim", "axis") and "over" in names else nearest(key, names),
                    )
                bound[key] = value
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
