"""A gradient and the Hessian-vector products at its point: one forward pass, the same numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import optc
from optc.runtime.objective import Objective

ONCE = {
    "gradient_and_product": "h = hvp(loss, w, grad(w))\n    w <- w - lr * (grad(w) + h)",
    "two_products": "v = normal(w)\n    h = hvp(loss, w, v)\n    w <- w - lr * hvp(loss, w, h)",
    "product_in_a_loop": (
        "var p = grad(w)\n    repeat 3:\n        p <- p - 0.1 * hvp(loss, w, p)\n"
        "    w <- w - lr * p"
    ),
    "loop_and_behind_it": (
        "var p = grad(w)\n    repeat 2:\n        p <- p - 0.1 * hvp(loss, w, p)\n"
        "    w <- w - lr * hvp(loss, w, p)"
    ),
    "elsewhere": (
        "a = w + grad(w)\n    g = grad(a)\n    h = hvp(loss, a, g)\n    w <- w - lr * (g + h)"
    ),
}
"""How often each calls the loss: once a point."""
CALLS = {name: 2 if name == "elsewhere" else 1 for name in ONCE}


class Net(nn.Module):
    """Dropout, running statistics and a smooth loss."""

    def __init__(self, norm: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm = nn.Linear(4, 6), nn.BatchNorm1d(6) if norm else nn.Identity()
        self.drop, self.last = nn.Dropout(0.3), nn.Linear(6, 1)
        self.double()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.last(self.drop(torch.tanh(self.norm(self.first(x))))).square().mean()


def ended(
    body: str, shared: bool, monkeypatch: pytest.MonkeyPatch, norm: bool = False, **promises: Any
) -> Any:
    """The parameters, statistics and calls of three steps."""
    net, make = Net(norm), torch.Generator().manual_seed(1)
    opt = optc.loads(f"rule r(lr = 0.1):\n    {body}\n")(net.parameters())
    opt.bind(model=net, objective=lambda x: net(x), **promises)
    with monkeypatch.context() as patch:
        if not shared:
            patch.setattr(Objective, "_shares", lambda self: False)
        torch.manual_seed(2)
        for _ in range(3):
            opt.step(batch=torch.randn(8, 4, generator=make, dtype=torch.float64))
    return [*net.parameters(), *net.buffers()], net.calls


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("name", ONCE)
def test_one_forward_pass_serves_all_that_is_asked_at_a_point(name, norm, monkeypatch):
    found, calls = ended(ONCE[name], True, monkeypatch, norm)
    expected, more = ended(ONCE[name], False, monkeypatch, norm)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)
    # Elsewhere running statistics are put back after each pass, which a graph would not survive.
    alone = norm and name == "elsewhere"
    assert calls == more if alone else calls == 3 * CALLS[name] < more


@pytest.mark.parametrize("promise", [{"seed": "fresh"}, {"curvature": "forward"}])
def test_evaluations_that_fall_differently_share_nothing(promise, monkeypatch):
    *_, calls = ended(ONCE["gradient_and_product"], True, monkeypatch, **promise)
    assert calls >= 6


def test_a_point_of_each_turn_is_its_own(monkeypatch):
    body = (
        "var a = w\n    repeat 3:\n        g = grad(a)\n        a <- a - lr * hvp(loss, a, g)\n"
        "    w <- a"
    )
    found, calls = ended(body, True, monkeypatch)
    expected, _ = ended(body, False, monkeypatch)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)
    assert calls == 9  # at the first point, and at two more


def test_other_points_between_two_products(monkeypatch):
    body = (
        "g = grad(w)\n    away = grad(w + 0.5 * g)\n    h = hvp(loss, w, away)\n"
        "    w <- w - lr * (h + hvp(loss, w, h))"
    )
    for promise in ({}, {"in_place": True}):
        found, _ = ended(body, True, monkeypatch, **promise)
        expected, _ = ended(body, False, monkeypatch, **promise)
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)


def test_nothing_of_a_graph_outlives_the_step(monkeypatch):
    net = Net()
    opt = optc.loads(f"rule r(lr = 0.1):\n    {ONCE['product_in_a_loop']}\n")(net.parameters())
    opt.bind(model=net, objective=lambda x: net(x))
    seen: list[Any] = []
    place = Objective._place
    monkeypatch.setattr(
        Objective, "_place", lambda self, *args: seen.append(self) or place(self, *args)
    )
    opt.step(batch=torch.randn(8, 4, dtype=torch.float64))
    assert seen and all(objective.graph is None for objective in seen)
