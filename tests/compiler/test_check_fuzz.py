"""Texts with words exchanged: a rule or its mistakes, never a traceback."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from optc.compiler import driver
from optc.compiler.check import check_file
from optc.compiler.pipeline import run
from optc.compiler.source import CompileError, Source
from optc.plugins.registry import library

ROOT = Path(__file__).parents[2]
FOLDERS = ("tests/cases/hard", "examples", "plugins/precondition", "plugins/function")
TEXTS = [p.read_text(encoding="utf-8") for f in FOLDERS for p in sorted((ROOT / f).glob("*.opt"))]
WORD = re.compile(r"\w+|[^\w\s]")
WORDS = [word for text in TEXTS for word in WORD.findall(text)]


def mutant(chance: random.Random) -> str:
    text = chance.choice(TEXTS)
    for _ in range(chance.randint(1, 3)):
        place = chance.choice(list(WORD.finditer(text)))
        new = chance.choice(("", chance.choice(WORDS), f"{place[0]} {chance.choice(WORDS)}"))
        text = text[: place.start()] + new + text[place.end() :]
    return text


@pytest.mark.parametrize("seed", range(8))
def test_a_mutant_is_checked_and_lowered_or_refused(seed: int) -> None:
    chance, registry = random.Random(seed), library()
    for _ in range(60):
        text = mutant(chance)
        try:
            graphs = check_file(driver.tree(Source("mutant.opt", text)), registry)
        except CompileError:
            continue
        for graph in map(run, graphs):
            program = driver.program(graph)
            program.plan((True,) * len(program.conditions.names))
