"""A lazy network fits its training data long before it learns features."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import optc

EXAMPLE = Path(__file__).parents[2] / "examples" / "grokking_polynomial.opt"
D, P, N = 30, 120, 100


def errors(alpha: float, marks: tuple[int, ...]) -> list[tuple[float, float, float]]:
    """Training and test error over the mean square, and the alignment, at some steps."""
    make = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=make, dtype=torch.float64)  # noqa: E731
    x, unseen, beta = draw(D, P).T, draw(D, 1000).T, draw(D)
    beta *= D**0.5 / beta.norm()
    W = torch.nn.Parameter(draw(N, D))
    y, truth = ((points @ beta) ** 2 / D for points in (x, unseen))

    def g(points: torch.Tensor) -> torch.Tensor:
        h = points @ W.T / D**0.5
        return (h + h**2 / 8).mean(1)

    opt = optc.load(EXAMPLE)([W], lr=0.5 * N, alpha=alpha)
    opt.bind(outputs=lambda: g(x))
    opt.supply(y=y)
    found = []
    for step in range(marks[-1] + 1):
        if step in marks:
            with torch.no_grad():
                seen = ((alpha * g(x) - y) ** 2).mean() / (y**2).mean()
                held = ((alpha * g(unseen) - truth) ** 2).mean() / (truth**2).mean()
        opt.step()
        if step in marks:
            found.append((float(seen), float(held), float(opt.metrics["alignment"])))
    return found


def test_the_run_of_the_card() -> None:
    found = errors(1.0, (0, 100, 200))
    expected = [(0.929, 0.905), (0.213, 0.786), (0.0546, 0.512)]
    for (seen, held, _), (a, b) in zip(found, expected, strict=True):
        assert (seen, held) == pytest.approx((a, b), rel=0.01)
    assert [found[0][2], found[2][2]] == pytest.approx([0.037, 0.140], abs=1e-3)


def test_a_larger_scale_learns_features_later() -> None:
    rich, lazy = errors(0.25, (200,))[0], errors(4.0, (200,))[0]
    assert rich[2] == pytest.approx(0.294, abs=2e-3) and lazy[2] == pytest.approx(0.046, abs=2e-3)
    assert rich[1] < lazy[1]
