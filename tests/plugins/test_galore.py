"""GaLore against its algorithm in plain torch: project, Adam, scale, back."""

from __future__ import annotations

import pytest
import torch

import optc

RULE = """rule r(lr = 0.1, r: count = 2):
    project galore(r = r, interval = 3)
    step lr
"""
SHAPES = [(4, 6), (6, 4), (3, 3), (2, 3, 4)]


def plain(w: torch.Tensor, gradients: list[torch.Tensor], r: int) -> torch.Tensor:
    """Algorithm 2 of the paper, on the shorter side, with T = 3, alpha = 0.25 and lr = 0.1."""
    w = w.clone()
    for t, g in enumerate(gradients):
        matrix = g.reshape(len(g), -1)
        tall = matrix.shape[0] > matrix.shape[1]
        matrix = matrix.T if tall else matrix
        if t % 3 == 0:
            p = torch.linalg.svd(matrix, full_matrices=False).U[:, :r]
        low = p.T @ matrix
        if t == 0:
            m, v = torch.zeros_like(low), torch.zeros_like(low)
        m, v = 0.9 * m + 0.1 * low, 0.999 * v + 0.001 * low**2
        step = m / (1 - 0.9 ** (t + 1)) / ((v / (1 - 0.999 ** (t + 1))).sqrt() + 1e-8)
        full = 0.25 * p @ step
        w -= 0.1 * (full.T if tall else full).reshape(w.shape)
    return w


@pytest.mark.parametrize("r", [1, 2, 3, 7])
@pytest.mark.parametrize("backend", ["eager", "c"])
def test_galore_is_its_algorithm(r: int, backend: str) -> None:
    make = torch.Generator().manual_seed(0)
    start = [torch.randn(*s, generator=make, dtype=torch.float64) for s in SHAPES]
    given = [
        [torch.randn(*s, generator=make, dtype=torch.float64) for s in SHAPES] for _ in range(7)
    ]
    params = [torch.nn.Parameter(x.clone()) for x in start]
    opt = optc.loads(RULE)(params, r=r, backend=backend)
    for gradients in given:
        for p, g in zip(params, gradients, strict=True):
            p.grad = g.clone()
        opt.step()
    for k, (p, w) in enumerate(zip(params, start, strict=True)):
        wanted = plain(w, [gradients[k] for gradients in given], r)
        torch.testing.assert_close(p.detach(), wanted, rtol=1e-9, atol=1e-9)


def test_its_state_is_small() -> None:
    p = torch.nn.Parameter(torch.zeros(40, 300))
    p.grad = torch.randn_like(p)
    opt = optc.loads(RULE)([p])
    opt.step()
    shapes = {k: tuple(v.shape) for k, v in opt.state[p].items()}
    assert shapes.pop("step") == ()
    assert sorted(shapes.values()) == [(2, 300), (2, 300), (40, 2)]
