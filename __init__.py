"""optc compiles training update rules, written as in the paper, to torch optimizers.

import optc
SamAdamw = optc.load("examples/sam_adamw.opt")
optimizer = SamAdamw(model.parameters(), lr=3e-4)
"""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "load": "api",
    "loads": "api",
    "functional": "api",
    "simulate": "runtime.workers",
    "compile": "api",
    "parameters": "api",
    "torch_state": "runtime.torch_state",
    "Optimizer": "runtime.optimizer",
    "CompileError": "compiler.source",
    "primitive": "compiler.primitive",
    "State": "compiler.primitive",
    "hookimpl": "plugins.hookspecs",
}


def __getattr__(name: str) -> Any:
    """The public names, imported when they are used: nothing here imports torch by itself."""
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module 'optc' has no attribute {name!r}")
    return getattr(import_module(f"optc.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """The public names and the modules that are imported: what is completed behind `optc.`."""
    return sorted({*globals(), *_HOMES} - {"Any", "annotations"})
