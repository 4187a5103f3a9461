"""The bound objective of a network, and its batches."""

from __future__ import annotations

import torch
from torch.nn.functional import cross_entropy

from optc.runtime.objective import Objective

from .network import params


def batch(n=12):
    return torch.randn(n, 4, dtype=torch.float64), torch.randint(0, 3, (n,))


def bound(model, **more):
    return Objective(params(model), model, lambda b: cross_entropy(model(b[0]), b[1]), **more)
