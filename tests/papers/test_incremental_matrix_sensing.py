"""Descent from a small start learns the ranks of a matrix one after the other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

import optc

EXAMPLE = Path(__file__).parents[2] / "examples" / "matrix_sensing_gd.opt"
Z = torch.diag(torch.tensor([4.0, 2.0, 1.0, 0.0], dtype=torch.float64))


def phases(alpha: float, width: int, steps: int) -> tuple[list[int], torch.Tensor]:
    """The phase before each step, and the last U U'; fully observed."""
    start = alpha * np.random.default_rng(0).standard_normal((4, 4))[:, :width] / 2
    U = torch.nn.Parameter(torch.tensor(start))
    opt = optc.load(EXAMPLE)([U])
    opt.bind(objective={"main": lambda: ((U @ U.T - Z) ** 2).sum() / 4})
    opt.supply(Z=Z)
    found = []
    for _ in range(steps):
        opt.step()
        found.append(round(float(opt.metrics["phase"])))
    return found, (U @ U.T).detach()


def test_each_phase_is_entered_once_and_in_order() -> None:
    found, last = phases(1e-5, 4, 800)
    assert found == sorted(found) and set(found) == {0, 1, 2, 3}
    entered = np.array([found.index(k) for k in (1, 2, 3)])
    assert np.abs(entered - [172, 314, 595]).max() <= 60
    gaps = np.diff(entered)
    assert 1.7 < gaps[1] / gaps[0] < 2.3
    assert (last - Z).abs().max() < 1e-2


def test_a_narrow_factor_stops_at_the_best_fit() -> None:
    found, last = phases(1e-3, 2, 900)
    assert found[-1] == 2
    values = torch.linalg.eigvalsh(last).flip(0)
    torch.testing.assert_close(
        values, torch.tensor([4.0, 2, 0, 0], dtype=torch.float64), atol=1e-6, rtol=0
    )
