"""Scores of nodes from linear bounds: the lines, the intervals, and the gradient through both."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import optc

LINES = """
rule lines(slope = 0.0):
    input l: element, u: element
    s = activation_slope(l, u, slope)
    lower = s * w
    upper = s * (w + activation_shift(l, u, slope))
    act = max(w, slope * w)
    w <- w - grad(w)
    metric outside = max(max(lower - act, act - upper), over = model)
    metric apart = max(upper - act, over = model)
"""
RULE = """
rule trained(lr = 0.1):
    input A: model[nodes, nodes'], first: model[nodes, nodes'], second: model[nodes, nodes']
    loss XW: model[nodes, hidden], W2: model[hidden, outs], b1: model[hidden], b2: model[outs]
    loss z1: model[nodes, outs], z2: model[nodes, outs], contrast
    held = (p, z, view, drop) -> (
        node_compactness(XW(p), W2(p), b1(p), b2(p), z, A, view, drop = drop, slope = 0.25)
    )
    total = p -> pot_compactness_loss(
        contrast(p),
        held(p, z2(p), first, 0.4),
        held(p, z1(p), second, 0.3),
        kappa = 0.4,
    )
    metric value = total(w)
    w <- w - lr * grad(total, w)
"""
SLOPE = 0.25


@pytest.mark.parametrize("slope", [0.0, SLOPE])
def test_the_lines_enclose_the_activation_and_touch_it(slope: float) -> None:
    torch.manual_seed(0)
    low = torch.randn(50, dtype=torch.float64)
    high = low + torch.rand(50, dtype=torch.float64)
    between = low + torch.rand(50, dtype=torch.float64) * (high - low)
    for x in (between, low, high):
        w = nn.Parameter(x.clone())
        w.grad = torch.zeros_like(w)
        opt = optc.loads(LINES)([w], slope=slope)
        opt.supply(l=[low], u=[high])
        opt.step()
        assert float(opt.metrics["outside"]) < 1e-12
        assert float(opt.metrics["apart"]) < 1e-12 or x is between


def propagation(A: Tensor) -> Tensor:
    looped = A + torch.eye(len(A), dtype=A.dtype)
    return looped / (looped.sum(1)[:, None] * looped.sum(1)).sqrt()


def act(x: Tensor) -> Tensor:
    return functional.leaky_relu(x, SLOPE)


def between(x: Tensor, low: Tensor, high: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The least and the most of P x + b, for each cell of P within its own interval."""
    ends = torch.stack([low[..., None] * x, high[..., None] * x])
    return ends.amin(0).sum(1) + b, ends.amax(0).sum(1) + b


def weighed(sign: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Slopes and shifts of the lines below what is weighed: lower where the sign is not negative.

    The chord of the activation, by its values at the ends.
    """
    k = (act(high) - act(low)) / (high - low)
    upper = (act(high) - k * high) / k
    return k, torch.where((sign >= 0) | (low * high > 0), 0.0, upper)


def compactness(
    layers: list[Tensor], X: Tensor, z: Tensor, A: Tensor, view: Tensor, drop: float
) -> Tensor:
    """The scores of all nodes, from the definition."""
    W1, b1, W2, b2 = layers
    n, degree, full = len(A), A.sum(1), propagation(A)
    left = degree - torch.minimum((degree - 1).clamp(min=0), (drop * degree).round()) + 1
    high = torch.where(full > 0, (left[:, None] * left) ** -0.5, 0.0)
    low = torch.diag(torch.diagonal(full))
    H = act(full @ X @ W1 + b1)
    unit = functional.normalize(z)
    away = torch.stack([unit[i] - (unit.sum(0) - unit[i]) / (n - 1) for i in range(n)])
    k2, shift2 = weighed(away, *between(H @ W2, low, high, b2))
    W2i = (k2 * away) @ W2.T
    k1, shift1 = weighed(W2i, *between(X @ W1, low, high, b1))
    own = torch.stack([x @ W1 @ v for x, v in zip(X, k1 * W2i, strict=True)])
    P = propagation(view)
    inner = P @ own + (k1 * W2i * (shift1 + b1)).sum(1)
    return P @ inner + (k2 * away * (shift2 + b2)).sum(1)


def problem() -> tuple[list[nn.Parameter], Tensor, list[Tensor]]:
    """Layers, the nodes' features, and a ring with chords: whole, and with two edges dropped."""
    torch.manual_seed(0)
    shapes = ((4, 5), (5,), (5, 3), (3,))
    layers = [nn.Parameter(0.6 * torch.randn(s, dtype=torch.float64)) for s in shapes]
    A = torch.zeros(9, 9, dtype=torch.float64)
    for i in range(9):
        for j in ((i + 1) % 9, (i + 3) % 9 if i % 2 else (i + 1) % 9):
            A[i, j] = A[j, i] = 1
    views = [A.clone(), A.clone()]
    for view, (i, j) in zip(views, ((0, 1), (4, 5)), strict=True):
        view[i, j] = view[j, i] = view[1, 2] = view[2, 1] = 0
    return layers, torch.randn(9, 4, dtype=torch.float64), [A, *views]


def test_the_loss_and_its_gradient_are_the_papers() -> None:
    """Through both views' embeddings, the bounds and the network, in the compiled rule."""
    layers, X, (A, *views) = problem()
    W1, b1, W2, b2 = layers
    rest = lambda: sum(0 * p.sum() for p in layers)  # noqa: E731

    def embedded(view: Tensor) -> Tensor:
        P = propagation(view)
        return act(P @ act(P @ X @ W1 + b1) @ W2 + b2)

    def contrast() -> Tensor:
        return (embedded(views[0]) - embedded(views[1])).square().sum()

    def loss() -> Tensor:
        z = [embedded(v) for v in views]
        scores = [
            compactness(list(layers), X, z[1 - i], A, views[i], drop)
            for i, drop in enumerate((0.4, 0.3))
        ]
        loose = sum(functional.softplus(-p).mean() for p in scores) / 2
        return 0.6 * contrast() + 0.4 * loose

    value = loss()
    wanted = torch.autograd.grad(value, layers)
    before = [p.detach().clone() for p in layers]
    opt = optc.loads(RULE)(layers, lr=1.0)
    opt.bind(
        XW=lambda: X @ W1 + rest(),
        W2=lambda: W2 + rest(),
        b1=lambda: b1 + rest(),
        b2=lambda: b2 + rest(),
        z1=lambda: embedded(views[0]),
        z2=lambda: embedded(views[1]),
        contrast=contrast,
    )
    opt.supply(A=A, first=views[0], second=views[1])
    opt.step()
    assert float(opt.metrics["value"]) == pytest.approx(float(value.detach()), rel=1e-12)
    for p, old, g in zip(layers, before, wanted, strict=True):
        torch.testing.assert_close(old - p.detach(), g)
    for _ in range(20):
        opt.step()
    assert float(opt.metrics["value"]) < float(value.detach()) - 0.01
