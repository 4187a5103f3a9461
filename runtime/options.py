"""The options of a rule as they are given, in order or by name."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from ..compiler.program import Program
from ..compiler.source import near

WITHOUT_EFFECT = ("foreach", "fused")
REFUSED = ("capturable", "differentiable")
"""Arguments of torch's optimizers: how those run (`backend` says it here), and what is not had."""

OF_GROUPS = (
    *("params", "param_names", "module_types", "name", "maximize", "seed", "calls", "steps"),
    *("initial_lr", "max_lr", "min_lr", "base_momentum", "max_momentum", "lr_scale", "swa_lr"),
    *WITHOUT_EFFECT,
    *REFUSED,
)
"""Keys of a parameter group that are no options: those of torch, its schedulers, and ours."""


def with_defaults(program: Program, given: Mapping[str, Any]) -> dict[str, Any]:
    """All options of a rule; says which of those given is unknown, and which is missing."""
    _refuse_unknown(program, given)
    missing = lacking(program, given)
    if missing:
        raise TypeError(f"{program.name} needs the option {missing!r}")
    return {**program.options, **given}


def _refuse_unknown(program: Program, given: Mapping[str, Any]) -> None:
    names = list(program.options)
    unknown = [n for n in given if n not in names]
    if unknown:
        raise TypeError(f"{program.name} has no option {unknown[0]!r}; it takes {', '.join(names)}")


def lacking(program: Program, *given: Mapping[str, Any]) -> str:
    """An option without a default that is in none of those given, or ""."""
    wanted = (name for name, default in program.options.items() if default is None)
    return next((n for n in wanted if not any(n in g for g in given)), "")


def of_call(program: Program, args: Sequence[Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a rule whose optimizer is called with these arguments.

    Those without a default may be missing: the groups then say them.
    """
    names = list(program.options)
    if len(args) > len(names):
        raise TypeError(f"{program.name} takes at most {len(names)} options: {', '.join(names)}")
    given = {**options, **dict(zip(names, args, strict=False))}
    for name in REFUSED:
        if name not in names and given.get(name):
            raise ValueError(f"Invalid option: {program.name} has no {name}")
    torchs = {*WITHOUT_EFFECT, *REFUSED} - {*names}
    given = {k: v for k, v in given.items() if k not in torchs}
    _refuse_unknown(program, given)
    return {**{k: v for k, v in program.options.items() if v is not None}, **given}


def refuse_misspelt(program: Program, group: Mapping[str, Any]) -> None:
    """A key of a parameter group that is nearly an option's name.

    Others pass: torch, its schedulers and wrappers, and users keep labels of their own there.
    """
    for key in group:
        meant = "" if key in (*program.options, *OF_GROUPS) else near(key, program.options, 0.75)
        if meant:
            raise ValueError(
                f"Invalid parameter group: {program.name} has no option {key!r}; "
                f"did you mean {meant!r}?"
            )


def signature(program: Program, shared_by: Any) -> inspect.Signature:
    """What the class takes, for editors and tools: the options of the rule, then what all share."""
    empty = inspect.Parameter.empty
    defaults = [empty if d is None else d for d in program.options.values()]
    in_order = sorted(defaults, key=lambda d: d is not empty) == defaults  # as Python wants it
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD if in_order else inspect.Parameter.KEYWORD_ONLY
    options = [
        inspect.Parameter(name, kind, default=default)
        for name, default in zip(program.options, defaults, strict=True)
    ]
    _, params, *shared = inspect.signature(shared_by).parameters.values()
    taken = {"params", "args", "options", *program.options}
    shared = [p for p in shared if p.name not in taken]
    return inspect.Signature([params, *options, *shared])
