"""What a kernel rounds to bfloat16 lies between phases in that type, and is what it was."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import optc
from optc.compiler.program import Output
from optc.runtime import batching, computing

from .compare import difference, interpreted, optimized

RULE = """rule r(lr = 0.1):
    g = grad(w)
    state v = zeros(g)
    v <- 0.9 * v + g
    x = bf16(v + g)
    {}
    w <- w - lr * d
"""
BODIES = {
    "products": "m = wide(x)\n    a = bf16(m @ transpose(m))\n    d = back(bf16(a @ m))",
    "tall too": "m = matrix(x)\n    a = bf16(transpose(m) @ m)\n    d = back(bf16(m @ a))",
    "not rounded again": "m = wide(x)\n    d = back(m @ transpose(m) @ m)",
    "a sum": "m = wide(x)\n    d = back(0.3 * m + m / 3)",
    "the cells too": "m = wide(x)\n    d = back(bf16(bf16(m @ transpose(m)) @ m)) + x / 3",
    "no gradient": "m = wide(bf16(w / 2))\n    d = back(bf16(bf16(m @ transpose(m)) @ m))",
    "a norm": "m = wide(x)\n    d = back(m // norm(m, over = (short, long)))",
    "as it is": "d = back(wide(x))",
    "two": "y = bf16(g)\n    m = wide(x) @ transpose(wide(y))\n    d = back(m @ wide(x))",
    "a turn each": "var z = x\n    repeat 2:\n        m = wide(z)\n        z <- bf16(z - 0.1 * "
    "back(m @ transpose(m) @ m))\n    d = z",
}
DTYPES = [
    [torch.float32],
    [torch.float32, torch.bfloat16],
    [torch.float64, torch.float32, torch.float32],
]
SHAPES = [(3, 4), (3, 4), (4, 3), (2, 2, 3), (3, 4), (5,), ()]


def ended(text: str, dtypes: list[torch.dtype], backend: str, absent: bool = True) -> list[Any]:
    make = torch.Generator().manual_seed(0)

    def some(k: int, shape: tuple[int, ...]) -> torch.Tensor:
        x = torch.randn(shape, generator=make, dtype=torch.float64)
        return x.to(dtypes[k % len(dtypes)])

    params = [torch.nn.Parameter(some(k, s)) for k, s in enumerate(SHAPES)]
    opt = optc.loads(text)(
        [{"params": params[:2], "lr": 0.5}, {"params": params[2:]}], backend=backend
    )
    for step in range(3):
        for k, p in enumerate(params):
            p.grad = some(k, p.shape)
        if absent:
            params[step].grad = None
        opt.step()
    return [p.detach() for p in params]


@pytest.mark.parametrize("backend", ["eager", "c"])
@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_float64_is_the_interpreter(body: str, backend: str) -> None:
    text = RULE.format(body)
    meaning = interpreted(text, 3)
    assert difference(optimized(text, 3, backend)[0], meaning.tensors()) < 1e-12


@pytest.mark.parametrize("dtypes", DTYPES, ids=str)
@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_kernels_are_torch(body: str, dtypes: list[torch.dtype], monkeypatch: Any) -> None:
    """Absent gradients, groups that differ, types that mix; stacked and one by one."""
    text = RULE.format(body)
    kernels = ended(text, dtypes, "c")
    for a, b in zip(kernels, ended(text, dtypes, "eager"), strict=True):
        bound = 1e-12 if a.dtype == torch.float64 else 2e-2
        torch.testing.assert_close(a, b, rtol=bound, atol=bound)
    monkeypatch.setitem(batching.LARGEST, "cpu", 0)
    for a, b in zip(kernels, ended(text, dtypes, "c"), strict=True):
        bound = 1e-12 if a.dtype == torch.float64 else 2e-2
        torch.testing.assert_close(a, b, rtol=bound, atol=bound)


@pytest.mark.parametrize("backend", ["eager", "c"])
def test_the_column_takes_two_bytes(backend: str, monkeypatch: Any) -> None:
    seen: dict[torch.dtype, set[torch.dtype]] = {}
    plain = computing.together

    def watch(phase: Any, forward: Any, given: Any, count: int) -> Any:
        like = next((x for x, p in zip(given, phase.inputs, strict=True) if p.how == "like"), None)
        for at, port in enumerate(phase.inputs):
            for x in given[at] if port.low else ():
                assert like is not None
                seen.setdefault(like.dtype, set()).add(x.dtype)
        return plain(phase, forward, given, count)

    monkeypatch.setattr(computing, "together", watch)
    low, wide = torch.bfloat16, torch.float64
    ended(RULE.format(BODIES["products"]), [torch.float32, low, wide], backend)
    assert seen == {torch.float32: {low}, low: {low}, wide: {wide}}


def test_what_a_slot_or_a_metric_shows_is_not_low() -> None:
    text = RULE.format(BODIES["products"] + "\n    {}")
    for shown in ("state u = zeros(g)\n    u <- x", "metric size = sum(x, over = model)"):
        values, opt = optimized(text.format(shown), 2, "c", torch.float32)
        for p in values:
            kept = opt.state[p].get("u")
            assert kept is None or kept.dtype == torch.float32
        plan = next(iter(opt._plans.values()))
        outputs = [o for phase in plan.phases for o in getattr(phase, "outputs", ())]
        assert not any(o.low and o.slot for o in outputs if isinstance(o, Output))
