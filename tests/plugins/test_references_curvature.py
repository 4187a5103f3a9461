"""Curvature: the numbers of the papers' cards, exact Hessians, and other people's code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import optc

EXACT = torch.float64


def matrix(*rows: tuple[float, ...]) -> Tensor:
    return torch.tensor(rows, dtype=EXACT)


def vector(*cells: float) -> Tensor:
    return torch.tensor(cells, dtype=EXACT)


def trained(
    text: str,
    loss: Callable[[Tensor], Tensor],
    start: Tensor,
    steps: int = 1,
    lr: float = 1.0,
    **states: Tensor,
) -> tuple[Tensor, Any]:
    """Where a rule of these lines leads a point, and the states it then has."""
    rule = optc.loads(f"rule tried(lr = 1.0):\n    {text}\n    step lr\n")
    w = torch.nn.Parameter(start.clone())
    opt = rule([w], lr=lr)
    opt.bind(objective=lambda: loss(w))
    if states:  # they are there after a first step
        opt.step()
        w.data.copy_(start)
        for name, value in states.items():
            next(v for k, v in opt.state[w].items() if k.endswith(f".{name}")).copy_(value)
    for _ in range(steps):
        opt.step()
    return w.detach(), {k.rpartition(".")[2]: v for k, v in opt.state[w].items()}


def quadratic(H: Tensor, b: float | Tensor = 0.0) -> Callable[[Tensor], Tensor]:
    return lambda w: w.flatten() @ H @ w.flatten() / 2 - (b * w).sum()


def near(found: Tensor, *numbers: float, bound: float = 1e-7) -> None:
    torch.testing.assert_close(found.flatten(), vector(*numbers), rtol=bound, atol=bound)


X_SHAPED = matrix((4, 0, 0, 1), (0, 2, 0.5, 0), (0, 0.5, 1, 0), (1, 0, 0, 3))
AT_CARD = "precondition psgd_xmat(scale = 1.0, probe = x -> x)"
LOW_RANK = "precondition psgd_lra(size = 1, scale = 1.0, probe = x -> x"
EXACTLY = "scale = 1.0, damping = 0.0, relative = 0.0, probe = x -> x"


def test_psgd_xmat_is_its_card() -> None:
    start = vector(1, -1, 0.5, 2)
    w, state = trained(AT_CARD, quadratic(X_SHAPED), start)
    near(state["a"], 0.93396226, 0.99610849, 1.00047170, 0.91509434)
    near(state["b"], -0.07547170, -0.00094340, -0.00094340, -0.07547170)


def test_psgd_xmat_finds_the_inverse_that_it_can_express() -> None:
    line = "precondition psgd_xmat()"
    _, state = trained(line, quadratic(X_SHAPED), vector(1, -1, 0.5, 2), 300, lr=0.0)
    Q = torch.diag(state["a"]) + torch.diag(state["b"]).flip(1)
    torch.testing.assert_close(Q.T @ Q @ X_SHAPED, torch.eye(4, dtype=EXACT), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("share", "name", "numbers"),
    [
        (1.0, "U", (-0.02609687, 0.23181925, -0.30365282)),
        (0.0, "V", (0.42607954, -0.01975103, 0.32991029)),
    ],
)
def test_psgd_lra_is_its_card(share: float, name: str, numbers: tuple[float, ...]) -> None:
    H = torch.diag(vector(2, 1, 6))
    U, V = matrix((0.1, 0.2, -0.1)), matrix((0.3, 0, 0.1))
    line = f"{LOW_RANK}, share = {share})"
    _, state = trained(line, quadratic(H), vector(1, -1, 0.5), s=vector(1, 1, 1), U=U, V=V)
    near(state["s"], 0.96614327, 1.00281588, 0.90616778)
    near(state[name], *numbers)


def test_psgd_lra_finds_an_inverse_of_low_rank_and_a_diagonal() -> None:
    q = torch.randn(6, 2, generator=torch.Generator().manual_seed(0), dtype=EXACT)
    H = torch.diag(vector(1, 2, 3, 0.5, 1.5, 4)) + 2 * q @ q.T
    line = "precondition psgd_lra(size = 2)"
    _, state = trained(line, quadratic(H), torch.ones(6, dtype=EXACT), 1500, lr=0.0)
    U, V = (x if x.shape[0] == 6 else x.T for x in (state["U"], state["V"]))
    Q = (torch.eye(6, dtype=EXACT) + U @ V.T) @ torch.diag(state["s"])
    values = torch.linalg.eigvals(Q.T @ Q @ H)
    torch.testing.assert_close(values.real, torch.ones(6, dtype=EXACT), rtol=0, atol=0.03)


def test_psgd_dense_is_its_card() -> None:
    H = torch.diag(vector(1, 4, 9))
    _, state = trained(f"precondition psgd_dense({EXACTLY})", quadratic(H), vector(1, 1, 1))
    near(state["Q"], 1, -0.00297030, -0.00792079, 0, 0.98514851, -0.03465347, 0, 0, 0.92079208)


def test_psgd_dense_finds_the_inverse() -> None:
    H = matrix((2, 0.5), (0.5, 1))
    line = "precondition psgd_dense(damping = 0.0, relative = 0.0)"
    _, state = trained(line, quadratic(H), vector(1, 1), 400, lr=0.0)
    torch.testing.assert_close(state["Q"].T @ state["Q"], H.inverse(), rtol=0, atol=1e-2)


def test_psgd_kron_is_its_card() -> None:
    H = matrix((1, 2, 3, 0), (2, 0, 0, 0), (3, 0, 0, 0), (0, 0, 0, 4))
    start = torch.eye(2, dtype=EXACT)
    _, state = trained(f"precondition psgd_kron({EXACTLY})", quadratic(H), start)
    near(state["Q1"], 0.9870, -0.0356, 0, 0.9222, bound=1e-4)
    near(state["Q2"], 0.9708, -0.0454, 0, 0.9384, bound=1e-4)


def test_psgd_kron_finds_the_inverse_of_a_product() -> None:
    one, two = matrix((2, 0.5), (0.5, 1)), matrix((3, 1), (1, 2))
    line = "precondition psgd_kron(damping = 0.0, relative = 0.0)"
    H = torch.kron(one, two)
    _, state = trained(line, quadratic(H), torch.ones(2, 2, dtype=EXACT), 300, lr=0.0)
    Q = torch.kron(state["Q1"], state["Q2"])
    torch.testing.assert_close(Q.T @ Q, H.inverse(), rtol=0, atol=5e-3)


# Newton steps ---------------------------------------------------------------------------------


def path(text: str, loss: Callable[[Tensor], Tensor], start: Tensor, steps: int) -> list[Tensor]:
    """The points after each step."""
    w = torch.nn.Parameter(start.clone())
    opt = optc.loads(f"rule tried():\n    {text}\n    step 1\n")([w])
    opt.bind(objective=lambda: loss(w))
    points = []
    for _ in range(steps):
        opt.step()
        points.append(w.detach().clone())
    return points


@pytest.mark.parametrize("m", [1, 7])
def test_a_lazy_hessian_of_a_quadratic_is_the_hessian(m: int) -> None:
    loss = quadratic(torch.diag(vector(4, 1)), vector(1, -2))
    *_, last = path(f"precondition lazy_hessian(m = {m}, M = 1.0)", loss, vector(3, 2), 6)
    near(last, 0.250789, -1.866607, bound=1e-6)


@pytest.mark.parametrize(
    ("m", "numbers"),
    [
        (1, (1.559632, 1.042761, 0.642929, 0.342610, 0.142877, 0.041182)),
        (3, (1.559632, 1.238894, 1.031313, 0.638624, 0.438705, 0.313997)),
    ],
)
def test_a_lazy_hessian_is_its_card(m: int, numbers: tuple[float, ...]) -> None:
    line = f"precondition lazy_hessian(m = {m}, M = 1.0)"
    points = path(line, lambda w: (w**4).sum() / 4 + (w**2).sum() / 2, vector(2, -1), 6)
    near(torch.stack([x.norm() for x in points]), *numbers, bound=2e-6)
    if m == 1:  # without laziness it is the plain step
        line = "precondition gradient_regularised_newton(M = 1.0)"
        again = path(line, lambda w: (w**4).sum() / 4 + (w**2).sum() / 2, vector(2, -1), 6)
        torch.testing.assert_close(again[-1], points[-1], rtol=1e-9, atol=1e-12)


def test_a_cubic_step_where_the_gradient_misses_the_lowest_eigenvector() -> None:
    loss = quadratic(torch.diag(vector(-1, 2)))
    (x,) = path("precondition lazy_cubic_newton(m = 1, M = 1.0)", loss, vector(0, 1.5), 1)
    near(x.abs(), 3**0.5, 0.5)


def valley(w: Tensor) -> Tensor:
    return quadratic(matrix((2, 0.5), (0.5, 1)), vector(1, -1))(w) + (w**4).sum() / 4


def test_accelerated_second_order_is_its_card() -> None:
    line = "precondition accelerated_second_order(M = 6.0)"
    points = path(line, valley, vector(0, 0), 10)
    near(points[0], 0.33368405, -0.43943722)
    near(points[1], 0.44027224, -0.60139104)
    near(points[2], 0.50176222, -0.68806546)
    near(points[9], 0.58744904, -0.78843096)
    (one,) = path("precondition inexact_cubic_step(M = 6.0)", valley, vector(0, 0), 1)
    near(one, 0.33368405, -0.43943722)


def test_accelerated_second_order_with_errors_is_its_card() -> None:
    options = "M = 6.0, sigma = 0.1, tau = 0.1, delta = 0.05"
    line = f"precondition accelerated_second_order({options})"
    near(path(line, valley, vector(0, 0), 2)[-1], 0.32624109, -0.42105974)


def test_the_dense_hessian_is_that_of_torch() -> None:
    def loss(x: Tensor) -> Tensor:
        return torch.sin(x.flatten().cumsum(0)).prod() + (x**4).sum()

    start = torch.linspace(0.1, 0.9, 6, dtype=EXACT).reshape(2, 3)
    H = torch.func.hessian(loss)(start).reshape(6, 6)
    g = torch.func.grad(loss)(start).flatten()
    (x,) = path("precondition inexact_cubic_step(M = 1e-9, delta = 50.0)", loss, start, 1)
    step = torch.linalg.solve(H + 50 * torch.eye(6, dtype=EXACT), g)
    torch.testing.assert_close((start - x).flatten(), step, rtol=1e-7, atol=1e-9)


# Conjugate directions and Polyak steps --------------------------------------------------------

CHAIN = 2 * torch.eye(6, dtype=EXACT) - torch.ones(5, dtype=EXACT).diag(1)
CHAIN = CHAIN - torch.ones(5, dtype=EXACT).diag(-1)


@pytest.mark.parametrize(
    ("net", "norms"),
    [
        ("r -> r", (1.224745, 1.624808, 0.997517, 0.440315, 0.235702)),
        ("r -> -7 * r", (1.224745, 1.624808, 0.997517, 0.440315, 0.235702)),
    ],
)
def test_deep_conjugate_directions_of_the_identity_are_cg(
    net: str, norms: tuple[float, ...]
) -> None:
    b = vector(1, 0, 0, 2, 0, -1)
    line = f"precondition deep_conjugate_direction(net = {net})"
    points = path(line, quadratic(CHAIN, b), torch.zeros(6, dtype=EXACT), 6)
    residuals = [(b - CHAIN @ x).norm() for x in points]
    near(torch.stack(residuals[:5]), *norms, bound=1e-6)
    assert residuals[5] < 1e-12


def test_sania_solves_a_quadratic_in_one_newton_step() -> None:
    loss = quadratic(torch.diag(vector(1, 100)))
    w = torch.nn.Parameter(vector(3, -2))
    text = """
