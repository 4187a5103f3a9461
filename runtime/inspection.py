"""What Python tells of a user's function: the modules it reaches, the arguments it takes."""

from __future__ import annotations

import inspect
from typing import Any

import torch


def modules_of(function: Any, depth: int = 3) -> list[torch.nn.Module]:
    """The modules that a closure reaches by name.

    Looked into are its free variables and globals, the arguments of a partial, the attributes of
    objects among these (`self.model`), and functions that it calls, of its own file.
    """
    given = [*getattr(function, "args", ()), *getattr(function, "keywords", {}).values()]
    function = inspect.unwrap(getattr(function, "func", function))
    owner = getattr(function, "__self__", None)
    named: list[Any] = given if owner is None else [owner, *given]
    try:
        names = inspect.getclosurevars(function)
    except TypeError:
        return [m for m in named if isinstance(m, torch.nn.Module)]
    named += names.nonlocals.values()
    held = [x for v in named if hasattr(v, "__dict__") for x in vars(v).values()]
    found: dict[torch.nn.Module, None] = {}
    for x in (*named, *held, *names.globals.values()):
        if isinstance(x, torch.nn.Module):
            found[x] = None
        elif depth and inspect.isroutine(x) and x.__module__ == function.__module__:
            found.update(dict.fromkeys(modules_of(x, depth - 1)))
    return list(found)


def takes_argument(function: Any) -> bool:
    """Whether a function can be called with one argument."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return True
    kinds = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD)
    return any(p.kind not in kinds for p in parameters)


def takes(function: Any, *arguments: Any, **named: Any) -> bool:
    """Whether a function can be called so."""
    try:
        inspect.signature(function).bind(*arguments, **named)
    except TypeError:
        return False
    except ValueError:
        pass
    return True


def parameters_of(function: Any) -> list[str]:
    """The names that a function takes."""
    parameters = inspect.signature(function).parameters.values()
    return [p.name for p in parameters if p.kind != p.VAR_KEYWORD]
