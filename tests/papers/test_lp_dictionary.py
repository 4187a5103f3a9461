"""Complete dictionary learning: how fast the power method finds the dictionary, by the card."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import optc

RULE = "rule gpm():\n    precondition gpm_orthogonal()\n    step 1\n"
ONE = "rule gpm():\n    precondition gpm_sphere()\n    step 1\n"
CARD = {
    3: [0.69991, 0.64227, 0.56776, 0.34739, 0.0023965, 0.0017324],
    4: [0.67347, 0.56713, 0.39729, 0.045654, 0.0066364, 0.0066915],
}


def samples() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A dictionary, data with a sparse code, and a start."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((10, 2000))
    x = x * (rng.random((10, 2000)) < 0.3)
    d = np.linalg.qr(rng.standard_normal((10, 10)))[0]
    start = np.linalg.qr(np.random.default_rng(1).standard_normal((10, 10)))[0]
    return torch.tensor(d), torch.tensor(d @ x), torch.tensor(start)


@pytest.mark.parametrize("p", [3, 4])
def test_the_distance_to_the_dictionary_falls_as_the_card_says(p: int) -> None:
    d, y, start = samples()
    a = torch.nn.Parameter(start.clone())
    opt = optc.loads(RULE)([a])
    found, losses = [], []
    for _ in range(20):
        opt.zero_grad()
        loss = -((a @ y).abs() ** p).sum() / p
        loss.backward()
        losses.append(float(loss.detach()))
        opt.step()
        found.append(1 - float(((a.detach() @ d) ** 4).sum()) / 10)
    assert [found[k - 1] for k in (1, 2, 3, 5, 10, 20)] == pytest.approx(CARD[p], rel=1e-4)
    assert all(b < a + 1e-9 * abs(a) for a, b in zip(losses, losses[1:], strict=False))


def test_one_column_is_found_on_the_sphere() -> None:
    d, y, start = samples()
    q = torch.nn.Parameter(start[0].clone())
    opt = optc.loads(ONE)([q])
    for _ in range(40):
        opt.zero_grad()
        (-((q @ y).abs() ** 3).sum() / 3).backward()
        opt.step()
    assert float(q.detach().norm()) == pytest.approx(1, abs=1e-12)
    assert float((q.detach() @ d).abs().max()) > 0.99
