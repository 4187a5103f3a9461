"""What an adaptive ODE solver estimates of its errors: the card's Heun-Euler runs."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import optc

DTYPE = torch.float64
RULE = """rule regularized():
    input e: model[accepted, dims], before: model[accepted, dims], after: model[accepted, dims]
    input h: model[accepted], inner: model[accepted, dims], last: model[accepted, dims]
    input k_inner: model[accepted, dims], k_last: model[accepted, dims], missed: model
    metric error = solver_error_reg(
        e, before, after, h; reltol = 0.01, abstol = 0.01, averaged = false
    )
    metric stiff = solver_stiffness_reg(
        last, k_last, inner, k_inner; stability_size = 1, summed = true
    )
    metric stiffest = solver_stiffness_reg(last, k_last, inner, k_inner; stability_size = 1)
    metric nfe = nfe_monitor(size(accepted), missed)
    w <- w - grad(w)
"""


def solved(rate: float) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """The accepted steps of u' = -rate u on [0, 1] from (1, 2), and the end."""
    u, t, h, missed = torch.tensor([1.0, 2.0], dtype=DTYPE), 0.0, 0.1, 0
    kept: dict[str, list[torch.Tensor]] = {
        k: [] for k in ("e", "before", "after", "h", "inner", "last", "k_inner", "k_last")
    }
    while t < 1 - 1e-12:
        h = min(h, 1 - t)
        k1 = -rate * u
        inner = u + h * k1
        k2 = -rate * inner
        new, e = u + h / 2 * (k1 + k2), h / 2 * (k2 - k1)
        share = e / (0.01 + 0.01 * torch.maximum(u.abs(), new.abs()))
        error = float((share**2).mean().sqrt())
        if error <= 1:
            found = (e, u, new, torch.tensor(h, dtype=DTYPE), inner, new, k2, -rate * new)
            for name, value in zip(kept, found, strict=True):
                kept[name].append(value)
            u, t = new, t + h
        missed += error > 1
        h *= min(5, max(0.2, 0.9 / error**0.5))
    given = {k: torch.stack(v) for k, v in kept.items()}
    return {**given, "missed": torch.tensor(float(missed), dtype=DTYPE)}, u


@pytest.mark.parametrize(
    ("rate", "steps", "missed", "end", "error", "stiff", "nfe"),
    [
        (1.0, 7, 0, (0.3699, 0.739801), 0.69228774, 7.0, 15),
        (5.0, 18, 1, (0.007969, 0.015938), 0.62310926, 90.0, 38),
    ],
)
def test_the_cards_runs(
    rate: float,
    steps: int,
    missed: int,
    end: tuple[float, float],
    error: float,
    stiff: float,
    nfe: int,
) -> None:
    given, u = solved(rate)
    assert len(given["h"]) == steps and given["missed"] == missed
    assert u.tolist() == pytest.approx(end, abs=1e-6)
    w = torch.nn.Parameter(torch.zeros(1, dtype=DTYPE))
    w.grad = torch.zeros_like(w)
    opt: Any = optc.loads(RULE)([w])
    opt.supply(**given)
    opt.step()
    assert float(opt.metrics["error"]) == pytest.approx(error, abs=1e-8)
    assert float(opt.metrics["stiff"]) == pytest.approx(stiff, abs=1e-9)
    assert float(opt.metrics["stiffest"]) == pytest.approx(rate, abs=1e-9)
    assert float(opt.metrics["nfe"]) == nfe
