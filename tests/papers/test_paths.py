"""Where small problems lead a step, against the numbers of the papers' cards."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import optc

EXACT = torch.float64


def tensor(rows: Any) -> Tensor:
    return torch.tensor(rows, dtype=EXACT)


def path(lines: str, start: Any, gradient: Callable[[Tensor], Tensor], steps: int) -> list[Tensor]:
    """The points after each step of a rule, from a gradient in closed form."""
    w = nn.Parameter(tensor(start))
    opt = optc.loads("rule r():\n" + lines)([w])
    points = []
    for _ in range(steps):
        w.grad = gradient(w.detach())
        opt.step()
        points.append(w.detach().clone())
    return points


# Games, and losses that are not smooth ------------------------------------------------------------


@pytest.mark.parametrize(
    ("angle", "size"), [(math.pi / 4, 2.02e-4), (math.pi / 2, 0.422), (math.pi, 1.52)]
)
def test_complex_momentum_in_the_game_xy(angle: float, size: float) -> None:
    lines = f"    smooth complex_momentum(angle = {angle})\n    step 0.1\n"
    *_, last = path(lines, [1.0, 1.0], lambda w: torch.stack([w[1], -w[0]]), 1000)
    assert float(last.norm()) == pytest.approx(size, rel=5e-3)


def test_real_momentum_leaves_the_game_xy() -> None:
    lines = "    smooth complex_momentum(angle = 0)\n    step 0.1\n"
    *_, last = path(lines, [1.0, 1.0], lambda w: torch.stack([w[1], -w[0]]), 1000)
    assert float(last.norm()) == pytest.approx(3e78, rel=0.2)


@pytest.mark.parametrize(("beta", "first", "last"), [(2 / 3, 8.41260, 1.764e-3), (1.0, 9.9, 5.0)])
def test_a_power_of_the_gradient_serves_a_quartic(beta: float, first: float, last: float) -> None:
    lines = f"    normalize beta_normalized_gd(beta = {beta})\n    step 0.1\n"
    points = path(lines, [10.0], lambda w: 4 * w**3, 50)
    assert float(points[0]) == pytest.approx(first, abs=1e-5)
    assert float(points[-1]) == pytest.approx(last, rel=5e-4)


# Proxies and solvers ------------------------------------------------------------------------------

SHARP = tensor([10.0, 1.0])
BEST = tensor([0.1, 2.0])


def proxied(eta: float, inner: int, steps: int) -> list[float]:
    """Distances from the solution of 1/2 x'Ax - b'x, with a proxy whose matrix is off by 1/2."""
    lines = f"""
    loss main, proxy
    loss = main
    precondition proxy_prox(proxy; eta = {eta}, inner_steps = {inner}, inner_lr = 0.1)
    step 1
