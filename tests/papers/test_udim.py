"""UDIM on a linear softmax: the numbers of the paper's card."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import optc

DTYPE = torch.float64
RULE = """rule udim_step(lr = 1.0, rho = 0.05, rho_x = 0.1, across = false, strength = 0.5):
    target theta = named("weight", "bias"), x = other
    loss main
    loss outputs: model[examples, classes]
    loss features: model[examples, units]
    input y: model[examples]
    sharp = q -> main(x = q) + rho * norm(grad[theta](main, x = q), over = model)
    moved = udim_data_perturb(sharp, rho_x, across, w = x)
    wrong = (p, q) -> softmax(outputs(theta = p, x = q)) - one_hot(outputs(), y)
    unlike = p -> gradient_variance_inconsistency(
        wrong(p, x), features(theta = p), wrong(p, moved), features(theta = p, x = moved))
    metric inconsistency = unlike(theta)
    g = grad[theta](main)
    sharper = grad[theta](main, theta = theta + rho * g / norm(g, over = model))
    direction = udim(sharper, grad(unlike, theta), strength, warmup = 0)
    theta <- theta - lr * direction
    x <- moved
"""


def stepped(**options: Any) -> tuple[Any, list[torch.Tensor]]:
    """One step; gives the optimizer, the direction of weight and bias, and the moved inputs."""
    start = [
        torch.tensor([[0.5, -0.2], [0, 0.3]], dtype=DTYPE),
        torch.zeros(2, dtype=DTYPE),
        torch.tensor([[1.0, 0], [0, 2], [1, 1]], dtype=DTYPE),
    ]
    weight, bias, x = params = [torch.nn.Parameter(v.clone()) for v in start]
    y = torch.tensor([0, 1, 1])
    opt = optc.loads(RULE)([("weight", weight), ("bias", bias), ("x", x)], **options)
    opt.bind(
        objective={"main": lambda: torch.nn.functional.cross_entropy(x @ weight.T + bias, y)},
        outputs=lambda: x @ weight.T + bias,
        features=lambda: x + 0 * (weight.sum() + bias.sum()),  # unused, they would be absent
    )
    opt.supply(y=y.double())
    opt.step()
    ends = [p.detach() for p in params]
    return opt, [start[0] - ends[0], start[1] - ends[1], ends[2]]


def near(found: torch.Tensor, expected: list[Any]) -> bool:
    return torch.allclose(found, torch.tensor(expected, dtype=DTYPE), rtol=0, atol=2e-6)


def test_inputs_move_by_example_or_across_the_batch() -> None:
    by_example = [[0.923891, 0.064864], [0.075450, 1.934370], [1.075748, 0.934714]]
    across = [[0.947737, 0.051750], [0.042263, 1.957288], [1.074043, 0.925854]]
    assert near(stepped()[1][2], by_example)
    assert near(stepped(across=True)[1][2], across)


def test_the_direction_is_that_of_sam_and_of_the_inconsistency() -> None:
    opt, (weight, bias, _) = stepped()
    assert float(opt.metrics["inconsistency"]) == pytest.approx(3.1208126e-5 + 0.3307689427)
    assert near(weight, [[0.107711, 0.560035], [-0.107711, -0.560035]])
    assert near(bias, [0.248817, -0.248817])
    _, (weight, bias, _) = stepped(strength=0.0)
    assert near(weight[0], [0.051547, 0.375361]) and near(bias[0], 0.151801)
