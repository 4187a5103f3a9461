"""Operations one by one: floats have C's bits, doubles torch's values."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from optc.compiler.ops import OPS, Op
from optc.runtime.optimizer import optimizer_class

from ..compare import compiled

BITS = {torch.float32: torch.int32, torch.float64: torch.int64}
BITS |= {torch.bfloat16: torch.int16, torch.float16: torch.int16}

WITHIN = {"sin": 1, "cos": 1, "erf": 1}
"""Operations whose float32 may be a neighbour of C's; all others have the same bits."""
LOOSE = {"pow": 1e-13}
"""Relative errors in float64; all others are within 2e-15."""

NAMED_OPS = [name for name in OPS if name not in ("copy", "f16", "dither_bf16", "dither_f16")]
"""Those that a rule can write; the others come with a schedule."""


def expression(op: Op) -> str:
    """The operation on g and w, as a number."""
    if op.name in ("and", "or"):
        text = f"(g < 0) {op.name} (w < 1)"
    elif op.name == "not":
        text = "not (g < w)"
    elif op.name == "where":
        text = "where(g < w, g, w)"
    elif op.symbol:
        text = f"g {op.symbol} w" if op.arity == 2 else f"{op.symbol}g"
    else:
        text = f"{op.name}({', '.join(('g', 'w')[: op.arity])})"
    return f"where({text}, 1, 0)" if op.logical else text


def operations() -> str:
    """Each operation into a state of its own, which the next step reads: others are dropped."""
    states = ", ".join(f"s_{name} = zeros(w)" for name in NAMED_OPS)
    lines = [f"s_{name} <- {expression(OPS[name])}" for name in NAMED_OPS]
    used = " + ".join(f"s_{name}" for name in NAMED_OPS)
    body = [f"state {states}", "g = grad(w)", f"w <- w + zero * ({used})", *lines]
    return "rule every(zero = 0.0):\n" + "".join(f"    {line}\n" for line in body)


def grid(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    special = [0.0, -0.0, 1.0, -1.0, 0.5, -2.5, 3.0, 1e-3, 1e30, -1e30]
    special += [float("inf"), -float("inf"), float("nan")]
    a, b = (x.flatten() for x in torch.meshgrid(*[torch.tensor(special)] * 2, indexing="ij"))
    generator = torch.Generator().manual_seed(2)
    many = torch.randn(2, 3000, generator=generator, dtype=torch.float64) * 3
    return torch.cat([a, many[0]]).to(dtype), torch.cat([b, many[1]]).to(dtype)


def computed(backend: str, dtype: torch.dtype) -> dict[str, Tensor]:
    first, second = grid(dtype)
    p = torch.nn.Parameter(second)
    p.grad = first
    opt = optimizer_class(compiled(operations()))([p], backend=backend)
    opt.step()
    return {name: opt.state[p][f"s_{name}"] for name in NAMED_OPS}


@pytest.fixture(scope="module")
def floats() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    return computed("triton", torch.float32), computed("c", torch.float32)


@pytest.fixture(scope="module")
def doubles() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    return computed("triton", torch.float64), computed("eager", torch.float64)


def ordered(x: Tensor) -> Tensor:
    """Neighbouring floats have neighbouring numbers."""
    bits = x.view(BITS[x.dtype]).long()
    return torch.where(bits < 0, -(bits & (2**31 - 1)), bits)


@pytest.mark.parametrize("name", NAMED_OPS)
def test_float32_operations_have_the_bits_of_c(name: str, floats: Any) -> None:
    ours, theirs = floats[0][name], floats[1][name]
    assert torch.equal(ours.isnan(), theirs.isnan())
    kept = ~theirs.isnan()
    assert int((ordered(ours) - ordered(theirs))[kept].abs().max()) <= WITHIN.get(name, 0)


@pytest.mark.parametrize("name", NAMED_OPS)
def test_float64_operations_agree_with_torch(name: str, doubles: Any) -> None:
    """Except for the sign of a NaN, which is NaN."""
    ours, theirs = doubles[0][name], doubles[1][name]
    a, b = grid(torch.float64)
    kept = ~a.isnan() if name == "sign" else torch.full_like(a, True, dtype=torch.bool)
    bound = 0 if name == "mod" else LOOSE.get(name, 2e-15)
    torch.testing.assert_close(ours[kept], theirs[kept], rtol=bound, atol=1e-300, equal_nan=True)
