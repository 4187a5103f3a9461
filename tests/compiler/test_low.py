"""`bf16(x)` rounds; products of rounded values run in bfloat16, with the same meaning."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import optc
from optc.compiler import cells, scalars

STEPS = """precondition p(g):
    x = bf16(wide(g))
    a = bf16(x @ transpose(x))
    y = bf16(2 * x - 0.5 * (a @ x))
    return back(y + 0.25 * x)
rule r(lr = 1.0):
    precondition p()
    step lr
"""


def test_the_host_rounds_as_torch() -> None:
    numbers = torch.cat(
        [
            torch.randn(2000, dtype=torch.float64) * 10.0 ** torch.randint(-45, 39, (2000,)),
            torch.tensor(
                [0.0, -0.0, 1e300, -1e300, float("inf"), float("nan"), 1.00390625]
            ).double(),
        ]
    )
    ours = torch.tensor([scalars.bf16(x) for x in numbers.tolist()], dtype=torch.float64)
    assert torch.equal(
        ours.nan_to_num(7.0, 8.0, 9.0), cells.bf16(numbers).nan_to_num(7.0, 8.0, 9.0)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("backend", ["eager", "c"])
def test_cells_are_rounded(dtype: torch.dtype, backend: str) -> None:
    p = torch.nn.Parameter(torch.zeros(300, dtype=dtype))
    p.grad = torch.randn(300, generator=torch.Generator().manual_seed(0)).to(dtype)
    optc.loads("rule r(lr = 1.0):\n    w <- w - lr * bf16(grad(w))\n")([p], backend=backend).step()
    assert torch.equal(p, -p.grad.bfloat16().to(dtype))


def stepped(dtype: torch.dtype, shape: tuple[int, int], count: int) -> tuple[list[Any], Any]:
    make = torch.Generator().manual_seed(0)
    params = [torch.nn.Parameter(torch.zeros(*shape, dtype=dtype)) for _ in range(count)]
    for p in params:
        p.grad = torch.randn(*shape, generator=make, dtype=torch.float64).to(dtype)
    opt = optc.loads(STEPS)(params)
    opt.step()
    return params, opt


@pytest.mark.parametrize("shape", [(4, 9), (9, 4)])
@pytest.mark.parametrize("count", [1, 3])
def test_products_in_bfloat16_mean_the_same(shape: tuple[int, int], count: int) -> None:
    """Float64 rounds and stays; float32 multiplies in bfloat16: apart by a rounding or two."""
    for p, q in zip(
        stepped(torch.float64, shape, count)[0],
        stepped(torch.float32, shape, count)[0],
        strict=True,
    ):
        x = p.grad.bfloat16().double()
        x = x if shape[0] < shape[1] else x.mT
        a = (x @ x.mT).bfloat16().double()
        y = (2 * x - 0.5 * (a @ x)).bfloat16().double()
        want = -(y + 0.25 * x)
        torch.testing.assert_close(p, want if shape[0] < shape[1] else want.mT, rtol=0, atol=1e-12)
        assert (p - q).norm() < 0.01 * p.norm()


def test_what_leaves_the_products_is_float32_again() -> None:
    """The sum with `0.25 * x` would lose its low bits in bfloat16."""
    (p,), opt = stepped(torch.float32, (4, 9), 1)
    assert not torch.equal(p, p.bfloat16().float())
    code = "".join(
        phase.module.code
        for phase in next(iter(opt._plans.values())).phases
        if hasattr(phase, "mode")
    )
    assert "cells_low" in code and "cells_high" in code and "add_product" in code


def test_a_norm_is_rounded_as_it_is_summed_where_it_is_only_rounded() -> None:
    body = "m = wide(bf16(g))\n    n = norm(m, over = (short, long))\n    return back(bf16(m / {}))"
    found = {
        "bf16(n)": True,
        "bf16(max(n, 1e-7))": True,
        "bf16(min(max(n, 1e-7), 3))": True,
        "bf16(n + 1e-7)": False,
        "bf16(max(n, n * n))": False,
    }
    for divisor, low in found.items():
        text = f"precondition p(g):\n    {body.format(divisor)}\n"
        program = optc.loads(text + "rule r(lr = 1.0):\n    precondition p()\n    step lr\n")
        ends = []
        for dtype in (torch.float32, torch.float64):
            p = torch.nn.Parameter(torch.zeros(9, 4, dtype=dtype))
            p.grad = torch.randn(9, 4, generator=torch.Generator().manual_seed(0)).to(dtype)
            opt = program([p])
            opt.step()
            ends.append(p.detach().double())
        assert torch.equal(*ends)
        plan = next(iter(opt._plans.values()))
        code = "".join(x.module.code for x in plan.phases if hasattr(x, "mode"))
        assert ("low_norm" in code) == low


def test_torch_rounds_a_norm_once() -> None:
    x = torch.randn(2000, 7, 20, generator=torch.Generator().manual_seed(0)).bfloat16()
    for y in (x, x.mT, x[:, ::2]):
        exact = torch.linalg.vector_norm(y.double(), dim=(1, 2)).bfloat16()
        low = torch.func.vmap(lambda z: cells.low_norm(z, (0, 1)))(y)
        assert low.dtype == torch.bfloat16 and (low == exact).double().mean() > 0.99
