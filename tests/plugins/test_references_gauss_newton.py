"""Gauss-Newton and natural-gradient steps of a tiny network against dense matrices of torch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev

import optc

EXACT = torch.float64


def network() -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).to(EXACT)
    return net, torch.randn(6, 3, dtype=EXACT), torch.randint(0, 2, (6,))


def dense_jacobian(net: nn.Module, x: Tensor) -> Tensor:
    """d outputs / d parameters: examples, classes, all parameters."""
    params = {k: p.detach() for k, p in net.named_parameters()}
    J = jacrev(lambda p: functional_call(net, p, x))(params)
    return torch.cat([J[k].flatten(2) for k in params], 2)


def moved(net: nn.Module, text: str, data: Any, **bound: Any) -> Tensor:
    """How far one step of a rule leads, over all parameters."""
    before = torch.cat([p.detach().flatten() for p in net.parameters()])
    opt = optc.loads(text)(list(net.parameters()))
    opt.bind(model=net, **bound)
    opt.step(batch=data)
    return before - torch.cat([p.detach().flatten() for p in net.parameters()])


def test_a_gauss_newton_step_is_the_dense_one() -> None:
    net, x, _ = network()
    J = dense_jacobian(net, x).flatten(0, 1)
    r = (net(x) - 1).detach().flatten()
    wanted = torch.linalg.solve(J.T @ J + 0.1 * torch.eye(J.shape[1], dtype=EXACT), J.T @ r)
    text = """
rule tried():
    loss residual: model[residuals]
    precondition gauss_newton_cg(residual, lam = 0.1, at_most = 200, rtol = 1e-13)
    step 1
"""
    found = moved(net, text, x, residual=lambda b: (net(b) - 1).flatten())
    torch.testing.assert_close(found, wanted, rtol=1e-7, atol=1e-9)


def test_a_natural_gradient_is_the_dense_one() -> None:
    net, x, y = network()
    J = dense_jacobian(net, x)
    p = net(x).softmax(1).detach()
    Q = torch.diag_embed(p) - p.unsqueeze(2) * p.unsqueeze(1)
    F = torch.einsum("nip,nij,njq->pq", J, Q, J) / len(x)
    g = torch.einsum("nip,ni->p", J, p - nn.functional.one_hot(y, 2)) / len(x)
    wanted = torch.linalg.solve(F + 0.1 * torch.eye(F.shape[0], dtype=EXACT), g)
    text = """
rule tried():
    loss train
    loss outputs: model[examples, classes]
    loss = train
    w <- w - natural_gradient(grad(w), w, outputs; lam = 0.1, at_most = 200, rtol = 1e-13)
"""

    def train(batch: tuple[Tensor, Tensor]) -> Tensor:
        return nn.functional.cross_entropy(net(batch[0]), batch[1])

    found = moved(net, text, (x, y), train=train, outputs=lambda b: net(b[0]))
    torch.testing.assert_close(found, wanted, rtol=1e-7, atol=1e-9)