"""
    w = nn.Parameter(tensor([0.0, 0.0]))
    opt = optc.loads("rule r():" + lines)([w])
    opt.bind(
        objective={
            "main": lambda: (SHARP * w**2).sum() / 2 - (tensor([1.0, 2.0]) * w).sum(),
            "proxy": lambda: (tensor([9.5, 1.2]) * w**2).sum() / 2,
        }
    )
    found = []
    for _ in range(steps):
        opt.step()
        found.append(float((w.detach() - BEST).norm()))
    return found


@pytest.mark.parametrize(
    ("eta", "wanted"),
    [
        (0.5, {1: 1.375062, 5: 0.307180, 20: 1.1130e-3}),
        (2.0, {1: 0.823529, 5: 0.023674, 20: 3.927e-8}),
    ],
)
def test_proximal_points_of_a_proxy(eta: float, wanted: dict[int, float]) -> None:
    found = proxied(eta, 100, 20)
    assert {k: found[k - 1] for k in wanted} == pytest.approx(wanted, rel=5e-4)


@pytest.mark.parametrize(("inner", "wanted"), [(1, 0.243153), (5, 2.962e-4)])
def test_few_inner_steps_on_a_proxy(inner: int, wanted: float) -> None:
    """One of them is SGD."""
    assert proxied(2.0, inner, 20)[-1] == pytest.approx(wanted, rel=5e-4)
    if inner == 1:
        *_, plain = path("    step 0.1\n", [0.0, 0.0], lambda w: SHARP * (w - BEST), 20)
        assert float((plain - BEST).norm()) == pytest.approx(wanted, rel=5e-4)


@pytest.mark.parametrize(
    ("M", "wanted"),
    [
        ("v -> v", (1.456012, 0.594382, 0.348417, 0.0)),
        ("v -> v / diagonal", (0.859783, 0.472579, 0.256822, 0.0)),
    ],
)
def test_residuals_of_preconditioned_conjugate_gradients(M: str, wanted: tuple[float]) -> None:
    A = torch.diag(tensor([4.0, 3, 2, 2])) + torch.diag(torch.ones(3, dtype=EXACT), 1)
    A = A + torch.diag(torch.ones(3, dtype=EXACT), -1)
    b = tensor([1.0, 2, 3, 4])
    for turns, residual in enumerate(wanted, 1):
        lines = f"""
    input A: model[all, all'], b: element, diagonal: element
    M = {M}
    w <- preconditioned_cg(v -> back(A @ flat(v)), b, M; at_most = {turns}, rtol = 0)
"""
        w = nn.Parameter(torch.zeros(4, dtype=EXACT))
        w.grad = torch.zeros_like(w)
        opt = optc.loads("rule r():" + lines)([w])
        opt.supply(A=A, b=[b], diagonal=[A.diag().clone()])
        opt.step()
        assert float((b - A @ w.detach()).norm()) == pytest.approx(residual, abs=1e-6)
    torch.testing.assert_close(w.detach(), tensor([0.12, 0.52, 0.32, 1.84]))


# Manifolds and factors ----------------------------------------------------------------------------


def test_two_steps_of_amsgrad_in_the_ball_are_the_cards() -> None:
    gradients = iter([tensor([[1.0, -0.5]]), tensor([[0.2, 0.1]])])
    lines = "    precondition riemannian_amsgrad(lr = 0.1)\n    step 1\n"
    one, two = path(lines, [[0.3, 0.4]], lambda w: next(gradients), 2)
    assert one.flatten().tolist() == pytest.approx((0.1981, 0.4613), abs=6e-5)
    assert two.flatten().tolist() == pytest.approx((0.0980, 0.5188), abs=6e-5)


def test_a_corrected_first_step_in_the_ball_is_as_long_as_the_rate() -> None:
    lines = "    precondition riemannian_amsgrad(lr = 0.1, correct = true)\n    step 1\n"
    (x,) = path(lines, [[0.3, 0.4]], lambda w: tensor([[1.0, -0.5]]), 1)
    assert x.flatten().tolist() == pytest.approx((0.2668, 0.4177), abs=6e-5)
    start = tensor([0.3, 0.4])
    apart = ((x[0] - start) ** 2).sum() / ((1 - (x**2).sum()) * (1 - (start**2).sum()))
    assert math.acosh(1 + 2 * float(apart)) == pytest.approx(0.1, rel=1e-6)


@pytest.mark.parametrize(("kappa", "card"), [(1.5, 20), (10, 19), (100, 22), (1000, 19)])
def test_a_damped_factor_does_not_feel_the_condition(kappa: float, card: int) -> None:
    """Steps to a relative error of 1e-6: n = 20, rank 3 in 6 columns; the card drew another start.

    Plain descent takes hundreds of steps at a condition of 10.
    """
    spectrum = torch.linspace(1, 1 / kappa, 3, dtype=EXACT)
    Z = torch.diag(torch.cat([spectrum, torch.zeros(17, dtype=EXACT)]))
    make = np.random.default_rng(0)
    start = 1e-4 * make.standard_normal((20, 6)) / math.sqrt(20)

    def steps(line: str, most: int) -> int:
        points = path(f"{line}    step 0.3\n", start, lambda X: (X @ X.T - Z) @ X, most)
        errors = [float((X @ X.T - Z).norm() / Z.norm()) for X in points]
        return next((k for k, e in enumerate(errors, 1) if e < 1e-6), most)

    damped = f"    precondition scaled_gd_damped(lam = {1 / kappa / 20})\n"
    assert abs(steps(damped, 60) - card) <= 5
    if kappa == 10:
        assert steps("", 400) == 400


def test_a_damped_factor_moves_with_its_rotation() -> None:
    X = tensor([[1, 0], [0, 0.5], [0.2, 0.1]])
    Q = torch.linalg.qr(tensor([[1, 2], [3, -1]]))[0]
    G = tensor([[0.04, 0.02], [0.01, -0.12], [0.21, 0.03]])
    lines = "    precondition scaled_gd_damped(lam = 0.05)\n    step 0.3\n"
    (one,) = path(lines, X.tolist(), lambda w: G, 1)
    (two,) = path(lines, (X @ Q).tolist(), lambda w: G @ Q, 1)
    wanted = [[0.989333, -0.018667], [-0.004889, 0.616444], [0.142667, 0.074667]]
    torch.testing.assert_close(one, tensor(wanted), atol=1e-6, rtol=0)
    torch.testing.assert_close(two, one @ Q, rtol=1e-12, atol=1e-14)


# Two tensors, signs, and a loss that two planes solve ---------------------------------------------


@pytest.mark.parametrize(("whole", "wanted"), [("false", (2.85, 7.35)), ("true", None)])
def test_each_tensor_climbs_in_its_own_ball(whole: str, wanted: tuple[float, ...] | None) -> None:
    """With one ball for both it is the card's step of one tensor."""
    a, b = (nn.Parameter(tensor([1.0])) for _ in range(2))
    opt = optc.loads(f"rule r():\n    perturb amp(whole = {whole})\n    step 1\n")([a, b])
    loss = lambda: (a**2 / 2 + 2 * b**2 + (a**4 + b**4) / 10).sum()  # noqa: E731
    opt.bind(objective=loss)
    opt.step()
    moved = (1 - a.item(), 1 - b.item())
    assert moved == pytest.approx(wanted or (1.76249747, 7.19329334), abs=1e-8)


def test_adams_length_with_the_gradients_sign_and_decay_first() -> None:
    gradients = iter([tensor([1, -2, 0.1]), tensor([-0.1, -1, 0]), tensor([0.2, 1, -0.3])])
    lines = """
    precondition grams()
    regularize decoupled_decay(0.1)
    step 1e-3
"""
    points = path(lines, [1.0, -2.0, 0.5], lambda w: next(gradients), 3)
    wanted = [
        [0.99890003, -1.99880002, 0.49895032],
        [0.99939277, -1.99766797, 0.49890042],
        [0.99871876, -1.9978649, 0.49929293],
    ]
    torch.testing.assert_close(torch.stack(points), tensor(wanted), atol=1e-8, rtol=0)


@pytest.mark.parametrize("planes", [1, 2])
def test_two_hyperplanes_solve_xor_and_one_does_not(planes: int) -> None:
    lines = """
    loss z: model[examples, hyperplanes]
    input y: model[examples]
    w <- w - grad(p -> checkered_loss(z(p), y), w)
    metric lost = checkered_loss(z(w), y)
"""
    x = tensor([[-1, -1, 1], [-1, 1, 1], [1, -1, 1], [1, 1, 1]])
    start = 0.1 * np.random.default_rng(0).standard_normal((3, planes))
    w = nn.Parameter(torch.tensor(start))
    opt = optc.loads("rule r():" + lines)([w])
    opt.bind(objective={"z": lambda: x @ w})
    opt.supply(y=tensor([1, 0, 0, 1]))
    for _ in range(2000):
        opt.step()
    lost = float(opt.metrics["lost"])
    assert lost == pytest.approx(1.014e-3, rel=0.1) if planes == 2 else lost > 0.69
