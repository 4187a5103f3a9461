"""Decay by irrelevance, then pruning by a validation loss: weights that nothing needs are cut."""

from __future__ import annotations

import torch
from torch import Tensor

import optc

RULE = """rule pruned(lr = 0.1, lam = 0.01):
    loss train, validation
    loss = train
    smooth momentum(0.5)
    regularize relevance_weighted_decay(grad(w), lam, lr)
    step 1
    project iterative_magnitude_prune(validation, 0.5, 40, 0.01)
"""
TRUTH = torch.tensor([2.0, 0.0, -1.5, 0.0, 0.0, 1.0, 0.0, 0.0], dtype=torch.float64)


def data(seed: int, rows: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, len(TRUTH), generator=generator, dtype=torch.float64)
    return x, x @ TRUTH + 0.1 * torch.randn(rows, generator=generator, dtype=torch.float64)


def trained(steps: int, **options: float) -> tuple[Tensor, Tensor]:
    (x, y), (xv, yv) = data(0, 64), data(1, 64)
    p = torch.nn.Parameter(torch.full_like(TRUTH, 0.3))
    opt = optc.loads(RULE)([p], **options)
    loss = lambda _: ((x @ p - y) ** 2).mean() / 2  # noqa: E731
    opt.bind(
        objective={"train": loss, "validation": lambda _: ((xv @ p - yv) ** 2).mean() / 2},
    )
    for _ in range(steps):
        opt.step()
    return p.detach(), opt.state[p]["iterative_magnitude_prune.mask"]


def test_the_weights_that_nothing_needs_are_cut_and_stay_cut() -> None:
    w, mask = trained(100)
    assert torch.equal(mask, (TRUTH != 0).double())
    assert torch.equal(w != 0, TRUTH != 0)
    torch.testing.assert_close(w, TRUTH, rtol=0, atol=0.12)


def test_before_the_first_phase_ends_it_is_momentum_and_decay() -> None:
    w, mask = trained(39)
    assert bool(mask.all())
    (x, y), at = data(0, 64), torch.full_like(TRUTH, 0.3)
    m = torch.zeros_like(at)
    for _ in range(39):
        g = x.T @ (x @ at - y) / len(x)
        m = 0.5 * m + g
        at = at - 0.1 * m - 0.01 * torch.exp(-g.abs()) * at
    torch.testing.assert_close(w, at, rtol=1e-10, atol=1e-12)
