"""How well a logistic loss hides its input: the numbers of the paper's card."""

from __future__ import annotations

import pytest
import torch

import optc

DTYPE = torch.float64
J = [[-0.425, 0.025, -0.05], [-0.15, -0.55, 0.1], [0.0375, 0.0125, -0.525]]
RULE = """rule influence(eps = 0.0):
    target theta = named("w"), x = other
    input delta: element
    J = u -> grad(q -> dot(grad[theta](loss, x = q), u, over = model), x)
    JT = b -> grad(p -> dot(grad[x](loss, theta = p), b, over = model), theta)
    x <- inversion_influence(J, JT, delta; eps)
    theta <- 0 * theta
"""


def moved(delta: list[float], eps: float) -> list[float]:
    """b of a change of the shared gradient, left in x."""
    x = torch.nn.Parameter(torch.tensor([0.3, 0.1, -0.2], dtype=DTYPE))
    w = torch.nn.Parameter(torch.tensor([1, -2, 0.5], dtype=DTYPE))
    opt = optc.loads(RULE)([("x", x), ("w", w)], eps=eps)
    opt.bind(objective=lambda: -torch.nn.functional.logsigmoid(w @ x))
    opt.supply(delta=[torch.tensor(delta, dtype=DTYPE)])
    opt.step()
    return x.tolist()


@pytest.mark.parametrize(
    ("eps", "b"),
    [
        (0.0, [-0.0395, 0.0335, -0.047]),
        (0.01, [-0.03729996, 0.03249204, -0.04567297]),
    ],
)
def test_the_influence_of_a_change(eps: float, b: list[float]) -> None:
    assert moved([0.01, -0.02, 0.03], eps) == pytest.approx(b, abs=1e-8)


def test_a_large_eps_bounds_it() -> None:
    found = torch.tensor(moved([0.01, -0.02, 0.03], 1.0), dtype=DTYPE)
    assert found.norm().item() == pytest.approx(0.01576859, abs=1e-8)


def test_small_singular_directions_protect_most() -> None:
    _, sizes, rows = torch.linalg.svd(torch.tensor(J, dtype=DTYPE))
    found = [torch.tensor(moved(v.tolist(), 0.0)).norm().item() for v in rows]
    assert found == pytest.approx([1.61676101, 2, 2.47408242], abs=1e-6)
    assert found == pytest.approx((1 / sizes).tolist(), abs=1e-6)
