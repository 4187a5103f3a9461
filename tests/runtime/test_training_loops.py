"""Training loops drawn from seeds: rules that own the evaluation, in every way of calling.

Each gives the numbers of the interpreter, whatever the loss does at one point and not at another,
and a loss that raises leaves all to the bit. Other seeds are as good: `SEEDS` is what a minute
allows.
"""

from __future__ import annotations

import random

import pytest

from optc.runtime.native import compiler

from ..looping import CONTEXTS, interpreted, looped, ways
from ..loops import training_loop
from .test_lives import alike

SEEDS = range(7000, 7055)
BACKENDS = ["eager", *(["c"] if compiler() else [])]
WAYS = 3
SINGULAR = "matrix is singular"


@pytest.mark.parametrize("seed", SEEDS)
def test_a_training_loop(seed: int) -> None:
    loop, r = training_loop(seed), random.Random(seed)
    known = ways(loop)
    chosen = r.sample(known, min(len(known), WAYS))
    plain = "complex" not in loop.features  # else the ways agree with each other
    found = []
    try:
        found = [interpreted(loop)] if plain else []
    except RuntimeError as error:
        if SINGULAR not in str(error):
            raise
        with pytest.raises(RuntimeError, match=SINGULAR):
            looped(loop, chosen[0], "eager", "", -1)
        return
    for way in chosen:
        how = r.choice(BACKENDS), r.choice(list(CONTEXTS)), r.choice((-1, 1))
        found.append(looped(loop, way, *how))
        assert alike(found[0], found[-1], 1e-6), (way, *how)
