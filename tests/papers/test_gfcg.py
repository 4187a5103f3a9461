"""Three Gaussian classes: what a classifier without gradients does to the samples of one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import optc

RULE = """
rule sampled(w_max = 1.0):
    input sigma: model, next: model
    oracle denoise(x, label): element, classify(x): row[classes]
    guided = gradient_free_classifier_guidance(w, denoise, classify, 0, w_max = w_max)
    w <- w + (next - sigma) * (w - guided) / sigma
"""
MEANS = torch.tensor([[1.0, 0.0], [0.2, 0.98], [-1.0, 0.0]], dtype=torch.float64)
PARTICLES = 8_000


def logits(x: Tensor) -> Tensor:
    return -(x - MEANS[:, None]).square().sum(-1) / 0.72


def sampled(w_max: float) -> tuple[float, float, float]:
    """Of samples of class 0: the share that is seen as 0, its mean probability, their spread."""
    torch.manual_seed(0)
    levels = [10 * 1e-3 ** (i / 59) for i in range(60)] + [0.0]
    w = torch.nn.Parameter(10 * torch.randn(PARTICLES, 2, dtype=torch.float64))
    w.grad = torch.zeros_like(w)
    opt = optc.loads(RULE)([w], w_max=w_max)
    sigma = levels[0]

    def denoise(x: list[Tensor], label: Tensor | list[Tensor]) -> list[Tensor]:
        label = label[0] if isinstance(label, list) else label
        means = MEANS[label.long().reshape(-1)].expand(PARTICLES, 2)
        return [x[0] - sigma**2 * (x[0] - means) / (0.36 + sigma**2)]

    opt.bind(denoise=denoise, classify=lambda x: [logits(x[0])[..., None]])
    for sigma, next in zip(levels, levels[1:], strict=False):
        opt.supply(sigma=sigma, next=next)
        opt.step()
    x = w.detach()
    p = logits(x).softmax(0)
    return float((p.argmax(0) == 0).double().mean()), float(p[0].mean()), float(x.std(0).mean())


CARD = [(0.0, 0.829, 0.753, 0.586), (1.0, 0.959, 0.846, 0.522), (3.0, 1.0, 0.931, 0.477)]


@pytest.mark.parametrize(("w_max", "share", "sure", "spread"), CARD)
def test_the_cards_samples(w_max: float, share: float, sure: float, spread: float) -> None:
    """Within Monte Carlo error; the spread is the mean of both coordinates'."""
    assert sampled(w_max) == pytest.approx((share, sure, spread), abs=0.01)