rule tried():
    precondition hutchinson_or_cg_newton(newton = true, init_probes = 1, rtol = 1e-12)
    step sania_step()
"""
    opt = optc.loads(text)([w])
    opt.bind(objective=lambda: loss(w))
    opt.step()
    near(w.detach(), 0, 0, bound=1e-6)


@pytest.mark.parametrize(
    ("line", "tenth"),
    [("adagrad_sqr(eps = 1e-30)", 3.486e-4), ("adam_sqr(eps = 1e-30)", 7.031e-4)],
)
@pytest.mark.parametrize("scales", [(0, 0, 0, 0, 0), (-4, -2, 0, 2, 4)])
def test_sania_is_its_card_however_the_features_are_scaled(
    scales: tuple[int, ...], line: str, tenth: float
) -> None:
    numbers = np.random.default_rng(0)
    A = torch.from_numpy(numbers.standard_normal((20, 5)))
    y = A @ torch.from_numpy(numbers.standard_normal(5))
    A = A * torch.exp(torch.tensor(scales, dtype=EXACT))
    w = torch.nn.Parameter(torch.zeros(5, dtype=EXACT))
    text = f"rule tried():\n    precondition {line}\n    step sania_step()\n"
    opt = optc.loads(text)([w])

    def loss() -> Tensor:
        return ((A @ w - y) ** 2).mean() / 2

    opt.bind(objective=loss)
    losses = [loss().item()]
    for _ in range(10):
        opt.step()
        losses.append(loss().item())
    near(vector(losses[0], losses[1], losses[10]), 1.072006, 1.039879, tenth, bound=2e-4)


# Greedy blocks --------------------------------------------------------------------------------

PAIRS = matrix((4, 1, 0.5, 0), (1, 3, 0, 0.2), (0.5, 0, 10, 9), (0, 0.2, 9, 10))
SLOPE = vector(1, -2, 3, 2.5)


def model(x: Tensor) -> Tensor:
    return quadratic(PAIRS, -SLOPE)(x)


@pytest.mark.parametrize(
    ("options", "chosen"),
    [
        ("size = 2, score = greedy.gs", (2, 3)),
        ("size = 2, score = greedy.gsl", (0, 1)),
        ("size = 2, score = greedy.gsd", (0, 1)),
        ("size = 2, score = greedy.gsq", (0, 1)),
        ("size = 2, variable = true", (1, 2)),
    ],
)
def test_greedy_blocks_are_those_of_the_card(options: str, chosen: tuple[int, ...]) -> None:
    line = f"precondition greedy_block_select({options})"
    (x,) = path(line, model, torch.zeros(4, dtype=EXACT), 1)
    near(-x, *(float(SLOPE[i]) if i in chosen else 0.0 for i in range(4)))


@pytest.mark.parametrize(
    ("options", "one", "twenty"),
    [
        ("size = 2, score = greedy.gs, matrix = false", None, 6.0266e-4),
        ("size = 2, score = greedy.gsl, matrix = false", -0.80136825, 7.3378e-4),
        ("size = 2, score = greedy.gsl", -1.04545455, None),
        ("size = 2", -1.04545455, None),
    ],
)
def test_block_updates_are_those_of_the_card(
    options: str, one: float | None, twenty: float | None
) -> None:
    line = f"precondition block_update({options})"
    points = path(line, model, torch.zeros(4, dtype=EXACT), 20)
    left = model(points[-1]) - model(-torch.linalg.solve(PAIRS, SLOPE))
    if one is not None:
        near(model(points[0]), one)
    if twenty is not None:
        near(left, twenty, bound=1e-4 * twenty)
    else:
        assert left < 1e-14


def test_a_sobolev_gradient_is_its_card() -> None:
    x = 2 * torch.pi * torch.arange(64, dtype=EXACT) / 64
    g = torch.sin(x) + torch.sin(8 * x)
    (moved,) = path("precondition sobolev_gradient()", lambda w: (w * g).sum(), 0 * x, 1)
    torch.testing.assert_close(-moved, torch.sin(x) / 2 + torch.sin(8 * x) / 65)
    image = torch.randn(6, 5, generator=torch.Generator().manual_seed(0), dtype=EXACT)
    line = "precondition sobolev_gradient(s = 0.5)"
    (moved,) = path(line, lambda w: (w * image).sum(), 0 * image, 1)
    xi, eta = 6 * torch.fft.fftfreq(6, dtype=EXACT), 5 * torch.fft.fftfreq(5, dtype=EXACT)
    weight = (1 + xi.unsqueeze(1) ** 2 + eta**2) ** 0.5
    torch.testing.assert_close(-moved, torch.fft.ifft2(weight * torch.fft.fft2(image)).real)
