"""Random numbers: floats have C's bits, doubles those of torch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from optc.runtime import random, triton
from optc.runtime.optimizer import optimizer_class

from ..compare import compiled

DRAWN = """
rule drawn(lr = 1.0):
    state a = zeros(w), b = zeros(w), c = zeros(w)
    a <- normal(w) + 0.5 * a
    b <- uniform(w) + 0.5 * b
    c <- rademacher(w) + 0.5 * c
    w <- w - lr * (grad(w) + a + b + c)
"""


def drawn(backend: str, dtype: torch.dtype, seed: int) -> list[dict[str, Tensor]]:
    params = [torch.nn.Parameter(torch.ones(n, dtype=dtype)) for n in (37, 5)]
    for p in params:
        p.grad = torch.zeros_like(p)
    opt = optimizer_class(compiled(DRAWN))(params, backend=backend, seed=seed)
    opt.step()
    opt.step()
    return [{k: opt.state[p][k] for k in ("a", "b", "c")} for p in params]


@pytest.mark.parametrize("seed", [0, 2**64 - 3])
def test_random_numbers_have_the_bits_of_c(seed: int) -> None:
    for ours, theirs in zip(
        drawn("triton", torch.float32, seed), drawn("c", torch.float32, seed), strict=True
    ):
        for name, value in ours.items():
            assert torch.equal(value, theirs[name]), name
            assert value.unique().numel() > 1


def test_random_doubles_are_those_of_torch() -> None:
    for ours, theirs in zip(
        drawn("triton", torch.float64, 5), drawn("eager", torch.float64, 5), strict=True
    ):
        for name, value in ours.items():
            torch.testing.assert_close(value, theirs[name], rtol=1e-12, atol=1e-12)


def test_cells_beyond_32_bits_draw_other_numbers() -> None:
    kernel = triton.build(
        "@triton.jit\n"
        "def phase(out, key, cell):\n"
        "    k = tl.load(key).to(tl.uint64, bitcast=True)\n"
        "    i = tl.arange(0, 8)\n"
        "    tl.store(out + i, optc_uniform(k, tl.load(cell) + i, tl.load(cell), tl.float64))\n",
        "uniform",
    )
    key, cell = random.key(9, 4), 2**33 + 5
    out = torch.zeros(8, dtype=torch.float64)
    kernel[(1,)](out, torch.tensor([triton.signed(key)]), torch.tensor([cell]))
    assert torch.equal(out, random.uniform(9, 4, cell, 8, cell))
