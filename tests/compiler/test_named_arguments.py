"""Typed inputs of functions: axes are known by name, in whatever order they come."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import optc
from optc.runtime.native import compiler

FUNCTIONS = """function squares(x: model[samples, hidden]):
    return sum(sum(x, over = samples)^2, over = hidden)

function products(x: model[samples, hidden], y: model[samples, hidden]):
    return sum(sum(x, over = samples)^2 * sum(y, over = samples), over = hidden)

function through(x: model[samples, hidden]):
    g = transpose(x) @ x
    return trace(g @ g)

function renamed(x: model[samples, features]):
    return sum(sum(x, over = samples)^2, over = features)

function turned(G: model[m, m']):
    return sum(sum(G, over = m)^2, over = m')

"""
INPUTS = "input H: model[samples, hidden], a: model[hidden], u: model[others, things]"
H = torch.tensor([[1.0, 2.0, 3.0], [4.0, -5.0, 6.0]], dtype=torch.float64)
A = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
X = H * A
SQUARES = float((X.sum(0) ** 2).sum())
CALLS = {
    "squares({})": SQUARES,
    "products({}, {})": float((X.sum(0) ** 3).sum()),
    "products({}, H)": float((X.sum(0) ** 2 * H.sum(0)).sum()),
    "through({})": float((X.T @ X @ X.T @ X).trace()),
    "renamed({})": SQUARES,
}


def supplied(text: str, backend: str) -> Any:
    opt = optc.loads(text)([torch.nn.Parameter(A.clone())], backend=backend)
    opt.supply(H=H, a=A, u=H)
    opt.step()
    return opt


@pytest.mark.parametrize("backend", ["eager", *(["c"] if compiler() else [])])
@pytest.mark.parametrize("product", ["H * a", "a * H"])
@pytest.mark.parametrize("call", CALLS)
def test_the_order_of_a_product_is_no_matter(call: str, product: str, backend: str) -> None:
    text = f"{FUNCTIONS}rule r():\n    {INPUTS}\n    metric n = {call.replace('{}', product)}\n"
    opt = supplied(f"{text}    w <- w * 0.5\n", backend)
    assert float(opt.metrics["n"]) == pytest.approx(CALLS[call], rel=1e-12)


@pytest.mark.parametrize("product", ["H * p", "p * H"])
def test_neither_is_it_to_a_derivative(product: str) -> None:
    text = f"{FUNCTIONS}rule r():\n    {INPUTS}\n    w <- w - back(grad(f, flat(w)), w)\n"
    named = "function f(p: model[hidden], H: model[samples, hidden]):\n"
    body = f"    return through({product})\n\n"
    opt = supplied(named + body + text.replace("grad(f,", "grad(p -> f(p, H),"), "eager")
    at = A.clone().requires_grad_()
    x = H * at
    (x.T @ x @ x.T @ x).trace().backward()
    assert at.grad is not None
    found = opt.param_groups[0]["params"][0].detach()
    torch.testing.assert_close(found, A - at.grad, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("call", "wanted"),
    [
        ("squares(u)", float((H.sum(0) ** 2).sum())),
        ("squares(transpose(u))", float((H.sum(1) ** 2).sum())),
        ("turned(u @ transpose(u))", float(((H @ H.T).sum(0) ** 2).sum())),
    ],
)
def test_what_has_other_names_is_taken_in_order(call: str, wanted: float) -> None:
    text = f"{FUNCTIONS}rule r():\n    {INPUTS}\n    metric n = {call}\n    w <- w * 0.5\n"
    assert float(supplied(text, "eager").metrics["n"]) == pytest.approx(wanted, rel=1e-12)
