"""Wide networks stay near their linearisation; noisy labels ask for an early stop."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

import optc

EXAMPLE = Path(__file__).parents[2] / "examples" / "early_stopped_score_matching.opt"
DRIFT = """rule lazy(lr = 0.5):
    loss main
    loss outputs: model[examples]
    input y: model[examples]
    metric drift = lazy_training_drift(w, outputs, y; lr = lr)
    loss = main
    step lr
"""


def drift(width: int) -> float:
    """Between a ReLU network and its linearisation after 200 steps of descent."""
    make = torch.Generator().manual_seed(0)
    t = torch.linspace(-1, 1, 16, dtype=torch.float64)
    x, y = torch.stack([t, torch.ones(16)], 1) / 2**0.5, torch.sin(3 * t)
    W = torch.nn.Parameter(torch.randn(width, 2, generator=make, dtype=torch.float64))
    a = 2.0 * torch.randint(2, (width,), generator=make, dtype=torch.float64) - 1
    f = lambda: torch.relu(x @ W.T) @ a / width**0.5  # noqa: E731
    opt = optc.loads(DRIFT)([W])
    opt.bind(objective={"main": lambda: ((f() - y) ** 2).mean() / 2}, outputs=f)
    opt.supply(y=y)
    for _ in range(201):
        opt.step()
    return float(opt.metrics["drift"])


def test_the_drift_falls_like_the_root_of_the_width() -> None:
    narrow, wide = drift(128), drift(4096)
    assert 0.01 < narrow < 0.15 and wide < narrow / 3


def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.exp(-((a[:, None] - b[None]) ** 2) / (2 * 0.3**2))


def test_the_error_has_its_minimum_long_before_the_end() -> None:
    rng, n = np.random.default_rng(0), 200
    x0 = rng.choice([-1.0, 1.0], n)
    xt = 0.6 * x0 + 0.8 * rng.standard_normal(n)
    grid = np.linspace(-4, 4, 401)
    density = sum(np.exp(-((grid - 0.6 * s) ** 2) / (2 * 0.64)) for s in (-1, 1))
    K, G = (torch.tensor(k / n) for k in (kernel(xt, xt), kernel(grid, xt)))
    y, target = torch.tensor(x0), torch.tensor(np.tanh(0.6 * grid / 0.64))
    weight = torch.tensor(density / density.sum())
    c = torch.nn.Parameter(torch.zeros(n, dtype=torch.float64))
    opt = optc.load(EXAMPLE)([c], lr=1 / float(torch.linalg.eigvalsh(K)[-1]))
    opt.bind(
        objective={
            "train": lambda: c @ K @ c / 2 - y @ c,
            "held": lambda: (weight * (G @ c - target) ** 2).sum(),
        }
    )
    held = []
    for _ in range(1500):
        opt.step()
        held.append(float(opt.metrics["held"]))
    best = int(np.argmin(held))
    assert 3 <= best <= 60 and held[-1] > 1.5 * held[best]
    opt.eval()
    found = float((weight * (G @ c.detach() - target) ** 2).sum())
    assert abs(found - held[best]) < 1e-12
