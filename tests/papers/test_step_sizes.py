"""Step sizes of papers in real loops: SMB, phase retrieval, robust factorization, ratios."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import optc

EXACT = torch.float64
BACKENDS = ("eager", "auto")


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=EXACT)


def rule(*lines: str) -> Any:
    return optc.loads("rule r():\n" + "".join(f"    {line}\n" for line in lines))


# SMB --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
def test_model_building_falls_as_on_the_card(backend: str) -> None:
    w = nn.Parameter(vector(1, 1))
    Q = torch.tensor([[10.0, 2], [2, 1]], dtype=EXACT)
    opt = rule("precondition model_building_step(lr = 0.5) as smb", "step 1")([w], backend=backend)
    opt.bind(objective=lambda: w @ Q @ w / 2)
    found = {}
    for step in range(1, 101):
        opt.step()
        found[step] = float(w.detach() @ Q @ w.detach() / 2)
    wanted = {1: 2.30430961, 5: 0.05585551, 20: 3.2064e-4, 100: 2.11e-15}
    assert {k: found[k] for k in wanted} == pytest.approx(wanted, rel=5e-3)


# Phase retrieval --------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha0", [1.0, 100.0])
def test_the_models_step_is_robust_to_its_rate(alpha0: float) -> None:
    """Mean | <a, x>^2 - b |, an example a step: the subgradient method stalls or leaves."""
    make = torch.Generator().manual_seed(0)
    A = torch.randn(30, 10, generator=make, dtype=EXACT)
    truth = torch.randn(10, generator=make, dtype=EXACT)
    b = (A @ truth) ** 2
    away = torch.randn(10, generator=make, dtype=EXACT)
    order = torch.randint(30, (1500,), generator=make).tolist()
    alpha = alpha0 / np.sqrt(1501)

    def ended(step: str) -> float:
        w = nn.Parameter(truth + 0.5 * away / away.norm())
        opt = rule(f"step {step}")([w])
        opt.bind(objective=lambda i: ((A[i] @ w) ** 2 - b[i]).abs())
        for i in order:
            opt.step(batch=i)
        return float(((A @ w.detach()) ** 2 - b).abs().mean())

    assert ended(f"model_based_step({alpha})") < 1e-3
    assert not ended(str(alpha)) < 1e-3


def test_the_random_iterate_is_one_of_the_points_drawn_evenly() -> None:
    text = "rule r():\n    step 1\n    metric star = sum(random_iterate(w), over = model)\n"
    made = optc.loads(text)
    picks = []
    for seed in range(100):
        w = nn.Parameter(vector(0.0))
        opt = made([w], seed=seed)
        for _ in range(4):
            w.grad = -torch.ones_like(w)
            opt.step()
        picks.append(round(float(opt.metrics["star"])))
    shares = np.bincount(picks, minlength=5)[1:] / len(picks)
    assert sum(shares) == 1 and shares.min() > 0.1 and shares.max() < 0.4


# SubGM ------------------------------------------------------------------------------------------

D, K, M = 12, 12, 300


def recovered(step: str, outliers: float, turns: int, power: int = 1) -> float:
    """Relative error of a low-rank matrix from measurements of it, some of them gross errors."""
    draw = np.random.default_rng(0)
    raw = draw.standard_normal((M, D, D))
    A = torch.tensor((raw + raw.transpose(0, 2, 1)) / 2)
    basis = torch.tensor(np.linalg.qr(draw.standard_normal((D, 2)))[0])
    truth = basis @ basis.T
    y = (A * truth).sum((1, 2))
    hit = torch.tensor(draw.random(M) < outliers)
    y = y + hit * torch.tensor(10 * draw.standard_normal(M))
    C = (torch.sign(y)[:, None, None] * A).mean(0)
    values, vectors = torch.linalg.eigh(C)
    B = vectors[:, -K:] * values[-K:].clamp(min=0).sqrt()
    U = nn.Parameter(1e-6 * B / B.norm())

    def misfit(b: Any = None) -> Tensor:
        return ((A * (U @ U.T)).sum((1, 2)) - y).abs().pow(power).mean()

    opt = optc.loads(f"rule r():\n    input q: element\n    {step}\n")([U])
    opt.bind(objective=misfit)
    for _ in range(turns):
        with torch.no_grad():
            q = (torch.sign((A * (U @ U.T)).sum((1, 2)) - y)[:, None, None] * A).mean(0)
        opt.supply(q=[q])
        opt.step()
    found = U.detach() @ U.detach().T
    return float((found - truth).norm() / truth.norm())


def test_subgradients_recover_a_matrix_in_spite_of_outliers() -> None:
    """The loss is the mean misfit, so its gradient is the paper's (Q + Q') U."""
    geometric = "step geometric_step(q, start = 0.3, ratio = 0.98)"
    assert recovered(geometric, 0.1, 450) < 1e-3
    assert recovered("step 0.05", 0.1, 250, power=2) > 0.3


def test_a_step_proportional_to_the_loss_needs_clean_data() -> None:
    proportional = "step loss_proportional_step(scale = 0.05)"
    assert recovered(proportional, 0.0, 600) < 1e-5
    assert recovered(proportional, 0.1, 600) > 1e-2


def test_the_written_subgradient_is_autograds() -> None:
    make = torch.Generator().manual_seed(0)
    A = torch.randn(7, 3, 3, generator=make, dtype=EXACT)
    y = torch.randn(7, generator=make, dtype=EXACT)
    U = nn.Parameter(torch.randn(3, 2, generator=make, dtype=EXACT))
    text = """
