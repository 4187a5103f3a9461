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


# Steps that find their own size or shape ----------------------------------------------------------


def asked(lines: str, start: Tensor, loss: Callable[[Tensor], Tensor], steps: int) -> list[float]:
    """The loss before and after each step of a rule that asks for it."""
    w = nn.Parameter(start.clone())
    opt = optc.loads("rule r():\n" + lines)([w])
    opt.bind(objective=lambda: loss(w))
    found = [float(loss(w.detach()))]
    for _ in range(steps):
        opt.step()
        found.append(float(loss(w.detach())))
    return found


OASIS = """
    precondition oasis(beta = 0.99, floor = 1e-5, eta0 = 1e-3, probes0 = 100)
    step 1
"""


def test_the_doubly_adaptive_step_divides_a_quadratic_by_four() -> None:
    H = tensor([100.0, 1.0, 0.01])
    found = asked(OASIS, torch.ones(3, dtype=EXACT), lambda w: (H * w**2).sum() / 2, 12)
    wanted = {2: 12.6, 3: 3.15, 4: 0.788, 7: 1.23e-2, 12: 1.2e-5}
    assert {k: found[k] for k in wanted} == pytest.approx(wanted, rel=5e-3)


def test_the_doubly_adaptive_step_where_the_hessian_is_not_diagonal() -> None:
    """Scales hide a condition of 1.6e5; descent at 1 / L hardly moves."""
    torch.manual_seed(0)
    Q = torch.linalg.qr(torch.randn(5, 5, dtype=EXACT))[0]
    S = torch.diag(tensor([10.0, 1, 0.1, 1, 5]))
    H = S @ Q @ torch.diag(tensor([1.0, 3, 10, 30, 100])) @ Q.T @ S
    loss = lambda w: w @ H @ w / 2  # noqa: E731
    start = torch.ones(5, dtype=EXACT)
    found = asked(OASIS, start, loss, 500)
    plain = asked(f"    step {1 / float(torch.linalg.eigvalsh(H)[-1])}\n", start, loss, 500)
    assert found[0] == pytest.approx(599, rel=1e-3) and plain[-1] == pytest.approx(1.55, rel=5e-3)
    assert found[-1] < 1e-6


def test_weights_become_uniform_in_their_moments() -> None:
    """Of 2000 standard normal cells, by Adam on the penalty alone."""
    make = torch.Generator().manual_seed(0)
    w = nn.Parameter(torch.randn(50, 40, generator=make, dtype=EXACT))
    lines = """rule r():
    regularize weight_distribution_reg(kurt_rate = 1)
    precondition adam()
    step 0.01
"""
    opt = optc.loads(lines)([w])
    opt.bind(objective=lambda: 0 * w.sum())
    for _ in range(500):
        opt.step()
    u = (w.detach() - w.detach().mean()) / w.detach().std()
    assert float((u**4).mean()) == pytest.approx(1.8, abs=1e-6)
    assert float((u**3).mean()) == pytest.approx(0, abs=1e-6)


def test_the_path_of_a_flow_is_shorter_than_the_inequality_says() -> None:
    """1/2 w' diag(1, 4) w from (1, 1): c is the root of twice the least curvature."""
    H = tensor([1.0, 4.0])
    lines = """rule r():
    monitor uniform_lgi(lr = 0.01, theta = 0.5) as lgi
    metric c = lgi.c
    metric path = lgi.path
    metric bound = lgi.bound
    step 0.01
"""
    w = nn.Parameter(tensor([1.0, 1.0]))
    opt = optc.loads(lines)([w])
    opt.bind(objective=lambda: (H * w**2).sum() / 2)
    for _ in range(1500):
        opt.step()
    found = {k: float(v) for k, v in opt.metrics.items()}
    assert found["c"] == pytest.approx(2**0.5, rel=1e-6)
    assert found["bound"] == pytest.approx(5**0.5, rel=1e-6)
    assert found["path"] == pytest.approx(1.6005, rel=5e-3)
    assert found["path"] < found["bound"]


def test_differences_of_gradients_serve_exponentials() -> None:
    """The mean of 2 cosh(a w), from 6 in steps of 0.01; plain descent overflows."""
    a = torch.linspace(0.5, 1.5, 100, dtype=EXACT)
    w = nn.Parameter(tensor([6.0]))
    loss = lambda b: ((b * w).exp() + (-b * w).exp()).mean()  # noqa: E731
    opt = optc.loads(
        "rule r():\n    smooth normalized_spider(q = 10, large = 100)\n    step 0.01\n"
    )([w])
    opt.bind(objective=loss, draw=a)
    make = torch.Generator().manual_seed(0)
    for _ in range(1000):
        opt.step(batch=a[torch.randint(100, (10,), generator=make)])
    assert abs(w.item()) <= 0.011


def test_kendalls_correlation_of_gaussian_entries_is_an_arc_sine() -> None:
    """(2 / pi) arcsin(rho) over many draws of 50 entries."""
    text = """rule r():
    input a: model[entries], b: model[entries]
    metric found = kendall_tau_monitor(a, b)
    w <- w * 1
"""
    w = nn.Parameter(tensor([0.0]))
    w.grad = torch.zeros_like(w)
    opt = optc.loads(text)([w])
    make = torch.Generator().manual_seed(0)
    for rho, card in ((0.2, 0.1194), (0.5, 0.3306), (0.9, 0.7083)):
        found = []
        for _ in range(300):
            a, noise = torch.randn(2, 50, generator=make, dtype=EXACT)
            opt.supply(a=a, b=rho * a + (1 - rho**2) ** 0.5 * noise)
            opt.step()
            found.append(float(opt.metrics["found"]))
        assert np.mean(found) == pytest.approx(2 / math.pi * math.asin(rho), abs=0.02)
        assert np.mean(found) == pytest.approx(card, abs=0.02)


def test_accelerated_sgd_is_accsgd() -> None:
    theirs = pytest.importorskip("pytorch_optimizer", reason="an independent reference").AccSGD
    H = tensor([1.0, 0.1, 0.01])
    lr, kappa, xi = 0.1, 1000.0, 10.0
    beta = 0.49 * xi / kappa
    alpha = 0.7 / (0.7 + beta)
    lines = f"""
    smooth accelerated_sgd(alpha = {alpha}, beta = {beta}, gamma = {0.7 * xi * lr}, delta = {lr})
    step 1
"""
    *_, ours = path(lines, [1.0, 1.0, 1.0], lambda w: H * w, 50)
    v = nn.Parameter(torch.ones(3, dtype=EXACT))
    opt = theirs([v], lr=lr, kappa=kappa, xi=xi)
    for _ in range(50):
        v.grad = H * v.detach()
        opt.step()
    torch.testing.assert_close(ours, v.detach(), rtol=1e-12, atol=1e-13)
