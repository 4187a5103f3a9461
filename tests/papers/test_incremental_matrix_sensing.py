"""Descent from a small start learns the ranks of a matrix one after the other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import optc

EXAMPLE = Path(__file__).parents[2] / "examples" / "matrix_sensing_gd.opt"
Z = torch.diag(torch.tensor([4.0, 2.0, 1.0, 0.0], dtype=torch.float64))


def phases(alpha: float, width: int, steps: int) -> tuple[list[int], list[float], torch.Tensor]:
    """Phase and distance from its target before each step, and the last U U'; fully observed."""
    start = alpha * np.random.default_rng(0).standard_normal((4, 4))[:, :width] / 2
    U = torch.nn.Parameter(torch.tensor(start))
    text = EXAMPLE.read_text(encoding="utf-8")
    opt = optc.loads(text + "    metric distance = rank_phase.distance\n")([U])
    opt.bind(objective={"main": lambda: ((U @ U.T - Z) ** 2).sum() / 4})
    opt.supply(Z=Z)
    found, distances = [], []
    for _ in range(steps):
        opt.step()
        found.append(round(float(opt.metrics["phase"])))
        distances.append(float(opt.metrics["distance"]))
    return found, distances, (U @ U.T).detach()


@pytest.mark.parametrize(("alpha", "card"), [(1e-3, (112, 196, 363)), (1e-5, (172, 314, 595))])
def test_each_phase_is_entered_once_and_in_order(alpha: float, card: tuple[int, ...]) -> None:
    """The card's are the steps that cross, which is the point before the next one."""
    found, distances, last = phases(alpha, 4, 800)
    assert found == sorted(found) and set(found) == {0, 1, 2, 3}
    assert tuple(found.index(k) - 1 for k in (1, 2, 3)) == card
    assert (last - Z).abs().max() < 1e-2
    if alpha == 1e-5:
        nearest = [min(d for p, d in zip(found, distances, strict=True) if p == k) for k in (1, 2)]
        assert nearest == pytest.approx([2.53e-3, 9.0e-4], rel=0.01)


def test_a_narrow_factor_stops_at_the_best_fit() -> None:
    found, _, last = phases(1e-3, 2, 900)
    assert found[-1] == 2
    values = torch.linalg.eigvalsh(last).flip(0)
    torch.testing.assert_close(
        values, torch.tensor([4.0, 2, 0, 0], dtype=torch.float64), atol=1e-6, rtol=0
    )
