"""Short runs of rules on the problems of the cards, with the numbers that they give there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import optc

EXACT = torch.float64


def vector(*cells: float) -> Tensor:
    return torch.tensor(cells, dtype=EXACT)


def points(
    lines: str, start: Tensor, steps: int, loss: Callable[[Tensor], Tensor] | None = None
) -> list[Tensor]:
    """The points after each step of a rule of these lines; without a loss the gradient is 0."""
    w = nn.Parameter(start.clone())
    body = "".join(f"    {line}\n" for line in lines.splitlines())
    opt = optc.loads(f"rule r():\n{body}")([w])
    if loss is not None:
        opt.bind(objective=lambda: loss(w))
    w.grad = torch.zeros_like(w)
    found = []
    for _ in range(steps):
        opt.step()
        found.append(w.detach().clone())
    return found


def measured(body: str, steps: int = 1, before: str = "", **given: Any) -> Any:
    """The metric `found` of a rule that reads what is given and moves nothing."""
    w = nn.Parameter(vector(0.0))
    w.grad = torch.zeros_like(w)
    opt = optc.loads(f"{before}rule r():\n{body}    w <- w * 1\n")([w])
    opt.supply(**{k: torch.as_tensor(v, dtype=EXACT) for k, v in given.items()})
    for _ in range(steps):
        opt.step()
    return opt.metrics["found"]


# Optimizers -------------------------------------------------------------------------------------


def bowl(w: Tensor) -> Tensor:
    return (10 * w[0] ** 2 + w[1] ** 2) / 2


@pytest.mark.parametrize(
    ("options", "values"),
    [
        ("predictor = x -> x", {5: 0.42221479, 10: 0.13308383, 20: 0.00025133}),
        (
            "predictor = x -> gradient_extrapolation(g = x, r = 3)",
            {5: 0.02487107, 10: 0.28120372, 20: 0.05993425, 60: 5.989e-5},
        ),
        ("optimistic = false", {5: 0.05141257, 10: 1.52709639, 20: 0.52078553}),
    ],
)
def test_optimistic_amsgrad_on_a_bowl(options: str, values: dict[int, float]) -> None:
    lines = f"precondition optimistic_amsgrad({options})\nstep 0.05"
    found = points(lines, vector(1, 1), max(values), bowl)
    for step, value in values.items():
        assert float(bowl(found[step - 1])) == pytest.approx(value, rel=2e-4)


def chain(w: Tensor) -> Tensor:
    """A worst case of second-order methods: sums of cubes of differences, less the first cell."""
    off = torch.cat([w[:-1] - w[1:], w[-1:]])
    return (off.abs() ** 3).sum() / 3 - w[0]


def test_accelerated_cubic_steps_on_their_worst_case() -> None:
    line = "precondition accelerated_second_order(M = 10.0)\nstep 1"
    found = points(line, torch.zeros(10, dtype=EXACT), 80, chain)
    least = -10 * 2 / 3
    assert float(chain(found[9])) - least == pytest.approx(5.2146, abs=1e-4)
    assert float(chain(found[79])) - least == pytest.approx(0.42584, abs=1e-5)


def test_a_row_grows_short_by_the_norm_loss_alone() -> None:
    lines = "d = 0 * w\nregularize norm_loss(weight = 0.01)\nstep 0.1"
    found = points(lines, torch.tensor([[3.0, 4.0]], dtype=EXACT), 500)
    assert float(found[-1].norm()) == pytest.approx(2.4700450, abs=1e-6)


A = torch.diag(vector(2, 2, 2, 2, 2, 2)) - torch.diag(torch.ones(5, dtype=EXACT), 1)
A = A - torch.diag(torch.ones(5, dtype=EXACT), -1)
B = vector(1, 0, 0, 2, 0, -1)
M = torch.linalg.inv(A + 0.3 * torch.diag(vector(0, 0.2, 0.4, 0.6, 0.8, 1)))
LEARNED = """rule r(scale = 1.0):
    input M: model[all, all']
    net = r -> back(scale * (M @ flat(r)))
    precondition deep_conjugate_direction(net = net)
    step 1
"""


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_directions_of_a_good_network_are_soon_done(scale: float) -> None:
    w = nn.Parameter(torch.zeros(6, dtype=EXACT))
    opt = optc.loads(LEARNED)([w], scale=scale)
    opt.bind(objective=lambda: w @ A @ w / 2 - B @ w)
    opt.supply(M=M)
    left = []
    for _ in range(6):
        opt.step()
        left.append(float((B - A @ w.detach()).norm()))
    expected = [0.670330, 0.112963, 0.004692818, 1.3555e-4, 2.985e-6]
    assert left[:5] == pytest.approx(expected, rel=1e-3)
    assert left[5] < 1e-12


@pytest.mark.parametrize(
    ("net", "loss"),
    [(M, 0.0748904721), (5 * M, 0.0748904721), (torch.eye(6, dtype=EXACT), 0.25), (A.inverse(), 0)],
)
def test_a_direction_is_judged_whatever_its_length(net: Tensor, loss: float) -> None:
    w = nn.Parameter(B / B.norm())
    w.grad = torch.zeros_like(w)
    opt = optc.loads(
        "rule r():\n    input N: model[all, all'], A: model[all, all']\n"
        "    metric found = scale_free_inverse_loss(q -> back(N @ flat(q)), "
        "q -> back(A @ flat(q)), w)\n    w <- w * 1\n"
    )([w])
    opt.supply(N=net, A=A)
    opt.step()
    assert float(opt.metrics["found"]) == pytest.approx(loss, abs=1e-9)


# Samples ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("t", "h", "noise"),
    [(1, 0.01, 0.1403567), (10, 0.0917431, 0.4162156), (100, 0.5025126, 0.8616735)],
)
def test_a_sampler_takes_longer_steps(t: int, h: float, noise: float) -> None:
    """A residual of deviation 1, with and without noise: the step and the noise's size."""
    for z, expected in ((0.0, h), (1.0, h - noise)):
        w = nn.Parameter(torch.zeros(1, 1, dtype=EXACT))
        w.grad = torch.zeros_like(w)
        text = f"rule r():\n    metric found = denoiser_move(0 * w + 1, {z} + 0 * w)\n"
        opt = optc.loads(f"{text}    w <- w * 1\n")([w])
        for _ in range(t):
            opt.step()
        (found,) = (
            opt.metrics["found"]
            if isinstance(opt.metrics["found"], list)
            else (opt.metrics["found"],)
        )
        assert float(found) == pytest.approx(expected, abs=1e-6)


# Two classes and the geodesic between them --------------------------------------------------------

GEODESIC = """function logits(
    x: model[sources, cells],
    W: model[classes, cells],
    b: model[classes],
):
    return x @ transpose(W) + b

function mixed(z: model[sources, classes], t: model):
    first = cumsum(ones(z), over = classes) == 1
    label = where(first, 1 - t, t)
    return -mean(sum(label * log_softmax(z), over = classes), over = sources)

function second(z: model[sources, classes]):
    last = cumsum(ones(z), over = classes) == 2
    return mean(sum(where(last, softmax(z), 0), over = classes), over = sources)

"""
PROBLEM = """    input X0: model[sources, cells], X1: model[sources, cells]
    input W: model[classes, cells], b: model[classes]
    at = t -> logits(minibatch_geodesic(X0, X1, t), W, b)
    L = t -> mixed(at(t), t)
    F = t -> second(at(t))
"""


def on_the_geodesic(metric: str) -> float:
    given = {
        "X0": [[0.0, 0.0], [2.0, 0.0], [0.0, 1.0]],
        "X1": [[3.0, 1.0], [4.0, -1.0], [1.0, 2.0]],  # in the order of the transport
        "W": [[1.0, -1.0], [0.5, 0.3]],
        "b": [0.1, -0.2],
    }
    return float(measured(f"{PROBLEM}    metric found = {metric}\n", 1, GEODESIC, **given))


def test_the_worst_point_between_two_classes() -> None:
    wanted = [0.70287513, 0.79852989, 0.98040139, 1.24360513, 1.58467056]
    found = [on_the_geodesic(f"L({t / 4} + 0 * sum(b, over = classes))") for t in range(5)]
    assert found == pytest.approx(wanted, abs=1e-8)
    assert on_the_geodesic("worst_case_barycenter(L; nodes = 4)") == 1.0


def test_the_variation_between_two_classes() -> None:
    """A curve that falls all the way: the mean slope is the difference of its ends."""
    t = "0 * sum(b, over = classes)"
    nodes = ((0.5 - 0.15**0.5, 5), (0.5, 8), (0.5 + 0.15**0.5, 5))  # Gauss's rule
    slopes = [w / 18 * on_the_geodesic(f"geodesic_smoothness(F, {x} + {t})") for x, w in nodes]
    assert on_the_geodesic(f"F({t})") == pytest.approx(0.45692703, abs=1e-8)
    assert on_the_geodesic(f"F(1 + {t})") == pytest.approx(0.42076220, abs=1e-8)
    assert sum(slopes) == pytest.approx(0.03616483, abs=1e-5)
    assert on_the_geodesic(f"geodesic_smoothness(L, 0.5 + {t})") == pytest.approx(
        0.89292533, abs=1e-8
    )


# Monitors ---------------------------------------------------------------------------------------


def test_the_shrinkage_of_two_tasks_in_many_dimensions() -> None:
    eye = torch.eye(100, dtype=EXACT)
    S = torch.stack([torch.diag(torch.linspace(0.5, 1.5, 100, dtype=EXACT)), eye])
    body = """    input S: model[tasks, dims, dims'], n: model[tasks], gamma: model[tasks]
    metric found = deterministic_equivalent(S, n, gamma; lam = 2, iters = 40)
"""
    found = measured(body, S=S, n=[150.0, 80.0], gamma=[1.0, 0.5])
    torch.testing.assert_close(found, vector(0.539401, 0.602608), rtol=0, atol=1e-6)


def test_noise_of_dropout_is_aligned_with_the_curvature() -> None:
    """All masks of three units, as often as each falls in 125 draws of four in five."""
    X = torch.tensor([[1.0, 0.0], [0.5, -1.0], [2.0, 1.0]], dtype=EXACT)
    y = vector(0.5, -0.2, 1.0)
    w = nn.Parameter(vector(0.7, -0.4, 1.1, 0.3, 0.8, -0.5, 0.2, 0.6, -0.1))
    masks = (torch.cartesian_prod(*3 * [torch.arange(5)]) > 0).to(EXACT)

    def masked() -> Tensor:
        h = torch.tanh(X @ w[3:].view(3, 2).T) * w[:3]
        return ((((h[None] * masks[:, None]).sum(2) / 0.8) - y) ** 2).mean(1) / 2

    text = """rule r():
    loss main
    loss masked: model[masks]
    metric found = noise_flatness(main, w, jacobian(masked, w))
    w <- w * 1
"""
    opt = optc.loads(text)([w])
    opt.bind(objective={"main": lambda: masked().mean()}, masked=masked)
    opt.step()
    assert float(opt.metrics["found"]) == pytest.approx(0.70262239, abs=2e-8)
