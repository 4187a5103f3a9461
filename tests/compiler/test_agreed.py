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


def test_a_flat_value_with_an_option_goes_back_to_its_tensors() -> None:
    """It is one of the model: the groups agree on the option, and each tensor gets its part."""
    rule = optc.loads("rule r(lr = 0.1):\n    w <- w - back(lr * flat(grad(w)))\n")
    params = [torch.nn.Parameter(torch.ones(s)) for s in ((2, 3), (4,))]
    opt = rule([{"params": params[:1]}, {"params": params[1:]}])
    for p in params:
        p.grad = torch.ones_like(p)
    opt.step()
    assert all(torch.allclose(p, torch.full_like(p, 0.9)) for p in params)
    opt.param_groups[1]["lr"] = 0.5
    with pytest.raises(ValueError, match="the groups must agree on 'lr'"):
        opt.step()
