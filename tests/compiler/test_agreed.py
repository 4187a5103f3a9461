"""A rule has one value where its groups may have several: options must agree, sums may not."""

from __future__ import annotations

import pytest
import torch

import optc
from optc.compiler.source import CompileError

HEAD = """rule r(lr = 0.1, mu: real = 2.0):
    state C: model[window(3), window'] = 0
    C <- C + 1
"""
SLOT = """rule r(lr = 0.1):
    state n: model = 0
    n <- norm(w, over = group)
    step lr * n
"""


def stepped(line: str, mu: tuple[float, float] = (2.0, 2.0)) -> list[torch.Tensor]:
    params = [torch.nn.Parameter(torch.arange(1.0, n)) for n in (3, 4)]
    groups = [{"params": [p], "mu": m} for p, m in zip(params, mu, strict=True)]
    optc.loads(HEAD + f"    w <- w - lr * {line}\n")(groups).step(
        lambda: sum(p.sum() for p in params)
    )
    return [p.detach() for p in params]


@pytest.mark.parametrize(
    "weight",
    ["trace(C @ (mu * C))", "max(mu * C, over = window)[0]", "(mu * C)[0, 0]", "(mu + C[0, 0])"],
)
def test_an_option_weighs_a_function_among_values_of_the_model(weight: str) -> None:
    function = f"grad(q -> {weight} * sum(q^2, over = model), w)"
    for a, b in zip(stepped(function), stepped(function.replace("mu", "2.0")), strict=True):
        torch.testing.assert_close(a, b)
    with pytest.raises(ValueError, match="the groups must agree on 'mu'"):
        stepped(function, (2.0, 3.0))


@pytest.mark.parametrize("value", ["norm(q, over = group)", "mu * sum(q^2, over = group)"])
def test_a_number_of_each_group_has_no_gradient_over_the_model(value: str) -> None:
    with pytest.raises(CompileError, match="a value of each group stands where one of the model"):
        stepped(f"grad(q -> {value}, w)")


def test_a_number_of_each_group_does_not_fit_a_slot_of_the_model() -> None:
    with pytest.raises(CompileError, match="E304.*\n.*\n.*\n.*reduce it `over = model`"):
        optc.loads(SLOT)
