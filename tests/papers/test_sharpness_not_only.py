"""Two interpolators of xor, equally flat: one generalizes, the other only memorizes."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import optc

DIMENSION, POINTS = 8, 40
R = (DIMENSION + 1) ** 0.25
RULE = """rule one_sam_descent(lr = 1.0, rho = 0.1):
    loss main
    loss outputs: model[examples]
    metric trace = trace_hessian_at_interpolation(J = jacobian(outputs, w))
    parts = each(batch)
    g = grad(main, w, on = parts)
    climbed = w + rho * g / (norm(g, over = model) + 1e-12)
    metric worst = mean(main(climbed, on = parts), over = examples)
    loss = main
    perturb one_sam(rho)
    step lr
"""


def data() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training and test points in {-1, 1}^8, and the product of their first two entries."""
    x = torch.tensor(list(product((-1.0, 1.0), repeat=DIMENSION)), dtype=torch.float64)
    order = np.random.default_rng(0).permutation(len(x))
    y = x[:, 0] * x[:, 1]
    seen, unseen = order[:POINTS], order[POINTS:]
    return x[seen], y[seen], x[unseen], y[unseen]


def memorizing() -> dict[str, Tensor]:
    """One neuron a training point, active on that point only."""
    x, y, *_ = data()
    b = torch.full((POINTS,), -R * (DIMENSION - 1), dtype=torch.float64)
    return {"w": R * x, "b": b, "a": y / R}


def generalizing(stretch: float = 1.0, scale: float = 1.0) -> dict[str, Tensor]:
    """One neuron for each pattern of the two signs that matter."""
    signs = torch.tensor(list(product((-1.0, 1.0), repeat=2)), dtype=torch.float64)
    w = torch.zeros(4, DIMENSION, dtype=torch.float64)
    w[:, :2] = R * signs
    b = torch.full((4,), -R, dtype=torch.float64)
    return {"w": w / stretch, "b": b / stretch, "a": scale * stretch * signs.prod(1) / R}


class Net(torch.nn.Module):
    def __init__(self, values: dict[str, Tensor]):
        super().__init__()
        for name, value in values.items():
            self.register_parameter(name, torch.nn.Parameter(value.clone()))
        self.c = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x @ self.w.T + self.b) @ self.a + self.c


def stepped(net: Net, **options: float) -> Any:
    """One step; the batch is all training points."""
    opt = optc.loads(RULE)(list(net.named_parameters()), **options)
    opt.bind(
        model=net,
        objective={"main": lambda b: ((net(b[0]) - b[1]) ** 2).mean()},
        outputs=lambda b: net(b[0]),
    )
    opt.step(batch=data()[:2])
    return opt


def error(net: Net, seen: bool) -> float:
    x, y = data()[:2] if seen else data()[2:]
    with torch.no_grad():
        return float(((net(x) - y) ** 2).mean())


def test_both_are_as_flat_as_any_and_one_is_wrong_everywhere_else() -> None:
    for values, elsewhere in ((memorizing(), 1.0), (generalizing(), 0.0)):
        net = Net(values)
        assert error(net, seen=True) == pytest.approx(0, abs=1e-14)
        assert error(net, seen=False) == pytest.approx(elsewhere, abs=1e-14)
        trace = float(stepped(net, lr=0.0).metrics["trace"])
        assert trace == pytest.approx(2 * (1 + 2 * (DIMENSION + 1) ** 0.5), abs=1e-9)


@pytest.mark.parametrize(
    ("stretch", "rho", "ratio"),
    [(1, 0.001, 7.0121), (1, 0.01, 7.0687), (1, 0.1, 7.6969), (1.5, 0.01, 9.1438)]
    + [(2, 0.01, 13.7994)],
)
def test_the_worst_loss_of_single_examples_measures_the_trace(
    stretch: float, rho: float, ratio: float
) -> None:
    opt = stepped(Net(generalizing(stretch, 1 + 1e-6)), lr=0.0, rho=rho)
    assert float(opt.metrics["worst"]) / rho**2 == pytest.approx(ratio, abs=2e-4)


def test_the_step_is_the_mean_of_the_examples_own() -> None:
    net, by_hand = Net(generalizing(1.5, 1.1)), Net(generalizing(1.5, 1.1))
    stepped(net, lr=0.5)
    total = [torch.zeros_like(p) for p in by_hand.parameters()]
    for x, y in zip(*data()[:2], strict=True):
        start = [p.detach().clone() for p in by_hand.parameters()]
        g = torch.autograd.grad((by_hand(x[None]) - y).square().mean(), by_hand.parameters())
        size = torch.sqrt(sum((v**2).sum() for v in g))
        with torch.no_grad():
            for p, v in zip(by_hand.parameters(), g, strict=True):
                p += 0.1 * v / size
        there = torch.autograd.grad((by_hand(x[None]) - y).square().mean(), by_hand.parameters())
        with torch.no_grad():
            for p, v, s, held in zip(by_hand.parameters(), there, total, start, strict=True):
                p.copy_(held)
                s += v / POINTS
    for p, held, s in zip(net.parameters(), by_hand.parameters(), total, strict=True):
        torch.testing.assert_close(p, held - 0.5 * s, rtol=1e-9, atol=1e-10)
