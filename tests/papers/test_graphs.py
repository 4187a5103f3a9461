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
"""
DECONVOLUTION = """
rule tried():
    input A: model[nodes, nodes'], h: model[powers]
    state S = 0 * A
    G = graph_deconvolution_gradient(S, A, h, degree = 2)
    S <- graph_deconvolution_prox(S - 0.05 * G, tau = 5e-5)
"""


def run(text: str, steps: int, slot: str, **inputs: Any) -> torch.Tensor:
    w = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    w.grad = torch.zeros_like(w)
    opt = optc.loads(text)([w])
    opt.supply(**inputs)
    for _ in range(steps):
        opt.step()
    return opt.slot(slot) if hasattr(opt, "slot") else opt.state_dict()


def diffused(options: str, steps: int) -> torch.Tensor:
    X = torch.tensor([[1, 0], [0, 1], [2, -1]], dtype=torch.float64)
    text = DIFFUSION.replace("OPTIONS", options)
    eye = torch.eye(2, dtype=torch.float64)
    return run(text, steps, "X", X0=X, edges=PATH + torch.eye(3), Q=eye[None])


print(diffused("tau = 0.5, order = 1", 1))
