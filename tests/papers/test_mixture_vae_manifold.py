"""A step on the circle through a chart without arc tangents: coordinates do not matter."""

from __future__ import annotations

import pytest
import torch

import optc

RULE = """
rule tried():
    input one: model[latent], first: element, second: element
    total = p -> sum(p, over = model)
    slope = p -> total(second * p) / (sqrt(total(p^2)) + total(first * p))
    encode = p -> STRETCH * one * slope(p)
    t = z -> sum(one * z, over = latent) / STRETCH
    decode = z -> (first * (1 - t(z)^2) + second * 2 * t(z)) / (1 + t(z)^2)
    f = p -> 0.1 * total((p - GOAL * first)^2)
    w <- chart_riemannian_step(w, decode, encode, f, OPTIONS, lr = 0.5, box_weight = 0)
"""


def moved(
    steps: int, stretch: float = 1, goal: int = -1, options: str = "outside = true"
) -> list[float]:
    w = torch.nn.Parameter(torch.tensor([0.92847669, 0.37139068], dtype=torch.float64))
    w.grad = torch.zeros_like(w)
    text = RULE.replace("STRETCH", str(stretch)).replace("GOAL", f"({goal})")
    opt = optc.loads(text.replace("OPTIONS", options))([w])
    unit = torch.eye(2, dtype=torch.float64)
    opt.supply(one=torch.ones(1, dtype=torch.float64), first=[unit[0]], second=[unit[1]])
    for _ in range(steps):
        opt.step()
    return w.tolist()


@pytest.mark.parametrize("stretch", [1, 2])
def test_a_projected_step_is_the_same_in_all_coordinates(stretch: float) -> None:
    assert moved(1, stretch) == pytest.approx([0.91405342, 0.40559381], abs=1e-7)


def test_without_the_metric_it_is_not() -> None:
    options = "outside = false, riemannian = false"
    one, two = moved(1, 1, options=options), moved(1, 2, options=options)
    assert abs(one[0] - two[0]) > 1e-3


def test_steps_stay_on_the_circle_and_reach_the_nearest_point() -> None:
    assert moved(200, goal=1) == pytest.approx([1, 0], abs=1e-4)