rule r():
    input U: model[dims, factors], A: model[measurements, dims, dims'], y: model[measurements]
    D = l1_matrix_subgradient(U, A, y)
    metric first = sum(where(cumsum(ones(D), over = dims) == 1, D, 0), over = dims)
    w <- w * 1
"""
    opt = optc.loads(text)([nn.Parameter(vector(0.0))])
    opt.supply(U=U.detach(), A=A, y=y)
    opt.param_groups[0]["params"][0].grad = vector(0.0)
    opt.step()
    loss = ((A * (U @ U.T)).sum((1, 2)) - y).abs().sum() / (2 * 7)
    (exact,) = torch.autograd.grad(loss, U)
    torch.testing.assert_close(opt.metrics["first"], exact[0])


# Ratios -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "wanted"),
    [
        ("false", (0.276, 0.22885529, 0.22009743, 0.21787147)),
        ("true", (0.27692308, 0.23614997, 0.22865664, 0.21973650)),
    ],
)
@pytest.mark.parametrize("backend", BACKENDS)
def test_coordinates_reach_the_least_ratio(
    mode: str, wanted: tuple[float, ...], backend: str
) -> None:
    Q = torch.tensor([[2.0, 0.5], [0.5, 1.0]], dtype=EXACT)
    G = torch.tensor([[1.0, 2], [3, -1], [1, 1]], dtype=EXACT)
    w = nn.Parameter(vector(1.0, 0.2))
    text = f"""
rule cyclic():
    input slope: model, curvature: model, f: model
    input Gx: model[terms], column: model[terms], at: element
    e = fractional_coordinate_step(slope, curvature, f, Gx, column; parametric = {mode})
    w <- w + e * at
"""
    opt = optc.loads(text)([w], backend=backend)
    w.grad = torch.zeros_like(w)

    def ratio(x: Tensor) -> float:
        return float((x @ Q @ x / 2 + 0.5) / (G @ x).abs().sum())

    found = []
    for step in range(40):
        i, x = step % 2, w.detach().clone()
        at = torch.zeros(2, dtype=EXACT)
        at[i] = 1
        opt.supply(slope=(Q @ x)[i], curvature=Q[i, i], f=x @ Q @ x / 2 + 0.5)
        opt.supply(Gx=G @ x, column=G[:, i], at=[at])
        opt.step()
        found.append(ratio(w.detach()))
    assert found[:4] == pytest.approx(wanted, abs=1e-7)
    assert found[-1] == pytest.approx(0.2174794181, abs=1e-9)
    torch.testing.assert_close(w.detach(), vector(0.372822, -1.056329), rtol=0, atol=1e-4)
