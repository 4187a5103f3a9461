"""Accumulated gradients for one perturbation of many inputs: limits, and the card's toy."""

from __future__ import annotations

import torch
from torch import Tensor

import optc

RULE = """rule cloak(alpha = 0.03, walk = 0.03, eps = 0.3, rounds: count = 8, share = 0.0625):
    estimate lookahead_gradient_accumulation(eps, walk, rounds, share)
    precondition sign()
    step alpha
    project box(-eps, eps)
"""
EPS, ALPHA, OUTER = 0.3, 0.03, 20


class Toy:
    """A normalised random embedding; J is how far it moves, on average."""

    def __init__(self, seed: int):
        self.generator = torch.Generator().manual_seed(seed)
        self.weights = self.normal(16, 10)
        centre = self.normal(10)
        self.train = centre + 0.5 * self.normal(64, 10)
        self.test = centre + 0.5 * self.normal(500, 10)
        self.start = 0.02 * self.normal(10)

    def normal(self, *size: int) -> Tensor:
        return torch.randn(*size, generator=self.generator, dtype=torch.float64)

    def embed(self, x: Tensor) -> Tensor:
        h = torch.relu(x @ self.weights.T)
        return h / (h.norm(dim=1, keepdim=True) + 1e-12)

    def moved(self, x: Tensor, delta: Tensor) -> Tensor:
        return (self.embed(x + delta) - self.embed(x)).square().sum(1).mean()

    def cloak(self, steps: int = OUTER, start: Tensor | None = None, **options: float) -> Tensor:
        delta = torch.nn.Parameter((self.start if start is None else start).clone())
        opt = optc.loads(RULE)([delta], **options)
        opt.bind(objective=lambda b: -self.moved(b, delta))
        for _ in range(steps):
            opt.step(batch=self.train)
            assert float(delta.detach().abs().max()) <= EPS
        return delta.detach()


def test_one_round_on_the_whole_batch_is_iterated_fgsm() -> None:
    toy = Toy(0)
    expected = toy.start.clone()
    for _ in range(OUTER):
        expected.requires_grad_()
        (g,) = torch.autograd.grad(toy.moved(toy.train, expected), expected)
        expected = (expected.detach() + ALPHA * g.sign()).clamp(-EPS, EPS)
    torch.testing.assert_close(toy.cloak(rounds=1, share=1.0), expected, rtol=0, atol=1e-12)


def test_from_the_clean_embedding_nothing_moves() -> None:
    assert float(Toy(0).cloak(steps=2, start=torch.zeros(10).double()).abs().max()) == 0


def test_accumulation_is_not_worse_than_one_small_batch() -> None:
    gains = []
    for seed in range(5):
        toy = Toy(seed)
        many, one = toy.cloak(), toy.cloak(rounds=1)
        gains.append(float(toy.moved(toy.test, many) - toy.moved(toy.test, one)))
    assert sum(gains) / len(gains) > 0, gains
