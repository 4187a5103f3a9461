"""Parameters of several shapes and types, aligned or not, and what is the same of two runs."""

from __future__ import annotations

from typing import Any

import torch

SHAPES = ((20, 3), (7,), (), (0, 3), (2, 3, 4), (16,))


def parameters(dtypes: Any, sizes: Any = SHAPES) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(4)
    return [
        torch.nn.Parameter(torch.randn(s, generator=generator).to(dtypes[k % len(dtypes)]))
        for k, s in enumerate(sizes)
    ]


def misaligned(params: list[torch.nn.Parameter]) -> list[torch.nn.Parameter]:
    """The same values, one element away from where memory was given out."""
    made = []
    for p in params:
        room = torch.empty(p.numel() + 1, dtype=p.dtype)
        made.append(torch.nn.Parameter(room[1:].view(p.shape).copy_(p.detach())))
        assert p.numel() == 0 or made[-1].data_ptr() % 16 == p.element_size()
    return made


def same_bits(ours: Any, theirs: Any) -> None:
    for p, q in zip(ours, theirs, strict=True):
        assert torch.equal(p.detach(), q.detach())


def same_optimizer(a: Any, b: Any) -> None:
    one, two = a.state_dict(), b.state_dict()
    assert one["param_groups"] == two["param_groups"]
    for x, y in zip(one["state"].values(), two["state"].values(), strict=True):
        assert all(torch.equal(x[key], y[key]) for key in x)
    same_bits(*(o.param_groups[0]["params"] for o in (a, b)))
