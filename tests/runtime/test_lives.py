"""Whole lives of optimizers, drawn from seeds: library rules by schedules, guards and what befalls.

However it is run, a life is one; what interrupts it changes nothing; a guarded step that meets a
gradient that is not finite leaves all as it was. Other seeds are as good: `SEEDS` is what a minute
allows.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from optc.runtime.native import compiler

from ..lives import Life, life
from ..living import Run, interruptions, meaning

SEEDS = range(5000, 5060)
BACKENDS = ["eager", *(["c"] if compiler() else [])]
SAID = (
    "cannot go back: its snapshot",
    "has a place for each cell of other",
    "the groups must agree",
    "matrix is singular",
)
"""Words of errors that a life may end with, however it is run."""
NEAR = {torch.float64: 1e-10, torch.float32: 1e-4, torch.complex64: 1e-4}
FAR = 1e4
"""A life that diverges amplifies its rounding."""


def lived(one: Life, run: Run) -> tuple[list[list[Tensor]], str]:
    """The tensors after each step, and the error that ended it."""
    found = []
    for turn in one.turns:
        before, kept = run.held(), run.kept()
        try:
            run.turn()
        except (RuntimeError, ValueError) as error:
            assert any(words in str(error) for words in SAID), error
            return found, str(error)
        found.append(run.held())
        if one.guard and turn.bad and not (turn.joins or run.breaks):
            taken_back(one, run, before, kept)
    return found, ""


def alike_to_the_bit(a: Tensor, b: Tensor) -> bool:
    """Whether nothing was written: what a rule made NaN before stays it."""
    return bool(torch.equal(a.isnan(), b.isnan()) and torch.equal(a.nan_to_num(), b.nan_to_num()))


def taken_back(one: Life, run: Run, before: list[Tensor], kept: dict[str, Any]) -> None:
    """What a step has left that met something not finite: it saw it and did nothing, or did not."""
    after, same = run.kept(), run.held()
    if after["group 0.steps"] != kept["group 0.steps"] or "restore" in one.text:
        assert all(bool(torch.isfinite(x).all()) for x in same if bool(torch.isfinite(x).any()))
        return
    assert all(alike_to_the_bit(x, y) for x, y in zip(before, same, strict=True))
    always = {s for plan in run.opt._plans.values() for s in plan.always}
    for key in kept.keys() & after.keys():
        own = key.partition(".")[2]
        if own in always or own in ("lr", "calls") or key.startswith("metric"):
            continue
        assert near(kept[key], after[key]), key


def near(a: Any, b: Any, bound: float = 0.0) -> bool:
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(near(x, y, bound) for x, y in zip(a, b, strict=True))
    if not isinstance(a, Tensor) or a.dtype in (torch.bool, torch.int8):
        return bool(torch.as_tensor(a == b).all()) if a is not None else b is None
    return torch.allclose(a, b, rtol=bound, atol=bound, equal_nan=True)


def alike(one: list[list[Tensor]], two: list[list[Tensor]], bound: float | None = None) -> bool:
    """Whether two lives went the same way, as long as they stayed in reach."""
    for a, b in zip(one, two, strict=True):
        if any(x.numel() and not float(x.abs().max()) < FAR for x in a):
            return True
        for x, y in zip(a, b, strict=True):
            if not near(x, y, NEAR.get(x.dtype, 2e-2) if bound is None else bound):
                return False
    return True


@pytest.mark.parametrize("seed", SEEDS)
def test_a_life(seed: int) -> None:
    one = life(seed)
    whole = {backend: lived(one, Run(one, backend)) for backend in BACKENDS}
    first, ended = whole["eager"]
    for steps, error in whole.values():
        assert bool(error) == bool(ended)
        assert alike(first, steps, 1e-7 if one.exact else 5e-2)
    if one.plain and not ended:
        assert alike(first, meaning(one), 1e-7)
    for backend in BACKENDS if not ended else ():
        run = Run(one, backend, interruptions(one, seed))
        assert alike(whole[backend][0], lived(one, run)[0])
