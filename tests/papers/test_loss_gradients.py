"""Derivatives of written losses are those of the papers' cards, or of autograd."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import optc

EXACT = torch.float64
BACKENDS = ("eager", "auto")


def tensor(rows: Any) -> Tensor:
    return torch.tensor(rows, dtype=EXACT)


def derivative(
    lines: str, w: Tensor, backend: str, losses: dict[str, Any], **given: Tensor
) -> Tensor:
    """By how much a rule moves w, which is the derivative of its written loss."""
    point = nn.Parameter(w.clone())
    opt = optc.loads("rule r():\n" + lines)([point], backend=backend)
    opt.bind(objective={k: partial(f, point) for k, f in losses.items()})
    opt.supply(**given)
    opt.step()
    return w - point.detach()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("drop", "wanted"),
    [(5, (0.211395, -0.268092, 0.056697)), (0, (0.244728, -0.334759, 0.090031))],
)
def test_smoothed_and_hard_labels(drop: int, wanted: tuple[float, ...], backend: str) -> None:
    """Hard ones: softmax less onehot."""
    lines = f"""
    loss z: model[examples, classes]
    input y: model[examples]
    w <- w - grad(p -> two_stage_label_smoothing(z(p), y, 1; drop = {drop}, theta = 0.1), w)
"""
    found = derivative(lines, tensor([[1, 2, 0]]), backend, {"z": lambda w: 1 * w}, y=tensor([1]))
    assert found.flatten().tolist() == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_robust_loss_by_clean_and_adversarial_logits(backend: str) -> None:
    lines = """
    loss clean: model[examples, classes], moved: model[examples, classes]
    input y: model[examples]
    w <- w - grad(p -> arow(clean(p), moved(p), y), w)
"""
    start = tensor([[[2, 0, -1], [0.5, 1, 0]], [[0.5, 0.3, 0], [1, 0.2, 0.1]]])
    losses = {"clean": lambda w: w[0], "moved": lambda w: w[1]}
    found = derivative(lines, start, backend, losses, y=tensor([0, 1]))
    clean = [[0.450586, -0.276099, -0.174487], [-0.391677, 0.472901, -0.081224]]
    moved = [[-1.055473, 0.563178, 0.492295], [0.593587, -0.695256, 0.101669]]
    torch.testing.assert_close(found, tensor([clean, moved]), atol=1e-6, rtol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_outputs_are_smooth_between_close_points(backend: str) -> None:
    lines = """
    loss F: model[points, classes]
    input z: model[points, dims], lam: model[points]
    w <- w - grad(p -> weighted_laplacian(F(p), z, lam; heat = 0.5, normalized = false), w)
"""
    found = derivative(
        lines,
        tensor([[0.1], [0.9], [0.4]]),
        backend,
        {"F": lambda w: 1 * w},
        z=tensor([[0], [1], [3]]),
        lam=tensor([0.2, 0.5, 0.3]),
    )
    wanted = (-0.35963053, 0.58191491, -0.06285023)
    assert found.flatten().tolist() == pytest.approx(wanted, abs=1e-8)


@pytest.mark.parametrize("backend", BACKENDS)
def test_hessian_alignment_of_a_logistic_head(backend: str) -> None:
    """Two classes, the first logit 0: the head's two rows count each square twice, |Hg|^2 8 times.

    The gradient of the total also has the mean loss; equal domains have no penalty.
    """
    lines = """
    loss main
    loss features: model[domains, examples, dims], logits: model[domains, examples, classes]
    input labels: model[domains, examples]
    z0 = features(w)
    l0 = logits(w)
    f = p -> hgp_alignment(features(p), logits(p), labels, z0, l0; alpha = 1.25e-5, beta = 2.5e-3)
    metric penalty = f(w)
    w <- w - grad(p -> main(p) + f(p), w)
