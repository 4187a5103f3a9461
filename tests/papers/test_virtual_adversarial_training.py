"""Virtual adversarial training of a linear softmax: the numbers of the paper's card."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import optc

DTYPE = torch.float64
RULE = """rule vat(lr = 1.0, iterations = 1, epsilon = 0.5, xi = 1e-6):
    target x = named("x"), theta = other
    loss outputs: model[examples, classes]
    input start: element
    held = outputs()
    logits = q -> outputs(x = q)
    r = virtual_adversarial_direction(logits, start, epsilon, xi, iterations, w = x)
    R = p -> virtual_adversarial_loss(held, outputs(theta = p, x = x + r), outputs(theta = p))
    metric divergence = R(theta)
    theta <- theta - lr * grad(R, theta)
    x <- x + r
"""


def trained(iterations: int, **options: float) -> tuple[Any, torch.Tensor, torch.Tensor]:
    x = torch.nn.Parameter(torch.tensor([[0.5, -1, 2]], dtype=DTYPE))
    rows = [[1, -0.5, 0.2], [0.3, 0.8, -1], [-0.7, 0.1, 0.4]]
    weight = torch.nn.Parameter(torch.tensor(rows, dtype=DTYPE))
    text = RULE.replace("iterations = 1", f"iterations = {iterations}")
    opt = optc.loads(text)([("x", x), ("weight", weight)], **options)
    opt.bind(outputs=lambda: x @ weight.T)
    opt.supply(start=[torch.tensor([[1, 2, -1]], dtype=DTYPE)])
    before = weight.detach().clone(), x.detach().clone()
    opt.step()
    return opt, before[0] - weight.detach(), (x.detach() - before[1])[0]


@pytest.mark.parametrize(
    ("iterations", "r", "divergence"),
    [
        (1, [0.46520609, -0.07010074, -0.16931975], 0.06107922),
        (2, [0.46866546, -0.16516469, -0.0554375], 0.06688546),
        (10, [0.46755835, -0.17042292, -0.0484275], 0.06691769),
    ],
)
def test_the_direction_and_its_divergence(
    iterations: int, r: list[float], divergence: float
) -> None:
    opt, _, found = trained(iterations)
    assert found.tolist() == pytest.approx(r, abs=1e-6)
    assert float(opt.metrics["divergence"]) == pytest.approx(divergence, abs=1e-6)


def test_the_gradient_flows_through_the_moved_logits_only() -> None:
    _, gradient, _ = trained(1)
    rows = [
        [0.12535834, -0.13898177, 0.23776377],
        [-0.00060123, 0.00066656, -0.00114033],
        [-0.12475712, 0.13831521, -0.23662344],
    ]
    torch.testing.assert_close(gradient, torch.tensor(rows, dtype=DTYPE), rtol=0, atol=1e-6)


def test_a_large_finite_difference_misleads() -> None:
    _, _, r = trained(1, xi=10.0)
    assert r.tolist() == pytest.approx([-0.07554, 0.33349, -0.36479], abs=1e-4)
