"""The hooks of a plugin: this file is the whole manual.

A plugin is a Python package with an entry point in the group `optc`:

    [project.entry-points.optc]
    lion = "optc_lion"

The module it names implements one or both hooks. The built-in library comes by the same hooks
(`builtin.py`); `optc new plugin NAME` writes a package to begin with.

    from pathlib import Path
    from optc import hookimpl

    @hookimpl
    def optc_libraries():
        return (Path(__file__).parent / "library",)

Write a primitive in the language wherever it can say it: then it is explained, analysed, checked
and sharded for nothing. `library/precondition/lion.opt` holds `precondition lion` and nothing else;
ship it with `[tool.setuptools.package-data] optc_lion = ["library/*/*.opt"]`.

- The module is imported when a rule uses a name that is not built in, or when names are listed.
  Keep torch out of its first lines if all of it is written in the language.
- A module that cannot be imported is reported by `optc list` (E502) and hurts no other plugin.
- A kind and name that two packages contribute is an error where a rule uses it (E501). What is
  built in stays: no package replaces it by being installed, and `optc list` names the clash.
- A file that does not hold what its path says is an error where it is used (E503).
- `optc plugin test NAME` runs the contract over a plugin: documentation, its checks, one meaning
  however it is run, save and resume.
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
    when its primitive is first used, and not before. Bundles lie in `function/`. The result is a
    tuple of folders that exist.
    """


@hookspec
def optc_primitives() -> Sequence[Declaration]:  # type: ignore[empty-body]
    """Primitives that are written in Python with `@optc.primitive(kind)`, as a tuple.

        @primitive("precondition", address="arXiv:2302.06675")
        def blended_sign(g, average: State, *, beta: "unit" = 0.9):
            \"\"\"The sign of the gradient blended with its running mean.\"\"\"
            direction = torch.sign(torch.lerp(g, average, beta))
            return direction, torch.lerp(g, average, beta)

    The signature is the declaration: inputs by name (`g` or `d`, `w`), `State` for what is kept
    between steps from zero on, keyword-only options with defaults and bounds. The result is the new
    direction, then each new state. They are pure, element-wise functions of torch tensors; they are
    traced once and become the same nodes as those that are written in the language (E504 names a
    function that has no node).
    """
