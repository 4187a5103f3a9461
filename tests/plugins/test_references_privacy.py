"""Private gradients against Opacus, and against the paper's lines in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import optc

RULE = """
rule private(
    lr = 0.5,
    max_norm: positive = 1.0,
    noise_multiplier: nonnegative = 1.0,
    lot: nonnegative = 0,
):
    batch = each(batch)
    combine dp_mean(max_norm, noise_multiplier, lot)
    step lr
"""


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)).double()


def data() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = 3 * torch.randn(12, 5, generator=generator, dtype=torch.float64)
    return x, torch.randint(0, 3, (12,), generator=generator)


def bound(model: nn.Module, **options: Any) -> Any:
    opt = optc.loads(RULE, private=True)(model.named_parameters(), **options)
    return opt.bind(model=model, objective=lambda b: cross_entropy(model(b[0]), b[1]))


@pytest.mark.parametrize("lot", [0, 12])
def test_an_empty_lot_gives_noise_alone(lot: int) -> None:
    """As Poisson sampling draws it now and then; to be told by its size alone would be a leak."""
    moved = []
    for examples in (0, 1):
        model = network()
        before = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
        x, y = data()
        opt = bound(model, lr=1.0, max_norm=1e-9, noise_multiplier=2e9, lot=lot)
        opt.step(batch=(x[:examples], y[:examples]))
        after = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
        moved.append(after - before)
    assert float((moved[0] - moved[1]).abs().max()) <= 1e-9
    assert 0.7 < moved[0].std() * max(1, lot) / 2 < 1.3


def test_opacus_clips_the_same() -> None:
    opacus = pytest.importorskip("opacus", reason="opacus is not installed")
    x, y = data()
    reference = network()
    wrapped = opacus.GradSampleModule(reference)
    theirs = opacus.optimizers.DPOptimizer(
        torch.optim.SGD(wrapped.parameters(), lr=0.5),
        noise_multiplier=0.0,
        max_grad_norm=0.7,
        expected_batch_size=len(x),
    )
    model = network()
    ours = bound(model, max_norm=0.7, noise_multiplier=0.0)
    for _ in range(5):
        theirs.zero_grad()
        cross_entropy(wrapped(x), y).backward()
        theirs.step()
        ours.step(batch=(x, y))
    # Opacus adds 1e-6 to each norm, the paper nothing
    torch.testing.assert_close(
        [*model.parameters()], [*reference.parameters()], rtol=1e-5, atol=1e-6
    )


def test_the_papers_lines_in_numpy() -> None:
    x, y = data()
    model, twin = network(), network()
    opt = bound(model, max_norm=0.3, noise_multiplier=0.0)
    for _ in range(3):
        opt.step(batch=(x, y))
        flat = []
        for a, b in zip(x, y, strict=True):
            twin.zero_grad()
            cross_entropy(twin(a[None]), b[None]).backward()
            flat.append(np.concatenate([p.grad.numpy().ravel() for p in twin.parameters()]))
        g = np.stack(flat)
        clipped = g / np.maximum(1, np.linalg.norm(g, axis=1, keepdims=True) / 0.3)
        move, start = 0.5 * clipped.sum(0) / len(g), 0
        with torch.no_grad():
            for p in twin.parameters():
                p -= torch.from_numpy(move[start : start + p.numel()]).view_as(p)
                start += p.numel()
    torch.testing.assert_close([*model.parameters()], [*twin.parameters()], rtol=1e-10, atol=1e-12)


def test_the_noise_has_the_deviation_that_is_promised() -> None:
    x = torch.zeros(4, 1000, dtype=torch.float64)
    model = nn.Linear(1000, 20, bias=False).double()
    with torch.no_grad():
        model.weight.zero_()
    opt = optc.loads(RULE)(model.named_parameters(), lr=1.0, max_norm=0.5, noise_multiplier=2.0)
    opt.bind(model=model, objective=lambda b: model(b).sum())
    opt.step(batch=x)
    first = model.weight.detach().clone()
    # 20 000 draws: the deviation of their deviation is 1 / 200
    assert abs(first.std().item() / (2.0 * 0.5 / 4) - 1) < 0.025
    assert abs(first.mean().item()) < 0.25 / 20_000**0.5 * 5
    opt.step(batch=x)
    second = model.weight.detach() - first
    assert abs((first * second).mean().item()) < 0.25**2 / 20_000**0.5 * 5, "new noise each step"


def test_one_example_moves_the_sum_by_no_more_than_the_bound() -> None:
    x, y = data()
    moved = []
    for n in (len(x), len(x) - 1):
        model = network()
        before = [p.detach().clone() for p in model.parameters()]
        bound(model, lr=1.0, max_norm=0.2, noise_multiplier=0.0).step(batch=(100 * x[:n], y[:n]))
        moved.append(
            [n * (b - p.detach()) for b, p in zip(before, model.parameters(), strict=True)]
        )
    gap = torch.cat([(a - b).ravel() for a, b in zip(*moved, strict=True)]).norm()
    assert 0.1 < float(gap) <= 0.2 * (1 + 1e-9)


M_NGP = """
rule normalised(lr = 0.5, sigma: nonnegative = 0.0):
    batch = each(batch)
    normalize max1_normalized_perturbation(sigma)
    step lr
"""


def test_m_ngp_clips_each_example_at_one() -> None:
    x, y = data()
    models = network(), network()
    theirs = bound(models[0], max_norm=1.0, noise_multiplier=0.0)
    ours = optc.loads(M_NGP)(models[1].named_parameters())
    ours.bind(model=models[1], objective=lambda b: cross_entropy(models[1](b[0]), b[1]))
    for _ in range(3):
        theirs.step(batch=(x, y))
        ours.step(batch=(x, y))
    torch.testing.assert_close(
        [*models[1].parameters()], [*models[0].parameters()], rtol=1e-10, atol=1e-12
    )


def test_m_ngp_is_private_and_its_noise_is_that_of_the_mean() -> None:
    x = torch.zeros(4, 1000, dtype=torch.float64)
    model = nn.Linear(1000, 20, bias=False).double()
    before = model.weight.detach().clone()
    opt = optc.loads(M_NGP, private=True)(model.named_parameters(), lr=1.0, sigma=0.3)
    opt.bind(model=model, objective=lambda b: model(b).sum()).step(batch=x)
    noise = before - model.weight.detach()
    assert abs(noise.std().item() / 0.3 - 1) < 0.025
    assert abs(noise.mean().item()) < 0.3 / 20_000**0.5 * 5
