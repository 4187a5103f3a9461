"""Errors that keep their size on the way back: the rule against the backward pass itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import optc

RULE = """
rule modulated(lr = 1.0, kappa = 1.0):
    input rms: model[layers], layer: tensor
    normalize backward_error_modulation(rms, layer, kappa)
    step lr
"""
CARD = [0.6762, 0.5051, 0.3740, 0.2506, 0.1070, 0.0594, 0.0323]


def size_of(error: Tensor) -> Tensor:
    return error.square().mean().sqrt()


def chain(depth: int = 6) -> list[nn.Linear]:
    """Layers that shrink what passes back."""
    torch.manual_seed(0)
    layers = [nn.Linear(16, 16, dtype=torch.float64) for _ in range(depth)]
    for layer in layers:
        nn.init.normal_(layer.weight, std=0.7 / 4)
    return layers


def errors(layers: list[nn.Linear], kappa: float | None) -> list[Tensor]:
    """Gradients are set; the sizes of the errors, from the top, are returned.

    With kappa each layer's error is rescaled on its way back, before the layer below gets it.
    """
    sizes: list[Tensor] = []

    def rescale(error: Tensor) -> Tensor:
        plain = size_of(error)
        rho = sizes[-1] / plain if kappa and sizes else torch.ones(())
        outside = kappa is not None and not 1 / kappa <= rho <= kappa
        error = rho * error if outside else error
        sizes.append(size_of(error))
        return error

    h = torch.linspace(-1, 1, 48, dtype=torch.float64).reshape(3, 16)
    for layer in layers:
        h = layer(h)
        h.register_hook(rescale)
        h = torch.tanh(h)
    nn.Sequential(*layers).zero_grad()
    (h - 0.3).pow(3).mean().backward()
    return sizes


@pytest.mark.parametrize("kappa", [1.0, 1.4])
def test_the_rule_is_the_modulated_backward_pass(kappa: float) -> None:
    """With activations in between, for weights and biases; kappa = 1.4 leaves some ratios out."""
    layers = chain()
    pairs = [p for layer in reversed(layers) for p in (layer.weight, layer.bias)]
    errors(layers, kappa)
    wanted = [p.detach() - p.grad for p in pairs]  # type: ignore[operator]
    plain = errors(layers, None)
    ratios = [float(a / b) for a, b in zip(plain, plain[1:], strict=False)]
    assert any(r > kappa for r in ratios) and (kappa == 1 or any(r < kappa for r in ratios))
    supplied: dict[str, Any] = {
        "rms": torch.stack(plain),
        "layer": [torch.tensor(float(i // 2)) for i in range(len(pairs))],
    }
    opt = optc.loads(RULE)(pairs, kappa=kappa)
    opt.supply(**supplied)
    opt.step()
    for p, right in zip(pairs, wanted, strict=True):
        torch.testing.assert_close(p.detach(), right, rtol=1e-12, atol=1e-12)


def test_the_cards_errors_have_one_size() -> None:
    """Six linear maps; the errors themselves are scaled as the gradients of their layers."""
    rng = np.random.default_rng(0)
    maps = [torch.tensor(0.7 * rng.standard_normal((16, 16)) / 4) for _ in range(6)]
    delta = [torch.tensor(rng.standard_normal(16))]
    for W in reversed(maps):
        delta.append(W.T @ delta[-1])
    plain = torch.stack([size_of(x) for x in delta])
    assert plain.tolist() == pytest.approx(CARD, abs=5e-5)
    w = [nn.Parameter(torch.zeros_like(x)) for x in delta]
    for p, x in zip(w, delta, strict=True):
        p.grad = x.clone()
    opt = optc.loads(RULE)(w)
    opt.supply(rms=plain, layer=[torch.tensor(float(i)) for i in range(7)])
    opt.step()
    assert [float(size_of(p.detach())) for p in w] == pytest.approx([float(plain[0])] * 7)
