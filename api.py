"""What a user calls: load a rule as an optimizer class, or as a functional step."""

from __future__ import annotations

from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .compiler import driver
from .compiler.source import Source

if TYPE_CHECKING:
    from .runtime.functional import Step
    from .runtime.optimizer import Optimizer


def compile(
    path: str | Path,
    *,
    rule: str = "",
    guard: bool = False,
    private: bool = False,
    schedule: str | Path = "",
) -> Any:
    """The Program of a rule in a `.opt` or `.yaml` file. Raises CompileError with every mistake.

    With `guard`, a step that meets a non-finite gradient changes nothing: no parameter, no state,
    no counter. `optc explain` says what it costs; a GPU decides it without the host, which then
    learns of it before the next step. With `private`, a rule that is not proven to be
    differentially private is an error that names the place. `schedule` is a file that says how the
    rule runs.
    """
    if "\n" in str(path):
        raise ValueError("Invalid path: this is the text of a rule; optc.loads(text) takes one")
    other = (str(schedule), Path(schedule).read_text(encoding="utf-8")) if schedule else None
    return _compiled(str(path), Path(path).read_text(encoding="utf-8"), rule, guard, private, other)


@lru_cache(maxsize=256)
def _compiled(
    path: str,
    text: str,
    rule: str,
    guard: bool = False,
    private: bool = False,
    schedule: tuple[str, str] | None = None,
) -> Any:
    from .plugins.registry import library

    other = None if schedule is None else Source(*schedule)
    program = driver.compile_source(Source(path, text), library(), rule, guard, private, other)
    program.private = private
    program.rebuild = partial(_compiled, guard=guard, private=private, schedule=schedule)
    return program


def load(
    path: str | Path,
    *,
    rule: str = "",
    guard: bool = False,
    private: bool = False,
    schedule: str | Path = "",
) -> type[Optimizer]:
    """The optimizer class of a rule: `load("adamw.opt")(model.parameters(), lr=1e-3)`."""
    from .runtime.optimizer import optimizer_class

    made = compile(path, rule=rule, guard=guard, private=private, schedule=schedule)
    return optimizer_class(made)


def loads(
    text: str,
    *,
    path: str = "<string>",
    rule: str = "",
    guard: bool = False,
    private: bool = False,
    schedule: str = "",
) -> type[Optimizer]:
    """The optimizer class of a rule that is given as text, and its schedule if it has one."""
    from .runtime.optimizer import optimizer_class

    other = ("<schedule>", schedule) if schedule else None
    return optimizer_class(_compiled(path, text, rule, guard, private, other))


def functional(path: str | Path, *, rule: str = "") -> Step:
    """The rule as a pure step over a tensor or a pytree: see `runtime.functional.Step`.

    A schedule is how an optimizer runs; a pure step keeps its state as it is computed.
    """
    from .plugins.registry import library
    from .runtime.functional import Step

    source = Source(str(path), Path(path).read_text(encoding="utf-8"))
    return Step(driver.program(driver.graph(source, library(), rule), source))


def parameters(model: Any) -> list[dict[str, Any]]:
    """The parameters of a module with their names and the types of the modules that own them.

    What `for params where named(..)` and `module("Linear")` ask is known then:
    `Rule(optc.parameters(model), lr=1e-3)`. Names are those of the module that torch.compile,
    DistributedDataParallel or DataParallel wraps.
    """
    from torch.nn.parallel import DataParallel, DistributedDataParallel

    found: dict[int, tuple[str, Any, str]] = {}
    while isinstance(model, DataParallel | DistributedDataParallel) or hasattr(model, "_orig_mod"):
        model = model._orig_mod if hasattr(model, "_orig_mod") else model.module
    for path, module in model.named_modules():
        for name, p in module.named_parameters(recurse=False):
            full = (f"{path}.{name}" if path else name).replace("_orig_mod.", "")
            found.setdefault(id(p), (full, p, type(module).__name__))
    names = [(name, p) for name, p, _ in found.values()]
    return [{"params": names, "module_types": [kind for _, _, kind in found.values()]}]
