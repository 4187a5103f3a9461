"""Hypergradients in real loops, against problems whose hypergradient is known in closed form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import optc

EXAMPLES = Path(__file__).parents[2] / "examples"
BACKENDS = ("eager", "auto")
H = torch.diag(torch.tensor([0.5, 1.0, 1.5], dtype=torch.float64))
B = torch.tensor([[1.0, 2.0], [0.0, 1.0], [-1.0, 0.5]], dtype=torch.float64)
GOAL = torch.tensor([1.0, -1.0, 2.0], dtype=torch.float64)
START = torch.tensor([0.3, -0.2], dtype=torch.float64)


class Quadratic:
    """Inner 1/2 w'Hw - w'B l, so w* = H^-1 B l; outer 1/2 |w - goal|^2 + 1/20 |l|^2."""

    def __init__(self, solved: bool = True) -> None:
        start = torch.linalg.solve(H, B @ START) if solved else torch.zeros(3, dtype=H.dtype)
        self.w, self.lam = nn.Parameter(start), nn.Parameter(START.clone())

    def named(self) -> list[tuple[str, nn.Parameter]]:
        return [("weights.w", self.w), ("hyper.lam", self.lam)]

    def bind(self, opt: Any) -> None:
        opt.bind(
            objective={
                "train": lambda b: self.w @ H @ self.w / 2 - self.w @ B @ self.lam,
                "val": lambda b: ((self.w - GOAL) ** 2).sum() / 2 + (self.lam**2).sum() / 20,
            }
        )

    def exact(self) -> Tensor:
        """The hypergradient at the inner solution of the present hyperparameters."""
        lam = self.lam.detach()
        inverse = torch.linalg.inv(H)
        return (inverse @ B).T @ (inverse @ B @ lam - GOAL) + lam / 10


def moved(text: str, backend: str, **options: Any) -> tuple[Tensor, Tensor]:
    """What one step from the inner solution takes the hypergradient to be, and what it is."""
    problem = Quadratic()
    exact = problem.exact()
    opt = optc.loads(text)(problem.named(), backend=backend, **options)
    problem.bind(opt)
    before = problem.lam.detach().clone()
    opt.step()
    return before - problem.lam.detach(), exact


NEUMANN = (EXAMPLES / "neumann_hypergradient.opt").read_text(encoding="utf-8")
IMPLICIT = """
rule implicit(lr = 1.0):
    target w = named("weights.*"), lam = named("hyper.*")
    loss train, val
    q = cg(v -> hvp[w](train, w, v), grad[w](val); at_most = 3, rtol = 1e-14)
    mixed = grad(l -> dot(grad[w](train, lam = l), q, over = model), lam)
    lam <- lam - lr * (grad[lam](val) - mixed)
"""
FIXED_POINT = """
rule fixed_point(lr = 1.0, rate = 0.5, turns = 200):
    target w = named("weights.*"), lam = named("hyper.*")
    loss train, val
    v = grad[w](val)
    var q = v
    repeat turns:
        q <- q + rate * (v - hvp[w](train, w, q))
    mixed = grad(l -> dot(grad[w](train, lam = l), q, over = model), lam)
    lam <- lam - lr * (grad[lam](val) - mixed)
"""
UNROLLED = """
rule unrolled(lr = 1.0, rate = 0.5, turns = 3):
    target w = named("weights.*"), lam = named("hyper.*")
    loss train, val
    var x = w
    repeat turns:
        x <- x - rate * grad[w](train, w = x)
    var u = grad[w](val, w = x), g = grad[lam](val, w = x)
    repeat turns:
        g <- g - rate * grad(l -> dot(grad[w](train, lam = l), u, over = model), lam)
        u <- u - rate * hvp[w](train, w, u)
    lam <- lam - lr * g
