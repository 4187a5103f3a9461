"""What a user calls: load a rule as an optimizer class, or as a functional step."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .compiler import driver
from .compiler.source import Source

if TYPE_CHECKING:
    from .runtime.functional import Step
    from .runtime.optimizer import Optimizer


def compile(path: str | Path, *, rule: str = "") -> Any:
    """The Program of a rule in a `.opt` or `.yaml` file. Raises CompileError with every mistake."""
    return _compiled(str(path), Path(path).read_text(encoding="utf-8"), rule)


@lru_cache(maxsize=256)
def _compiled(path: str, text: str, rule: str) -> Any:
    from .plugins.registry import library

    program = driver.compile_source(Source(path, text), library(), rule)
    program.rebuild = _compiled
    return program


def load(path: str | Path, *, rule: str = "") -> type[Optimizer]:
    """The optimizer class of a rule: `load("adamw.opt")(model.parameters(), lr=1e-3)`."""
    from .runtime.optimizer import optimizer_class

    return optimizer_class(compile(path, rule=rule))


def loads(text: str, *, path: str = "<string>", rule: str = "") -> type[Optimizer]:
    """The optimizer class of a rule that is given as text."""
    from .runtime.optimizer import optimizer_class

    return optimizer_class(_compiled(path, text, rule))


def functional(path: str | Path, *, rule: str = "") -> Step:
    """The rule as a pure step over a tensor or a pytree: see `runtime.functional.Step`."""
    from .runtime.functional import Step

    return Step(compile(path, rule=rule))
