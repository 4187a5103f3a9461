"""Denoisers of disjoint halves: what they make of the same noise, and what their Jacobians say.

Digits of 8 x 8 pixels, a network of three layers with biases, 700 steps of Adam: the paper has
faces of 80 x 80 and a convolutional one without biases, but says the same.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import optc

EXAMPLE = Path(__file__).parents[2] / "examples" / "two_denoisers_test.opt"
SAMPLES, STEPS, TRAINING = 64, 400, 700


def halves() -> tuple[Tensor, Tensor]:
    """Two disjoint halves of the digits, centred, with a deviation of a quarter."""
    datasets = pytest.importorskip("sklearn.datasets", reason="the digits come with scikit-learn")
    x = torch.tensor(np.asarray(datasets.load_digits().data), dtype=torch.float32)
    x = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))]
    x = x - x.mean(0)
    a, b = (0.25 * x / x.std()).chunk(2)
    return a, b


def residual(images: Tensor, seed: int) -> nn.Module:
    """A network that was trained to tell the noise in images, blind to its level (0 to 1)."""
    make = torch.Generator().manual_seed(seed)
    layers = nn.Linear(64, 128), nn.Linear(128, 128), nn.Linear(128, 64)
    for layer, scale in zip(layers, (1.0, 1.0, 0.1), strict=True):
        drawn = torch.randn(layer.weight.shape, generator=make)
        layer.weight.data = scale * (2 / layer.in_features) ** 0.5 * drawn
        layer.bias.data.zero_()
    net = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])
    opt = torch.optim.Adam(net.parameters())
    rate = torch.optim.lr_scheduler.OneCycleLR(opt, 1e-2, total_steps=TRAINING)
    for _ in range(TRAINING):
        x = images[torch.randint(len(images), (256,), generator=make)]
        z = torch.rand(256, 1, generator=make) ** 2 * torch.randn(256, 64, generator=make)
        opt.zero_grad()
        ((net(x + z) - z) ** 2).mean().backward()
        opt.step()
        rate.step()
    return net


def compared(first: nn.Module, second: nn.Module, images: Tensor) -> tuple[float, float]:
    """How alike the samples of two denoisers are, and how near to images of the first."""
    w = nn.Parameter(torch.randn(SAMPLES, 64, generator=torch.Generator().manual_seed(5)))
    opt = optc.load(EXAMPLE)([w], beta=0.5, sigma_end=0.02)
    opt.bind(first=lambda x: [first(x[0])], second=lambda x: [second(x[0])])
    opt.supply(images=images)
    for _ in range(STEPS):
        opt.step()
    return float(opt.metrics["alike"]), float(opt.metrics["copied"])


def trained(n: int) -> tuple[nn.Module, nn.Module, Tensor]:
    a, b = (half[:n] for half in halves())
    return residual(a, 1), residual(b, 2), a


def test_with_few_images_denoisers_copy_and_with_many_they_agree() -> None:
    few, many = (compared(*trained(n)) for n in (10, 850))
    assert few[0] < 0.2 and few[1] > 0.7
    assert many[0] > 0.75 and many[1] < 0.65


def test_a_denoiser_agrees_with_itself() -> None:
    shrinking = nn.Linear(64, 64, bias=False)
    shrinking.weight.data = torch.diag(torch.linspace(0.1, 0.9, 64))
    alike, _ = compared(shrinking, shrinking, torch.ones(1, 64))
    assert alike == pytest.approx(1, abs=1e-6)


JACOBIAN = """rule tried():
    input A: model[hidden, all], B: model[all, hidden]
    f = p -> back(B @ max(A @ flat(p), 0))
    monitor denoiser_jacobian_basis(w; f = f, sigma = 0.5) as found
    step 0
    metric value = flat(f(w))
    metric thrice = flat(f(3 * w))
    metric rebuilt = found.basis @ (found.shrinkage * (transpose(found.basis) @ flat(w)))
    metric asymmetry = found.asymmetry
    metric risk = found.risk
"""


@pytest.mark.parametrize("tied", [True, False])
def test_a_network_without_biases_is_its_jacobian(tied: bool) -> None:
    make = torch.Generator().manual_seed(0)
    A = torch.randn(9, 5, generator=make, dtype=torch.float64) / 3
    B = A.T.contiguous() if tied else torch.randn(5, 9, generator=make, dtype=torch.float64) / 3
    y = torch.randn(5, generator=make, dtype=torch.float64)
    w = nn.Parameter(y.clone())
    w.grad = torch.zeros_like(w)
    opt = optc.loads(JACOBIAN)([w])
    opt.supply(A=A, B=B)
    opt.step()
    found: dict[str, Any] = dict(opt.metrics)
    J = torch.autograd.functional.jacobian(lambda p: B @ (A @ p).relu(), y)
    value = B @ (A @ y).relu()
    assert (found["value"] - J @ y).abs().max() < 1e-14
    assert (found["thrice"] - 3 * value).abs().max() < 1e-14
    assert float(found["found"]) == pytest.approx(float(J.trace()), abs=1e-12)
    risk = float((y - value).square().sum() + 0.25 * (2 * J.trace() - 5))
    assert float(found["risk"]) == pytest.approx(risk, abs=1e-12)
    asymmetry = float((J - J.T).norm() / (J + J.T).norm())
    assert float(found["asymmetry"]) == pytest.approx(asymmetry, abs=1e-12)
    assert ((found["rebuilt"] - value).abs().max() < 1e-12) == tied
