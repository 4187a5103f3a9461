"""Matrix phases run the tensors of one shape at once, with the results of one at a time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import optc
from optc.runtime import batching, computing

EXPRESSIONS = {
    "polar": "polar(m)",
    "sqrtm": "sqrtm(m @ transpose(m)) @ m",
    "qr": "m @ qr(transpose(m) @ m)[1]",
    "eigh": "m @ eigh(transpose(m) @ m)[1]",
    "inverse": "inverse(m @ transpose(m) + eye(rows)) @ m",
    "cholesky": "cholesky(m @ transpose(m) + eye(rows)) @ m",
    "solve": "solve(m @ transpose(m) + eye(rows), m)",
    "upper": "upper(m)",
    "triangle": "solve(upper(m @ transpose(m) + eye(rows)), m)",
    "triangle_transposed": "solve(transpose(upper(m @ transpose(m) + eye(rows))), m)",
    "axis": "m * sum(m, over = cols) - max(m, over = rows)",
    "order": "sort(m, over = cols) + flip(cumsum(m, over = rows), over = cols)",
    "first": "first(m, lead(2), over = rows)[1, :] * first(m, lead(7), over = cols)[:, 2] * m",
    "index": "m * argmax(m, over = cols) + m[1, :] + m[:, 0]",
    "trace": "m * trace(m @ transpose(m))",
    "select": "where(any(m > 0.5, over = rows), m, m // norm(m, over = (rows, cols)))",
    "number": "m * t + rows / cols",
    "quantile": "m * quantile(m, 0.3, over = cols)",
    "top": "matrix(top(g, over = tensor, fraction = 0.3))",
    "lstsq": "m * lstsq(m, sum(m, over = cols))",
}
SHAPES = [(3, 4)] * 3 + [(4, 3)] * 2 + [(3, 2, 2)] * 2 + [(3, 4), (5, 5), (3, 4)]


def rule(expression: str) -> str:
    return (
        "precondition p(g):\n    m = matrix(g)\n"
        f"    return back({expression})\n"
        "rule r(lr = 0.1, scale = 1.0):\n    precondition p()\n    step lr * scale\n"
    )


def parameters(dtype: torch.dtype) -> list[torch.nn.Parameter]:
    make = torch.Generator().manual_seed(0)
    return [
        torch.nn.Parameter(torch.randn(*s, generator=make, dtype=torch.float64).to(dtype))
        for s in SHAPES
    ]


def ended(text: str, limit: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The parameters after two steps; one has no gradient, and the groups differ in an option."""
    monkeypatch.setitem(batching.LARGEST, "cpu", limit)
    params, make = parameters(dtype), torch.Generator().manual_seed(1)
    opt = optc.loads(text)([{"params": params[:2], "scale": 0.5}, {"params": params[2:]}])
    for step in range(2):
        for p in params:
            p.grad = torch.randn(*p.shape, generator=make, dtype=torch.float64).to(dtype)
        params[step + 1].grad = None
        opt.step()
    return [p.detach() for p in params]


@pytest.mark.parametrize("name", EXPRESSIONS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_stack_gives_what_each_tensor_gives(
    name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    stacks: list[int] = []
    plain = computing.together

    def seen(phase: Any, forward: Any, given: Any, count: int) -> Any:
        stacks.append(count)
        return plain(phase, forward, given, count)

    monkeypatch.setattr(computing, "together", seen)
    text = rule(EXPRESSIONS[name])
    alone = ended(text, 0, dtype, monkeypatch)
    assert set(stacks) == {1}
    batched = ended(text, 1 << 14, dtype, monkeypatch)
    assert (max(stacks) > 1) == (name not in ("quantile", "top", "lstsq"))
    bound = 1e-12 if dtype == torch.float64 else 2e-2
    for a, b in zip(alone, batched, strict=True):
        torch.testing.assert_close(a, b, rtol=bound, atol=bound)


class Calls(TorchDispatchMode):
    """How many operations torch was asked for."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_calls_do_not_grow_with_the_number_of_tensors(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "rule r(lr = 0.1):\n    precondition orthogonalize()\n    step lr\n"
    plain = computing.tensorwise

    def calls(n: int) -> int:
        counter = Calls()

        def counted(phase: Any, *rest: Any) -> None:
            if phase.mode != "torch":
                return plain(phase, *rest)
            with counter:
                plain(phase, *rest)

        monkeypatch.setattr(computing, "tensorwise", counted)
        params = [torch.nn.Parameter(torch.randn(6, 4).to(dtype)) for _ in range(n)]
        for p in params:
            p.grad = torch.randn_like(p)
        optc.loads(text)(params).step()
        return counter.count

    assert 0 < calls(3) == calls(40)


def test_states_that_begin_alike_are_not_one() -> None:
    text = (
        "precondition p(g):\n    state P: tensor[rows, rows'] = eye(rows)\n    m = matrix(g)\n"
        "    P <- P + m @ transpose(m)\n    return back(P @ m)\n"
        "rule r(lr = 0.1):\n    precondition p()\n    step lr\n"
    )
    params = [torch.nn.Parameter(torch.randn(3, 2)) for _ in range(2)]
    for p in params:
        p.grad = torch.randn_like(p)
    opt = optc.loads(text)(params)
    opt.step()
    for p in params:
        state = next(v for v in opt.state[p].values() if v.shape == (3, 3))
        torch.testing.assert_close(state, torch.eye(3) + p.grad @ p.grad.mT)


def test_a_stack_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(batching.STACK, "cpu", 48)
    text = rule(EXPRESSIONS["polar"])
    bounded = ended(text, 1 << 14, torch.float64, monkeypatch)
    for a, b in zip(bounded, ended(text, 0, torch.float64, monkeypatch), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
