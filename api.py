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


def compile(path: str | Path, *, rule: str = "", guard: bool = False, private: bool = False) -> Any:
    """The Program of a rule in a `.opt` or `.yaml` file. Raises CompileError with every mistake.

    With `guard`, a step that meets a non-finite gradient changes nothing: no parameter, no state,
    no counter. `optc explain` says what it costs. With `private`, a rule that is not proven to be
    differentially private is an error that names the place.
    """
    return _compiled(str(path), Path(path).read_text(encoding="utf-8"), rule, guard, private)


@lru_cache(maxsize=256)
def _compiled(path: str, text: str, rule: str, guard: bool = False, private: bool = False) -> Any:
    from .plugins.registry import library

    program = driver.compile_source(Source(path, text), library(), rule, guard, private)
    program.rebuild = _guarded if guard else _compiled
    return program


def _guarded(path: str, text: str, rule: str) -> Any:
    return _compiled(path, text, rule, True)


def load(
    path: str | Path, *, rule: str = "", guard: bool = False, private: bool = False
) -> type[Optimizer]:
    """The optimizer class of a rule: `load("adamw.opt")(model.parameters(), lr=1e-3)`."""
    from .runtime.optimizer import optimizer_class

    return optimizer_class(compile(path, rule=rule, guard=guard, private=private))


def loads(
    text: str,
    *,
    path: str = "<string>",
    rule: str = "",
    guard: bool = False,
    private: bool = False,
) -> type[Optimizer]:
    """The optimizer class of a rule that is given as text."""
    from .runtime.optimizer import optimizer_class

    return optimizer_class(_compiled(path, text, rule, guard, private))


def functional(path: str | Path, *, rule: str = "") -> Step:
    """The rule as a pure step over a tensor or a pytree: see `runtime.functional.Step`."""
    from .runtime.functional import Step

    return Step(compile(path, rule=rule))


def parameters(model: Any) -> list[dict[str, Any]]:
    """The parameters of a module with their names and the types of the modules that own them.

    What `for params where named(..)` and `module("Linear")` ask is known then:
    `Rule(optc.parameters(model), lr=1e-3)`.
    """
    found: dict[int, tuple[str, Any, str]] = {}
    for path, module in model.named_modules():
        for name, p in module.named_parameters(recurse=False):
            full = f"{path}.{name}" if path else name
            found.setdefault(id(p), (full, p, type(module).__name__))
    names = [(name, p) for name, p, _ in found.values()]
    return [{"params": names, "module_types": [kind for _, _, kind in found.values()]}]
