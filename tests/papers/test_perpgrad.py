"""Gradients orthogonal to the weights: modular addition is learned at once, and norms are held."""

from __future__ import annotations

import pytest
import torch

import optc

RULE = """rule grok(lr = 0.01):
    PERP
    precondition adam((0.9, 0.99), eps = 1e-25)
    step lr
"""
LAWN = """rule lawn(lr = 0.5, free = 1):
    precondition perpgrad(rescale = false) when steps > free
    step lr
    project constrained_weight_norm(free_steps = free)
"""


STABLE = """rule stable():
    loss logits: model[examples, classes]
    input labels: model[examples]
    loss = p -> stablemax_cross_entropy(logits(p), labels)
    step 1
"""


def accuracy(perp: bool, steps: int = 300) -> tuple[float, float]:
    """Accuracies in training and test of an MLP that adds modulo 31, after some steps."""
    torch.manual_seed(0)
    n = 31
    pairs = torch.cartesian_prod(torch.arange(n), torch.arange(n))
    x = torch.cat([torch.nn.functional.one_hot(pairs[:, i], n) for i in (0, 1)], 1).float()
    y = pairs.sum(1) % n
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    train, test = order[: len(x) // 2], order[len(x) // 2 :]
    layers = [torch.nn.Linear(a, b, bias=False) for a, b in ((62, 128), (128, 128), (128, n))]
    net = torch.nn.Sequential(layers[0], torch.nn.ReLU(), layers[1], torch.nn.ReLU(), layers[2])
    line = "precondition perpgrad()" if perp else "d = grad(w)"
    opt = optc.loads(RULE.replace("PERP", line))(net.parameters())
    for _ in range(steps):
        opt.zero_grad()
        torch.nn.functional.cross_entropy(net(x[train]), y[train]).backward()
        opt.step()
    right = net(x).argmax(1) == y
    return float(right[train].float().mean()), float(right[test].float().mean())


def test_it_groks_where_plain_adam_memorizes() -> None:
    plain, perp = accuracy(False), accuracy(True)
    assert plain[0] == 1 and perp[0] == 1
    assert plain[1] < 0.05 and perp[1] > 0.7


def test_norms_are_held_after_the_free_phase() -> None:
    w = torch.nn.Parameter(torch.tensor([3.5, 5.0], dtype=torch.float64))
    opt = optc.loads(LAWN)([w])
    w.grad = torch.tensor([1.0, 2.0], dtype=torch.float64)
    opt.step()
    assert w.tolist() == [3.0, 4.0]
    w.grad = torch.tensor([1.0, 2.0], dtype=torch.float64)
    opt.step()
    assert w.tolist() == pytest.approx([3.1575, 3.8769], abs=1e-4)
    for _ in range(20):
        w.grad = torch.tensor([1.0, -2.0], dtype=torch.float64)
        opt.step()
        assert float(w.detach().norm()) == pytest.approx(5.0, abs=1e-12)


@pytest.mark.parametrize(
    ("z", "gradient"),
    [
        ([2.0, 0.0, -1.0], [-1 / 9, 2 / 9, 1 / 18]),
        ([1.0, 1.0], [-0.25, 0.25]),
        ([1e4, 0.0], [1 / 10002 - 1 / 10001, 1 / 10002]),
    ],
)
def test_no_gradient_of_stablemax_is_absorbed(z: list[float], gradient: list[float]) -> None:
    w = torch.nn.Parameter(torch.tensor([z], dtype=torch.float64))
    opt = optc.loads(STABLE)([w])
    opt.bind(logits=lambda: w)
    opt.supply(labels=torch.zeros(1, dtype=torch.float64))
    opt.step()
    moved = torch.tensor(z, dtype=torch.float64) - w.detach()[0]
    assert moved.tolist() == pytest.approx(gradient, rel=1e-3)


def test_held_norms_keep_logits_small() -> None:
    """Separable points, 10-32-1 ReLUs, Adam; from step 100 on norms are held, or not."""
    held = """rule r():
    precondition perpgrad(rescale = false) when steps > 100
    precondition adam()
    step 0.01
    project constrained_weight_norm(free_steps = 100)
"""
    sizes = {}
    for name, text in (
        ("held", held),
        ("free", "rule r():\n    precondition adam()\n    step 0.01\n"),
    ):
        make = torch.Generator().manual_seed(0)
        x = torch.randn(200, 10, generator=make, dtype=torch.float64)
        y = torch.sign(x @ torch.randn(10, generator=make, dtype=torch.float64))
        shapes = ((10, 32), (32, 1))
        A, B = (
            torch.nn.Parameter(torch.randn(s, generator=make, dtype=torch.float64) / s[0] ** 0.5)
            for s in shapes
        )
        opt = optc.loads(text)([A, B])
        norms = []
        for _ in range(500):
            opt.zero_grad()
            z = (x @ A).relu() @ B
            torch.nn.functional.softplus(-y * z[:, 0]).mean().backward()
            opt.step()
            norms.append((float(A.detach().norm()), float(B.detach().norm())))
        sizes[name] = float(z.abs().max())
        if name == "held":
            for norm in norms[100:]:
                assert norm == pytest.approx(norms[99], rel=1e-12)
        else:
            assert norms[-1][0] > 1.1 * norms[99][0]
    assert sizes["held"] < 0.85 * sizes["free"]
