"""Sums of truth values are numbers of the type in which is computed, not float32."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import optc
from optc.runtime.native import compiler

from .compare import interpreted, objective, start

FOLDS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "sum(g > 0, over = tensor)": lambda x: x.sum(),
    "max(g > 0, over = tensor)": lambda x: x.max(),
    "sum(g > 0, over = row)": lambda x: x.flatten(1).sum(1) if x.dim() > 1 else x,
    "mean(g > 0, over = tensor)": lambda x: x.mean(),
}
BACKENDS = ["eager", *(["c"] if compiler() else [])]


def expected(fold: str, values: list[torch.Tensor]) -> list[torch.Tensor]:
    """One step of w - 0.1 * fold."""
    leaves = [v.clone().requires_grad_() for v in values]
    gradients = torch.autograd.grad(objective(leaves), leaves)
    found = []
    for v, g in zip(values, gradients, strict=True):
        x = FOLDS[fold]((g > 0).to(torch.float64))
        lead = x.dim() and x.shape != v.shape
        found.append(v - 0.1 * (x.reshape(-1, *(1 for _ in v.shape[1:])) if lead else x))
    return found


@pytest.mark.parametrize("fold", FOLDS)
def test_in_float64_they_are_exact(fold: str) -> None:
    text = f"rule r(lr = 0.1):\n    g = grad(w)\n    w <- w - lr * {fold}\n"
    values = [v for _, v in start()]
    wanted = expected(fold, values)
    ways = [interpreted(text, 1).tensors()]
    for backend in BACKENDS:
        params = [torch.nn.Parameter(v.clone()) for v in values]
        opt = optc.loads(text)(params, backend=backend)
        objective(params).backward()
        opt.step()
        ways.append([p.detach() for p in params])
    for way in ways:
        torch.testing.assert_close(list(way), wanted, rtol=0, atol=1e-15)


@pytest.mark.parametrize("how", ["sum", "max", "mean"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_along_an_axis_they_have_the_type_of_the_cells(how: str, dtype: torch.dtype) -> None:
    text = (
        "rule r(lr = 0.1):\n    z = normal(w, probes(3))\n"
        f"    w <- w - lr * {how}(z > 0, over = probes) + 0 * grad(w)\n"
    )
    found = []
    for kind in (torch.float64, dtype):
        p = torch.nn.Parameter(torch.zeros(64, dtype=kind))
        p.grad = torch.zeros_like(p)
        optc.loads(text)([p], backend="eager", seed=3).step()
        found.append(p.detach())
    assert found[1].dtype == dtype
    torch.testing.assert_close(found[1], found[0].to(dtype), rtol=0, atol=0)
    count = found[0] / -0.1 * (3 if how == "mean" else 1)
    torch.testing.assert_close(count, count.round(), rtol=0, atol=1e-14)
