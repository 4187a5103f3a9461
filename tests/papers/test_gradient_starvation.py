"""A linear toy whose strong feature starves the weak one, unless outputs are decoupled."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import optc

DTYPE = torch.float64
U = np.array([[3**0.5 / 2, -0.5], [0.5, 3**0.5 / 2]])
RULE = """rule toy(lr = 0.05, decay = 0.0, decoupling = 0.0):
    loss main
    loss outputs: model[examples]
    loss logits: model[examples, classes]
    input y: model[examples]
    J = jacobian(outputs, w)
    metric strong = starvation_monitor(J = J, outputs(), y)
    metric weak = starvation_monitor(J = J, outputs(), y, index = 1)
    less = p -> decay / 2 * dot(p, p, over = model) + spectral_decoupling(logits(p), decoupling)
    loss = p -> main(p) + less(p)
    step lr
"""


def trained(
    strength: float, start: list[float], steps: int, **options: float
) -> tuple[np.ndarray, list[float]]:
    """The weights after some steps, and the features' responses before the last."""
    phi = torch.tensor(U @ np.diag([strength, 2.0]))
    w = torch.nn.Parameter(torch.tensor(start, dtype=DTYPE))
    opt = optc.loads(RULE)([w], **options)
    opt.bind(
        objective={"main": lambda: torch.nn.functional.softplus(-phi @ w).sum()},
        outputs=lambda: phi @ w,
        logits=lambda: (phi @ w)[:, None],
    )
    opt.supply(y=torch.ones(2, dtype=DTYPE))
    for _ in range(steps):
        opt.step()
    return w.detach().numpy(), [float(opt.metrics["strong"]), float(opt.metrics["weak"])]


@pytest.mark.parametrize(
    ("strength", "options", "z"),
    [
        (4, {"decay": 0.01}, (7.8123, 1.4664)),
        (6, {"decay": 0.01}, (9.0764, 1.1802)),
        (4, {"decoupling": 0.004}, (6.3727, 1.7075)),
        (6, {"decoupling": 0.004}, (6.3727, 1.7075)),
    ],
)
def test_training_ends_where_the_card_says(
    strength: float, options: dict[str, float], z: tuple[float, float]
) -> None:
    """`decoupling` is twice that of the sum over both examples, times their number."""
    start = [z[0] / strength, z[1] / 2]
    w, responses = trained(strength, start, 1, **options)
    assert responses == pytest.approx(z, abs=1e-6)
    assert np.abs(w - start).max() < 1e-5


def test_the_way_there_is_plain_descent() -> None:
    phi, w = U @ np.diag([6.0, 2.0]), np.zeros(2)
    for _ in range(30):
        f = phi @ w
        slope = -1 / (1 + np.exp(f)) + 0.002 * f
        w, before = w - 0.05 * (phi.T @ slope), f
    found, responses = trained(6, [0.0, 0.0], 30, decoupling=0.004)
    np.testing.assert_allclose(found, w, rtol=1e-10)
    np.testing.assert_allclose(responses, np.abs(U.T @ before), rtol=1e-9)
