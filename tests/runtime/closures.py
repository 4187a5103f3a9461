"""A closure as loops write it, and what is asked of it."""

from __future__ import annotations

import torch
from torch.nn.functional import cross_entropy

from optc.runtime.loop import Question

from .network import HELD


def data(n=16):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, 4, generator=generator, dtype=torch.float64)
    return x, torch.randint(0, 3, (n,), generator=generator)


def ordinary(model, set_to_none=True):
    x, y = data()

    def closure():
        model.zero_grad(set_to_none=set_to_none)
        loss = cross_entropy(model(x), y)
        loss.backward()
        return loss

    return closure


def ask(loop, points=HELD, name="loss"):
    value, gradients = loop.evaluate(Question(name, points, None, value=True, gradients=("w",)))
    return value, gradients["w"]


def copies(tensors):
    return [None if t is None else t.clone() for t in tensors]


def same(a, b):
    return all((x is None and y is None) or torch.equal(x, y) for x, y in zip(a, b, strict=True))


def everything(model):
    return [
        *(p.detach().clone() for p in model.parameters()),
        *(b.clone() for b in model.buffers()),
        torch.get_rng_state(),
    ]
