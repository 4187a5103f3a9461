"""The hooks of a plugin: this file is the whole manual.

A plugin is a Python package with an entry point in the group `optc`:

    [project.entry-points.optc]
    lion = "optc_lion"

The module it names implements one or both hooks with `@optc.hookimpl`. The built-in library comes
by the same hooks (`builtin.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pluggy

from ..compiler.primitive import Declaration

hookspec = pluggy.HookspecMarker("optc")
hookimpl = pluggy.HookimplMarker("optc")


@hookspec
def optc_libraries() -> Sequence[Path]:  # type: ignore[empty-body]
    """Folders of primitives that are written in the language.

    Each holds `<kind>/<name>.opt`, one primitive a file: the path is the name, so a file is read
    when its primitive is first used, and not before.
    """


@hookspec
def optc_primitives() -> Sequence[Declaration]:  # type: ignore[empty-body]
    """Primitives that are written in Python with `@optc.primitive(kind)`.

    They are pure functions of torch tensors; they are traced once and become the same nodes as
    those that are written in the language.
    """