"""
"""The adjoint walks back over the inner steps; the Hessian of a quadratic is the same at each."""


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("text", "options"),
    [
        (NEUMANN, {"lr": 0.5, "hyper_lr": 1.0, "terms": 200}),
        (IMPLICIT, {}),
        (FIXED_POINT, {}),
    ],
    ids=["neumann", "conjugate gradients", "fixed point"],
)
def test_implicit_hypergradients_are_exact_at_the_inner_solution(
    text: str, options: dict[str, Any], backend: str
) -> None:
    found, exact = moved(text, backend, **options)
    torch.testing.assert_close(found, exact, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("terms", [1, 3])
def test_a_short_series_is_the_sum_of_its_terms(terms: int) -> None:
    found, exact = moved(NEUMANN, "auto", lr=0.5, hyper_lr=1.0, terms=terms)
    problem = Quadratic()
    v = problem.w.detach() - GOAL
    power = torch.eye(3, dtype=H.dtype) - 0.5 * H
    q = 0.5 * sum(torch.linalg.matrix_power(power, k) @ v for k in range(terms + 1))
    torch.testing.assert_close(found, START / 10 + B.T @ q, rtol=1e-12, atol=1e-12)
    assert (found - exact).norm() > 0.05


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_unrolled_hypergradient_is_autograds(backend: str) -> None:
    problem = Quadratic(solved=False)
    opt = optc.loads(UNROLLED)(problem.named(), backend=backend)
    problem.bind(opt)
    lam, x = START.clone().requires_grad_(), problem.w.detach().clone()
    for _ in range(3):
        x = x - 0.5 * (H @ x - B @ lam)
    outer = ((x - GOAL) ** 2).sum() / 2 + (lam**2).sum() / 20
    (exact,) = torch.autograd.grad(outer, lam)
    opt.step()
    torch.testing.assert_close(problem.lam.detach(), START - exact, rtol=1e-10, atol=1e-10)


def test_two_timescales_reach_the_bilevel_solution() -> None:
    """Warm-started inner steps beside small outer ones; the solution solves a linear system."""
    problem = Quadratic(solved=False)
    rule = optc.load(EXAMPLES / "neumann_hypergradient.opt")
    opt = rule(problem.named(), lr=0.5, hyper_lr=0.02, terms=30)
    problem.bind(opt)
    for _ in range(600):
        opt.step()
    A = torch.linalg.solve(H, B)
    solution = torch.linalg.solve(A.T @ A + torch.eye(2, dtype=H.dtype) / 10, A.T @ GOAL)
    torch.testing.assert_close(problem.lam.detach(), solution, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(problem.w.detach(), A @ solution, rtol=1e-3, atol=1e-3)


def test_the_hypergradient_of_ridge_regression_is_the_cards() -> None:
    """L_T = 1/2 (w - 1)^2 + 1/2 lam w^2, L_V = 1/2 (w - 1/2)^2 at lam = 0.3."""
    w = nn.Parameter(torch.tensor([1 / 1.3], dtype=torch.float64))
    lam = nn.Parameter(torch.tensor([0.3], dtype=torch.float64))
    rule = optc.load(EXAMPLES / "neumann_hypergradient.opt")
    opt = rule([("weights.w", w), ("hyper.lam", lam)], lr=0.5, hyper_lr=1.0, terms=60)
    opt.bind(
        objective={
            "train": lambda b: ((w - 1) ** 2 + lam * w**2).sum() / 2,
            "val": lambda b: ((w - 0.5) ** 2).sum() / 2 + 0 * lam.sum(),
        }
    )
    opt.step()
    assert lam.item() == pytest.approx(0.3 + 0.159308, abs=1e-6)


# DARTS ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("unrolled", "expected"), [(False, 0.1), (True, 0.005)])
def test_the_hypergradient_of_darts_is_the_cards(
    unrolled: bool, expected: float, backend: str
) -> None:
    w = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    a = nn.Parameter(torch.full((1,), 0.5, dtype=torch.float64))
    rule = optc.load(EXAMPLES / "darts_bilevel.opt")
    opt = rule(
        [("weights.w", w), ("alphas.a", a)],
        unrolled=unrolled,
        xi=0.1,
        momentum=0.0,
        weight_decay=0.0,
        arch_decay=0.0,
        backend=backend,
    )
    opt.bind(
        objective={
            "train": lambda b: ((w - a) ** 2).sum() / 2,
            "val": lambda b: ((w - 1) ** 2).sum() / 2 + 0.1 * (a**2).sum(),
        },
        sources={"validation": [torch.zeros(1)]},
    )
    opt.step()
    assert float(opt.metrics["hypergradient"]) == pytest.approx(expected, abs=1e-9)
    assert a.item() == pytest.approx(0.5 - 3e-4, abs=1e-8)
    assert w.item() == pytest.approx(0.1 * (0.5 - 3e-4), abs=1e-8)


# Gradient inversion -----------------------------------------------------------------------------


def test_inputs_are_found_from_their_gradient() -> None:
    """A small network and one example: the direction of the gradient gives the input away."""
    torch.manual_seed(0)
    layers = [nn.Parameter(torch.randn(s, dtype=torch.float64) / 2) for s in ((8, 4), (1, 8))]
    secret = torch.tensor([0.5, -1.0, 0.8, 0.2], dtype=torch.float64)
    x = nn.Parameter(torch.zeros(4, dtype=torch.float64) + 0.1)

    def train(at: Tensor) -> Tensor:
        return ((layers[1] @ torch.tanh(layers[0] @ at + 0.5)) - 1).square().sum()

    shared = list(torch.autograd.grad(train(secret), layers))
    rule = optc.load(EXAMPLES / "gradient_inversion.opt")
    names = [(f"weights.{i}", p) for i, p in enumerate(layers)]
    opt = rule([*names, ("inputs.x", x)], lr=0.05, decay=0.0)
    opt.bind(objective={"train": lambda b: train(x)})
    opt.supply(shared=shared)
    for _ in range(600):
        opt.step()
    assert float(opt.metrics["cost"]) < 1e-6
    torch.testing.assert_close(x.detach(), secret, rtol=0, atol=0.02)


# Two players ------------------------------------------------------------------------------------

PLAYERS = """
rule players(lr = 0.1):
    target x = named("min.*"), y = named("max.*")
    loss first, second
    a = grad[x](first)
    b = grad[y](second)
    for x:
        w <- w - lr * a
    for y:
        w <- w - lr * b
"""


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("own", [0.0, 1.0])
def test_simultaneous_players_turn_by_a_known_factor(own: float, backend: str) -> None:
    """min over x, max over y of own / 2 (x^2 - y^2) + x y: each step scales and turns the pair."""
    x, y = (nn.Parameter(torch.ones(1, dtype=torch.float64)) for _ in range(2))
    opt = optc.loads(PLAYERS)([("min.x", x), ("max.y", y)], backend=backend)
    game = lambda: (own / 2 * (x**2 - y**2) + x * y).sum()  # noqa: E731
    opt.bind(objective={"first": lambda b: game(), "second": lambda b: -game()})
    for _ in range(50):
        opt.step()
    distance = float(torch.hypot(x.detach(), y.detach()))
    assert distance == pytest.approx(2**0.5 * ((1 - 0.1 * own) ** 2 + 0.01) ** 25, rel=1e-9)
