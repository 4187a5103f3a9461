"""The hard papers in the language: checked, typed, and split into phases."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest

from optc.compiler import driver
from optc.compiler.check import check_file
from optc.compiler.pipeline import run
from optc.compiler.source import Source
from optc.plugins.registry import library

HARD = sorted((Path(__file__).parents[1] / "cases" / "hard").glob("*.opt"))
WORKERS = {"065_drcgd", "079_prox_tracking"}
"""The rules among them that are over workers."""


@pytest.mark.parametrize("path", HARD, ids=lambda p: p.stem)
def test_it_becomes_phases_in_every_variant(path: Path) -> None:
    file = driver.tree(Source(path.name, path.read_text(encoding="utf-8")))
    graphs = check_file(file, library())
    assert graphs
    for graph in map(run, graphs):
        assert graph.workers == (path.stem in WORKERS)
        program = driver.program(graph)
        for bits in product((False, True), repeat=len(program.conditions.names)):
            assert program.plan(bits).phases
        for name, slot in program.slots.items():
            if slot.kind == "state":
                program.start(name)
