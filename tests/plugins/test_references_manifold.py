"""Riemannian methods against geoopt, where it is installed."""

from __future__ import annotations

import pytest
import torch

import optc

TEXT = """
rule tried(lr = 0.05):
    precondition riemannian_amsgrad(lr = lr, correct = true, amsgrad = AMSGRAD)
    step 1
"""


@pytest.mark.parametrize("amsgrad", [True, False])
def test_riemannian_amsgrad_is_geoopt_on_the_exact_poincare_ball(amsgrad: bool) -> None:
    geoopt = pytest.importorskip("geoopt", reason="geoopt is another implementation to agree with")
    generator = torch.Generator().manual_seed(5)
    start = 0.3 * torch.randn(4, 3, generator=generator, dtype=torch.float64)
    goal = 0.3 * torch.randn(4, 3, generator=generator, dtype=torch.float64)
    ours = torch.nn.Parameter(start.clone())
    theirs = geoopt.ManifoldParameter(start.clone(), manifold=geoopt.PoincareBallExact())
    opt = optc.loads(TEXT.replace("AMSGRAD", str(amsgrad).lower()))([ours])
    reference = geoopt.optim.RiemannianAdam([theirs], lr=0.05, amsgrad=amsgrad)
    for _ in range(20):
        for p, o in ((ours, opt), (theirs, reference)):
            o.zero_grad()
            ((p - goal) ** 2).sum().backward()
            o.step()
    torch.testing.assert_close(ours.detach(), theirs.detach(), rtol=1e-8, atol=1e-10)
