"""A directed graph is recovered from data, with one weight of the penalty."""

from __future__ import annotations

import numpy as np
import torch

import optc

RULE = """
rule colide(lr = 3e-3):
    input C: model[rows, rows']
    loss = p -> 0 * sum(p, over = model)
    mu = central_path(stages = 4, warm = 1800, checkpoint = 1000000)
    d = zeros(w)
    regularize concomitant_score(C = C, mu = mu)
    d = d + logdet_acyclicity(w)
    precondition adam(betas = (0.99, 0.999))
    step lr
"""


def test_a_chain_is_recovered() -> None:
    noise = np.random.default_rng(0).standard_normal((5000, 3))
    X = np.zeros_like(noise)
    X[:, 0] = noise[:, 0]
    X[:, 1] = 1.5 * X[:, 0] + noise[:, 1]
    X[:, 2] = -X[:, 1] + noise[:, 2]
    X = torch.from_numpy(X - X.mean(0))
    w = torch.nn.Parameter(torch.zeros(3, 3, dtype=torch.float64))
    opt = optc.loads(RULE)([w])
    opt.supply(C=X.T @ X / len(X))
    for _ in range(6500):
        opt.step()
    found = w.detach()
    edges = torch.tensor([[0, 1, 0], [0, 0, -1], [0, 0, 0]])
    assert torch.equal(torch.sign(found) * (found.abs() > 0.3), edges)
    assert abs(found[0, 1] - 1.5) < 0.2 and abs(found[1, 2] + 1) < 0.2
