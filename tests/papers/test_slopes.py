"""Losses of papers and their slopes, at the points of the cards."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import optc

EXACT = torch.float64
NODES = "input V: model[classes, channels], y: model[examples]"
TOP_DOWN = (
    f"{NODES}\n    input S: model[layers, examples, channels], T: model[layers, classes, channels]"
)
PARTS = """function of_outer(a: model[units], H: model[examples, units], y: model[examples]):
    return dropout_penalty(H * a, y, keep = 0.8)

"""
ANCHOR = """function of_anchor(
    s: model[elements],
    Z: model[examples, elements],
    positive: model[elements],
):
    return group_order_loss(Z + s, positive; layers = 3)

"""


def sloped(loss: str, at: Any, inputs: str = "", before: str = "", **given: Any) -> Any:
    """The value of a function of the point p, and its gradient there."""
    start = torch.tensor(at, dtype=EXACT)
    w = torch.nn.Parameter(start.clone())
    whole = f"sum({loss}, over = model)" if "matrix(p)" in loss else loss
    text = f"{before}rule r():\n    {inputs}\n    loss = p -> {whole}\n    metric value = loss(w)\n"
    opt = optc.loads(f"{text}    w <- w - grad(w)\n")([w])
    opt.supply(**{k: torch.tensor(v, dtype=EXACT) for k, v in given.items()})
    opt.step()
    return float(opt.metrics["value"]), (start - w.detach())


def near(found: torch.Tensor, wanted: Any, bound: float) -> None:
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=EXACT), rtol=0, atol=bound)


@pytest.mark.parametrize(
    ("at", "value", "slope"),
    [
        ([[120.0, 0.0, 50.0]], 0.003, [[9.230769e-5, 0.0, 3.846154e-5]]),
        ([[60.0, 0.0, 50.0]], 0.0, [[0.0, 0.0, 0.0]]),
        ([[0.0, 0.0, 0.0]], 0.0, [[0.0, 0.0, 0.0]]),
    ],
)
def test_only_steep_points_of_a_field_are_pulled(at: Any, value: float, slope: Any) -> None:
    found = sloped("input_gradient_hinge(p)", at)
    assert found[0] == pytest.approx(value, abs=1e-12)
    near(found[1], slope, 1e-11)


DECOUPLED = "mean(ln(1 + exp(-y * matrix(p))), over = (rows, cols))"


def test_logits_are_decoupled() -> None:
    loss = f"{DECOUPLED} + spectral_decoupling(matrix(p), coefficient = 0.1)"
    value, slope = sloped(loss, [0.5, 0.25], "input y: model[rows]", y=[1.0, -1.0])
    assert value == pytest.approx(0.657821, abs=1e-6)
    near(slope, [-0.163770, 0.293588], 1e-6)


@pytest.mark.parametrize(("coefficient", "z"), [(0.5, 0.674832), (0.1, 1.633506), (0.01, 3.359275)])
def test_a_decoupled_logit_rests_where_the_card_says(coefficient: float, z: float) -> None:
    loss = f"{DECOUPLED} + spectral_decoupling(matrix(p), coefficient = {coefficient})"
    _, slope = sloped(loss, [z], "input y: model[rows]", y=[1.0])
    near(slope, [0.0], 5e-7)


@pytest.mark.parametrize(("sigma", "c"), [(0.5, -0.666667), (0.1, -0.793651), (0.01, -0.799936)])
def test_denoising_at_a_noise_learns_the_score_of_noisier_data(sigma: float, c: float) -> None:
    """A linear score of data with variance 1.25; points +-sd and draws +-1 have exact moments."""
    loss = f"ar_dae(sum(p, over = model) * (y + {sigma} * u), u, 0, sigma_max = {sigma})"
    inputs = "input y: model[examples, dims], u: model[examples, dims]"
    sd = 1.25**0.5
    given = {"y": [[sd], [sd], [-sd], [-sd]], "u": [[1.0], [-1.0], [1.0], [-1.0]]}
    _, slope = sloped(loss, [c], inputs, **given)
    near(slope, [0.0], 2e-6 * sigma**2)
    assert abs(float(sloped(loss, [c + 0.1], inputs, **given)[1])) > 0.1 * sigma**2


@pytest.mark.parametrize(
    ("gamma", "residual", "slope"),
    [
        (1.0, 0.05, 0.09975031),
        (1.0, 0.5, 0.77880078),
        (0.1, 0.05, 7.78800783),
        (0.1, 0.5, 1.389e-9),
    ],
)
def test_matching_pulls_only_what_is_near(gamma: float, residual: float, slope: float) -> None:
    loss = f"proximal_matching_loss(matrix(p), x, {gamma}, 1, 1, 0)"
    _, found = sloped(loss, [[residual]], "input x: model[examples, cells]", x=[[0.0]])
    assert float(found) == pytest.approx(slope, rel=1e-4)


def test_a_layer_of_nodes_is_trained_by_itself() -> None:
    given = {"V": [[1.0, 0.0], [0.0, 1.0]], "y": [0.0, 1.0]}
    loss = "single_forward_virtual_nodes(matrix(p), V, y)"
    value, slope = sloped(loss, [[1.0, 0.0], [0.5, 0.5]], NODES, **given)
    assert value == pytest.approx(0.5032044340, abs=1e-9)
    near(slope, [[-0.1345, 0.1345], [0.25, -0.25]], 5e-5)
    turned = "input h: model[examples, channels], y: model[examples]"
    loss = "single_forward_virtual_nodes(h, matrix(p), y)"
    of_virtual = {"h": [[1.0, 0.0], [0.5, 0.5]], "y": [0.0, 1.0]}
    _, slope = sloped(loss, given["V"], turned, **of_virtual)
    near(slope, [[-0.0095, 0.125], [0.0095, -0.125]], 5e-5)


def test_a_layer_learns_with_the_states_above_it() -> None:
    loss = "top_down_to_loss(matrix(p), V, S, T, y)"
    value, slope = sloped(
        loss,
        [[1.0, 0.0], [0.5, 0.5]],
        TOP_DOWN,
        V=[[1.0, 0.0], [0.0, 1.0]],
        y=[0.0, 1.0],
        S=[[[0.0, 1.0], [0.0, 1.0]]],
        T=[[[0.6, 0.8], [0.0, 1.0]]],
    )
    assert value == pytest.approx(0.6101680400, abs=1e-9)
    near(slope, [[-0.0950, 0.0713], [0.0876, -0.0657]], 6e-5)


def test_a_soft_order_of_groups() -> None:
    """One anchor: its similarities are the point, in one axis as a loop would give them."""
    inputs = "input Z: model[examples, elements], positive: model[elements]"
    given = {"Z": [[0.0, 0.0, 0.0]], "positive": [0.0, 0.0, 1.0]}
    loss = "of_anchor(flat(p), Z, positive)"
    value, slope = sloped(loss, [0.1, 0.3, 0.2], inputs, ANCHOR, **given)
    assert value == pytest.approx(0.4278924942, abs=1e-9)
    near(slope, [0.1283, 0.2284, -0.3567], 5e-5)


def test_the_loss_over_all_dropout_masks() -> None:
    X = torch.tensor([[1.0, 0.0], [0.5, -1.0], [2.0, 1.0]], dtype=EXACT)
    W = torch.tensor([[0.3, 0.8], [-0.5, 0.2], [0.6, -0.1]], dtype=EXACT)
    inputs = "input H: model[examples, units], y: model[examples]"
    value, slope = sloped(
        "of_outer(flat(p), H, y)",
        [0.7, -0.4, 1.1],
        inputs,
        PARTS,
        H=torch.tanh(X @ W.T).tolist(),
        y=[0.5, -0.2, 1.0],
    )
    assert value == pytest.approx(0.16099439 + 0.08408488, abs=2e-8)
    near(slope, [0.26867837, -0.32550496, 0.43757821], 1e-8)


def test_the_bures_distance_pulls_along_the_transport_map() -> None:
    loss = "bures_wasserstein_loss(matrix(p), Y, tau = 0)"
    inputs = "input Y: model[dims, dims']"
    Y = [[1.0, -0.2], [-0.2, 3.0]]
    value, slope = sloped(loss, [[2.0, 0.5], [0.5, 1.0]], inputs, Y=Y)
    assert value == pytest.approx(0.8838, abs=5e-5)
    near(slope, [[0.2477, 0.2780], [0.2780, -0.8316]], 5e-5)


@pytest.mark.parametrize("y", [0.0, 0.5, 1.0])
def test_an_entropy_has_its_slope_where_a_network_begins(y: float) -> None:
    """The slope of a logit is its probability less the label, at a logit of 0 too."""
    loss = "iterated_field_loss(Z + sum(p, over = model), y)"
    inputs = "input Z: model[iterations, examples], y: model[examples]"
    _, slope = sloped(loss, [0.0], inputs, Z=[[0.0], [0.0]], y=[y])
    near(slope, [0.5 - y], 1e-12)


def test_goodness_at_its_threshold_has_a_slope() -> None:
    inputs = "input wrong: model[examples, channels]"
    loss = "forward_forward_local(matrix(p), wrong)"
    _, slope = sloped(loss, [[1.0, 1.0]], inputs, wrong=[[3.0, 0.0]])
    near(slope, [[-1.0, -1.0]], 1e-12)


def test_a_step_without_error_has_no_stiffness_and_no_slope() -> None:
    names = [f"{n}: model[accepted, dims]" for n in ("k_a", "g_b", "k_b")]
    same = [[1.0, 2.0], [0.5, 1.0]]
    _, slope = sloped(
        "solver_stiffness_reg(matrix(p), k_a, g_b, k_b; stability_size = 1)",
        [[1.1, 2.0], [0.5, 1.0]],
        f"input {', '.join(names)}",
        k_a=[[-5.5, -10.0], [-2.5, -5.0]],
        g_b=same,
        k_b=[[-5.0, -10.0], [-2.5, -5.0]],
    )
    near(slope, [[-50.0, 0.0], [0.0, 0.0]], 1e-9)
