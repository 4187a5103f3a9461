"""Values on graphs and graphs themselves as what a rule moves: the numbers of the cards."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import optc

PATH = torch.tensor([[0, 1, 0], [1, 0, 1], [0, 1, 0]], dtype=torch.float64)
DIFFUSION = """
rule tried():
    input X0: model[nodes, channels], edges: model[nodes, nodes']
    input Q: model[heads, keys, channels]
    state X = X0
    A = Y -> graph_attention(Y, edges, Q, Q)
    X <- graph_diffusion(X, A, OPTIONS)
    metric found = X
"""
DECONVOLUTION = """
rule tried():
    input A: model[nodes, nodes'], h: model[powers]
    state S = 0 * A
    G = graph_deconvolution_gradient(S, A, h, degree = 2)
    S <- graph_deconvolution_prox(S - 0.05 * G, tau = 5e-5)
    metric found = S
"""


def run(text: str, steps: int, **inputs: Any) -> torch.Tensor:
    w = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    w.grad = torch.zeros_like(w)
    opt = optc.loads(text)([w])
    opt.supply(**inputs)
    for _ in range(steps):
        opt.step()
    found = opt.metrics["found"]
    assert isinstance(found, torch.Tensor)
    return found


def diffused(options: str, steps: int) -> torch.Tensor:
    X = torch.tensor([[1, 0], [0, 1], [2, -1]], dtype=torch.float64)
    text = DIFFUSION.replace("OPTIONS", options)
    eye = torch.eye(2, dtype=torch.float64)
    return run(text, steps, X0=X, edges=PATH + torch.eye(3), Q=eye[None])


@pytest.mark.parametrize(
    ("options", "steps", "row", "expected"),
    [
        ("tau = 0.5, order = 1", 1, 1, [0.282027, 0.717973]),
        ("tau = 0.5, order = 1, frozen = false", 2, 0, [0.714659, 0.285341]),
        ("tau = 5, implicit = true", 1, 0, [0.901529, 0.098471]),
        ("tau = 5, implicit = true", 1, 1, [0.841893, 0.158107]),
        ("tau = 1, order = 4", 1, 0, [0.787895, 0.212105]),
    ],
)
def test_diffusion_of_the_path(options: str, steps: int, row: int, expected: list[float]) -> None:
    within = 8.1e-4 if "order = 4" in options else 1e-6
    assert diffused(options, steps)[row].tolist() == pytest.approx(expected, abs=within)


def test_explicit_steps_hold_the_maximum_principle_up_to_one() -> None:
    for options in ("tau = 1, order = 1", "tau = 1000, implicit = true"):
        found = diffused(options, 20)
        assert found.max() <= 2 and found.min() >= -1


def test_a_path_is_recovered_from_its_convolution() -> None:
    A = torch.tensor([[0.5, 1, 0.5], [1, 1, 1], [0.5, 1, 0.5]], dtype=torch.float64)
    S = run(DECONVOLUTION, 800, A=A, h=torch.tensor([0, 1, 0.5], dtype=torch.float64))
    assert S[PATH == 0].abs().max() == 0
    assert S[PATH == 1].tolist() == pytest.approx([0.9997] * 4, abs=1e-4)
