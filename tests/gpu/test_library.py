"""Every primitive, and lives of optimizers, on the device as in the interpreter."""

from __future__ import annotations

import pytest
import torch

from optc.cli.contract import gap, meaning, probed, runnable, trained
from optc.compiler.syntax import KINDS
from optc.plugins.registry import library

from ..lives import life
from ..living import Run, interruptions
from ..runtime.test_lives import alike, lived

EVERY = [(kind, name) for kind in KINDS for name in library().names(kind)]
HERE = torch.cuda.is_available()


@pytest.mark.parametrize(
    ("kind", "name"), EVERY if HERE else EVERY[::12], ids=lambda x: x if isinstance(x, str) else ""
)
@pytest.mark.parametrize("backend", ["eager", "auto"])
def test_a_primitive(kind: str, name: str, backend: str, device: str) -> None:
    declaration = library().find(kind, name)
    graph = probed(declaration, library()) if declaration is not None else None
    if graph is None or runnable(graph):
        pytest.skip("no rule can be made of it alone")
    # sums in another order, and powers of another library: not the last bits
    assert gap(trained(graph, backend, device=device), meaning(graph)) < 1e-7


@pytest.mark.parametrize("seed", range(7000, 7060 if HERE else 7005))
def test_a_life(seed: int, device: str) -> None:
    one = life(seed)
    known, ended = lived(one, Run(one, "eager"))
    for backend in ("eager", "auto"):
        steps, error = lived(one, Run(one, backend, device=device))
        assert bool(error) == bool(ended)
        assert alike(known, steps, 1e-6 if one.exact else 5e-2)
    if not ended:
        run = Run(one, "auto", interruptions(one, seed), device)
        assert alike(steps, lived(one, run)[0])
