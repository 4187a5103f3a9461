"""Forward gradients: the projections of single examples, and training without backpropagation."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import optc

PER_EXAMPLE = """
rule per_example(lr = 1.0):
    loss train, guess
    a = each(batch)
    u = grad[w](guess, on = a)
    d = sum(projected_forward_gradient(p -> train(w = p, on = a), w, u), over = examples)
    step lr
"""
TOGETHER = """
rule together(lr = 1.0):
    loss train, guess
    d = projected_forward_gradient(p -> train(w = p), w, grad[w](guess))
    step lr
"""


@pytest.mark.parametrize(
    ("text", "scale", "wanted"), [(PER_EXAMPLE, 1, (1.5, 0.5)), (TOGETHER, 2, (2.0, 1.0))]
)
def test_projections_of_examples_are_the_cards(
    text: str, scale: int, wanted: tuple[float, float]
) -> None:
    """Gradients (1, 2), (0, 1) and guesses (1, 0), (1, 1), apart or summed."""
    w = nn.Parameter(torch.zeros(2, dtype=torch.float64))
    rows = torch.tensor([[[1.0, 2], [1, 0]], [[0, 1], [1, 1]]], dtype=torch.float64)
    opt = optc.loads(text)([w])
    opt.bind(
        objective={
            "train": lambda b: scale * (b[..., 0, :] @ w).mean(),
            "guess": lambda b: scale * (b[..., 1, :] @ w).mean(),
        }
    )
    opt.step(batch=rows)
    torch.testing.assert_close(-w.detach(), torch.tensor(wanted, dtype=torch.float64))


def test_a_regression_is_fitted_without_backpropagation() -> None:
    torch.manual_seed(0)
    x = torch.randn(64, 5, dtype=torch.float64)
    y = x @ torch.arange(1.0, 6.0, dtype=torch.float64)
    w = nn.Parameter(torch.zeros(5, dtype=torch.float64))
    rule = optc.loads(
        "rule r(lr = 0.02):\n    d = forward_gradient(loss, w, samples = 2)\n    step lr\n"
    )
    opt = rule([w])
    opt.bind(objective=lambda: ((x @ w - y) ** 2).mean())
    before = float((y**2).mean())
    for _ in range(400):
        opt.step()
    assert float(((x @ w.detach() - y) ** 2).mean()) < 1e-4 * before
