"""A graph network learns -u'' = f on meshes of [0, 1]: from one mesh, and from many.

The data and the scale are ours: 400 meshes of 14 to 27 nodes with one bump of a source each, four
layers of Chebyshev polynomials, 600 steps. The truth is the solution by linear finite elements.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

import optc

EXAMPLE = Path(__file__).parents[2] / "examples" / "fem_generalisation_example.opt"
PLACES, TERMS, LAYERS, HIDDEN = 32, 8, 4, 24
LAYER = """rule tried():
    input X: model[nodes, features], A: model[nodes, nodes']
    input W: model[orders, features, hidden]
    metric found = cheb_graph_conv(X, A, W; orders = 8)
    step 0
"""
Problems = tuple[Tensor, Tensor, Tensor, Tensor]
"""Of each mesh: what its nodes know, its weights, the solution, which nodes are inside."""


def banded(middle: Tensor, beside: Tensor) -> Tensor:
    return torch.diag(middle) + torch.diag(beside, 1) + torch.diag(beside, -1)


def around(edges: Tensor) -> Tensor:
    """The sum over the edges of each node."""
    return pad(edges, (1, 0)) + pad(edges, (0, 1))


def solved(x: Tensor, f: Tensor) -> Tensor:
    """By linear elements, 0 at both ends."""
    h = x.diff()
    stiff, mass = banded(around(1 / h), -1 / h), banded(around(h) / 3, h / 6)
    u = torch.linalg.solve(stiff[1:-1, 1:-1], (mass @ f)[1:-1])
    return pad(u, (1, 1))


def uniform(n: int) -> Tensor:
    return torch.linspace(0, 1, n, dtype=torch.float64)


def uneven(n: int, make: torch.Generator) -> Tensor:
    h = 0.1 - torch.rand(n - 1, generator=make, dtype=torch.float64).log()
    return pad(h.cumsum(0) / h.sum(), (1, 0))


def bumps(x: Tensor, n: int, make: torch.Generator) -> Tensor:
    """Gaussian bumps of either sign."""
    place, width, size, side = torch.rand(4, n, 1, generator=make, dtype=torch.float64)
    near = (x - 0.1 - 0.8 * place) / (0.05 + 0.1 * width)
    return (10 * (0.5 + size) * (side - 0.5).sign() * torch.exp(-(near**2) / 2)).sum(0)


def problems(meshes: list[Tensor], n: int, make: torch.Generator) -> Problems:
    X, A = torch.zeros(len(meshes), PLACES, 3), torch.zeros(len(meshes), PLACES, PLACES)
    u, inside = torch.zeros(2, len(meshes), PLACES)  # u ten times as large
    for k, x in enumerate(meshes):
        at, f = slice(len(x)), bumps(x, n, make)
        X[k, at, 0], X[k, at, 2] = f.float(), 1
        X[k, [0, len(x) - 1], 1] = 1
        A[k, at, at] = banded(torch.zeros(len(x)), x.diff().float())
        u[k, at], inside[k, 1 : len(x) - 1] = 10 * solved(x, f).float(), 1
    return X, A, u, inside


def convolved(X: Tensor, A: Tensor, W: Tensor) -> Tensor:
    """`cheb_graph_conv` for a batch of graphs."""
    d = A.sum(-1)
    root = torch.where(d > 0, d, 1) ** -0.5
    L = -root[..., None] * A * root[..., None, :]
    terms = [X, L @ X]
    while len(terms) < len(W):
        terms.append(2 * L @ terms[-1] - terms[-2])
    return torch.cat(terms, -1) @ W.flatten(0, 1)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(3, HIDDEN), nn.Linear(HIDDEN, 1)
        scale = (HIDDEN * TERMS) ** -0.5
        self.W = nn.Parameter(scale * torch.randn(LAYERS, TERMS, HIDDEN, HIDDEN))
        self.b = nn.Parameter(torch.zeros(LAYERS, HIDDEN))

    def forward(self, X: Tensor, A: Tensor, inside: Tensor) -> Tensor:
        """Exactly 0 at the ends, as the solutions are."""
        h = torch.tanh(self.enter(X))
        for W, b in zip(self.W, self.b, strict=True):
            h = h + torch.relu(convolved(h, A, W) + b)
        return inside * self.leave(h)[..., 0]


def errors(train: Problems, families: list[Problems], make: torch.Generator) -> list[float]:
    """Relative squared errors on each family after training."""
    torch.manual_seed(0)
    net = Net()

    def fit() -> Tensor:
        pick = torch.randint(len(train[0]), (16,), generator=make)
        X, A, u, inside = (part[pick] for part in train)
        return ((net(X, A, inside) - u) ** 2).sum() / inside.sum()

    def missed() -> Tensor:
        return torch.stack(
            [((net(X, A, inside) - u) ** 2).sum() / (u**2).sum() for X, A, u, inside in families]
        )

    opt = optc.load(EXAMPLE)(net.parameters(), often=600)
    opt.bind(model=net, objective={"train": fit, "error": missed})
    for _ in range(601):
        opt.step()
    found: Any = opt.metrics["errors"]
    return [float(e) for e in found]


def test_many_meshes_generalize_where_one_does_not() -> None:
    make = torch.Generator().manual_seed(0)
    several = torch.randint(14, 28, (400,), generator=make).tolist()
    one = problems([uniform(20)] * 400, 1, make)
    many = problems([uneven(n, make) for n in several], 1, make)
    families = [
        problems([uniform(20)] * 64, 1, make),
        problems([uneven(24, make) for _ in range(64)], 1, make),
        problems([uneven(32, make) for _ in range(64)], 1, make),
        problems([uneven(24, make) for _ in range(64)], 2, make),
    ]
    single, diverse = errors(one, families, make), errors(many, families, make)
    assert single[0] < 0.02 < diverse[0] < 0.1
    assert all(e > 0.2 for e in single[1:])
    for new, kept in zip(diverse[1:], single[1:], strict=True):
        assert new < 0.65 * kept
    assert diverse[1] < 0.12


def test_the_truth_is_exact_and_linear() -> None:
    x, make = uniform(9), torch.Generator().manual_seed(0)
    assert (solved(x, torch.ones_like(x)) - x * (1 - x) / 2).abs().max() < 1e-16
    x = uneven(20, make)
    f, g = bumps(x, 1, make), bumps(x, 1, make)
    assert (solved(x, f) + solved(x, g) - solved(x, f + g)).abs().max() < 1e-14


def test_the_layer_is_the_primitive() -> None:
    make = torch.Generator().manual_seed(0)
    X, A, _, _ = problems([uneven(20, make)], 1, make)
    W = torch.randn(TERMS, 3, HIDDEN, generator=make, dtype=torch.float64)
    w = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    w.grad = torch.zeros_like(w)
    opt = optc.loads(LAYER)([w])
    opt.supply(X=X[0].double(), A=A[0].double(), W=W)
    opt.step()
    found: Any = opt.metrics["found"]
    assert (found - convolved(X.double(), A.double(), W)[0]).abs().max() < 1e-12
