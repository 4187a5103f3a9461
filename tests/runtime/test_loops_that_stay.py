"""Loops that are run turn by turn, with cells that are carried: as in the interpreter."""

from __future__ import annotations

import pytest

from optc.runtime.native import compiler

from .compare import difference, interpreted, optimized

BACKENDS = ["eager", *(["c"] if compiler() else [])]
CARRIED = {
    "two that change places": """rule r(lr = 0.1):
    var a = w, b = grad(w)
    repeat 6 until loss(a) < 0.001:
        a, b <- b, 0.5 * a + 0.25 * b
    w <- w - lr * a + 0.01 * b
""",
    "ends before its last turn": """rule r(lr = 0.05):
    f = loss(w)
    var y = w
    repeat 20 until loss(y) < 0.8 * f:
        y <- y - lr * grad(y)
    w <- y
""",
    "cells stop by themselves": """rule r(lr = 0.05):
    var y = w
    repeat 9 until abs(y) < 0.4:
        y <- y - lr * grad(y)
    w <- 0.9 * y
""",
    "a loop in a loop": """rule r(lr = 0.05):
    f = loss(w)
    var y = w, z = w
    repeat 3 until loss(y) < 0.5 * f:
        z <- y
        repeat 4 until loss(z) < 0.6 * f:
            z <- z - lr * grad(y)
        y <- 0.5 * y + 0.5 * z
    w <- 0.9 * y + 0.1 * z
""",
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", CARRIED)
def test_cells_that_a_loop_carries(name: str, backend: str) -> None:
    meaning = interpreted(CARRIED[name], 4)
    values, _ = optimized(CARRIED[name], 4, backend)
    assert difference(values, meaning.tensors()) < 1e-12