"""
    x = tensor([[[1, 0], [0, 1], [1, 1]], [[2, 0], [0, 1], [1, -1]]])
    y = tensor([[1, 0, 1], [1, 0, 0]])

    def stepped(x: Tensor, y: Tensor) -> tuple[Tensor, float]:
        w = nn.Parameter(tensor([0.5, -0.25]))
        opt = optc.loads("rule r():" + lines)([w], backend=backend)
        z = lambda: x @ w  # noqa: E731
        bce = torch.nn.functional.binary_cross_entropy_with_logits
        opt.bind(
            objective={
                "main": lambda: bce(z(), y),
                "features": lambda: x + 0 * w.sum(),
                "logits": lambda: torch.stack([0 * z(), z()], -1),
            }
        )
        opt.supply(labels=y)
        opt.step()
        return tensor([0.5, -0.25]) - w.detach(), float(opt.metrics["penalty"])

    found, penalty = stepped(x, y)
    assert found.tolist() == pytest.approx((-0.11217414, -0.04034757), abs=1e-8)
    assert penalty == pytest.approx(1.3535e-4, abs=5e-9)
    assert stepped(x[:1].repeat(2, 1, 1), y[:1].repeat(2, 1))[1] == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_profiled_divergence_falls_towards_the_prior(backend: str) -> None:
    """At the best variance its own derivative vanishes: (w - prior) / variance is left."""
    lines = """
    loss main
    w <- w - grad(p -> de_elbo(main, p, 0 * w, 0.5, 0 * w; n = 1, kappa = 1), w)
"""
    start = tensor([1, 2, 2])
    found = derivative(lines, start, backend, {"main": lambda w: 0 * w.sum()})
    torch.testing.assert_close(found, start / 3.25)


@pytest.mark.parametrize("backend", BACKENDS)
def test_reward_and_divergence_are_balanced_where_the_card_says(backend: str) -> None:
    """(m - 3)^2 / 2 + beta m^2 / (2 s^2) is least at 3 / (1 + beta / s^2); without beta at 3."""
    lines = """
    loss m: model[steps, examples, cells]
    input none: model[steps, examples, cells], s: model[steps]
    lost = p -> sum((m(p) - 3)^2, over = (steps, examples, cells)) / 2
    w <- w - grad(p -> lost(p) + BETA * fdiv_trajectory_reg(m(p), none, s), w)
"""
    for beta, least in ((0.1, 2.142857142857143), (0.0, 3.0)):
        found = derivative(
            lines.replace("BETA", str(beta)),
            tensor([[[least]]]),
            backend,
            {"m": lambda w: 1 * w},
            none=tensor([[[0]]]),
            s=tensor([0.5]),
        )
        assert found.abs().max() < 1e-12


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_likelihood_of_a_tensor_process_is_derived_as_in_the_paper(backend: str) -> None:
    """The paper's dV = K^-1 V - K^-1 y y' K^-1 V, and from it that of a factor, by autograd."""
    lines = """
    loss U: model[ranks1, first], eta: model[one]
    input Z: model[examples, first, second, third]
    input B: model[ranks2, second], C: model[ranks3, third], y: model[examples]
    f = p -> tensor_gp_nll(Z, U(p), B, C, y, sum(eta(p), over = one))
    metric value = f(w)
    w <- w - grad(f, w)
"""
    make = torch.Generator().manual_seed(0)
    Z = torch.randn(4, 2, 2, 3, generator=make, dtype=EXACT)
    B, C, y = (torch.randn(s, generator=make, dtype=EXACT) for s in ((2, 2), (2, 3), (4,)))
    start = torch.randn(3, 2, generator=make, dtype=EXACT) / 2  # two rows of U and one of eta
    given = {"Z": Z, "B": B, "C": C, "y": y}
    losses = {"U": lambda w: w[:2], "eta": lambda w: w[2:, 0]}
    found = derivative(lines, start, backend, losses, **given)
    w = start.clone().requires_grad_()
    V = torch.einsum("nabc,ia,jb,kc->nijk", Z, w[:2], B, C).flatten(1)
    s2 = w[2, 0].exp()
    K = V @ V.T + s2 * torch.eye(4, dtype=EXACT)
    inverse = torch.linalg.inv(K).detach()
    dV = inverse @ V - inverse @ torch.outer(y, y) @ inverse @ V
    ds2 = s2 / 2 * (inverse - inverse @ torch.outer(y, y) @ inverse).trace()
    V.backward(dV.detach(), retain_graph=True)
    wanted = w.grad.clone()
    wanted[2, 0] = ds2.detach()
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-11)
