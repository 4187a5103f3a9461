"""The built-in library: a plugin like any other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .hookspecs import hookimpl


@hookimpl
def optc_libraries() -> Sequence[Path]:
    return (Path(__file__).parent,)
