"""Inputs with a value for each cell: the loop supplies them anew, in any type and layout."""

from __future__ import annotations

import pytest
import torch

import optc

RULE = "rule r(lr = 1.0):\n    input x: element\n    w <- w + lr * 2 * x\n"


@pytest.mark.parametrize("backend", ["eager", "c"])
def test_they_are_read_anew_in_any_type_and_layout(backend: str) -> None:
    w = torch.nn.Parameter(torch.zeros(2, 2, dtype=torch.float64))
    opt = optc.loads(RULE)([w], backend=backend)
    w.grad = torch.zeros_like(w)
    first = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64)
    total = torch.zeros_like(first)
    for x in (first, 10 * first.float(), first.T, torch.tensor(5.0)):
        opt.supply(x=[x])
        opt.step()
        total += 2 * x
        torch.testing.assert_close(w.detach(), total)


def test_a_size_that_an_answer_brings_is_known_before_it_is_used() -> None:
    text = """rule r(lr = 1.0):
    loss outputs: model[examples]
    m = p -> mean(outputs(p)^2, over = examples)
    w <- w - lr * grad(m, w)
"""
    w = torch.nn.Parameter(torch.ones(1, dtype=torch.float64))
    opt = optc.loads(text)([w])
    opt.bind(outputs=lambda: w * torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))
    opt.step()
    assert w.item() == pytest.approx(1 - 2 * 14 / 3)


def test_the_first_value_of_a_state_may_read_them() -> None:
    text = RULE.replace("    w <-", "    state first = x\n    w <-").replace("2 * x", "(x + first)")
    w = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    opt = optc.loads(text)([w])
    w.grad = torch.zeros_like(w)
    for x in (1.0, 10.0):
        opt.supply(x=[torch.tensor([x])])
        opt.step()
    assert w.item() == 13


@pytest.mark.parametrize("backend", ["eager", "c"])
def test_their_axes_size_what_is_made_from_nothing(backend: str) -> None:
    text = """rule r():
    input x: model[points], y: model[points, classes]
    state seen: model[classes] = 0, most: model[points] = 0
    seen <- seen + sum(sum(eye(points) * x', over = points') * y, over = points)
    most <- max(most, x)
    w <- w - sum(seen, over = classes) - sum(most, over = points) * size(points)
"""
    w = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    opt = optc.loads(text)([w], backend=backend)
    w.grad = torch.zeros_like(w)
    x = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    opt.supply(x=x, y=torch.ones(3, 2, dtype=torch.float64))
    opt.step()
    assert w.item() == pytest.approx(-2 * 6 - 3 * 6)


def test_singular_values_say_how_many_they_are() -> None:
    """What is made from nothing for each of them, or for one place of a grid, has its size."""
    text = """rule r():
    input x: model[points, classes]
    U, S, V = svd(x)
    place = cumsum(0 * S + 1, over = singular)
    w <- w - sum(place * S, over = singular) - sum(grid(one, 5, 9, 1), over = one)
"""
    w = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    opt = optc.loads(text)([w])
    w.grad = torch.zeros_like(w)
    opt.supply(x=torch.tensor([[3.0, 0.0, 0.0], [0.0, 2.0, 0.0]], dtype=torch.float64))
    opt.step()
    assert w.item() == pytest.approx(-(3 + 2 * 2) - 5)
