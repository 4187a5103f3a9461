"""The inductor printer: the same numbers, and no new version for new options or shapes."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch._dynamo.utils import counters

from optc.runtime.optimizer import optimizer_class

from .compare import compiled
from .rules import CLIPPED

pytestmark = pytest.mark.skipif(
    not (shutil.which("g++") or shutil.which("clang++")), reason="inductor needs a C++ compiler"
)


def test_it_gives_the_same_and_is_compiled_once() -> None:
    shapes = [(20, 3), (7,), (), (0, 3), (2, 3, 4)]
    program = compiled(CLIPPED)
    first, second = ([torch.nn.Parameter(torch.ones(s)) for s in shapes] for _ in range(2))
    opt = optimizer_class(program)(first, backend="inductor")
    plain = optimizer_class(program)(second, backend="eager")
    made = []
    for step in range(6):
        for group in (*opt.param_groups, *plain.param_groups):
            group["lr"] = (0.1, 0.0, 1.0, 0.3)[step % 4]
        for params in (first, second):
            for p in params:
                p.grad = torch.sin(p.detach() * (step + 1))
        opt.step()
        plain.step()
        made.append(counters["stats"]["unique_graphs"])
    assert made[0] == made[-1] > 0
    for p, q in zip(first, second, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-7)
