"""The separable evolution strategy and its pruning, against NumPy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

import optc
from optc.compiler.check import check_probe
from optc.compiler.interpret import Interpreter, Tensors
from optc.compiler.parse import parse
from optc.compiler.source import Source

RULE = """rule snes(popsize = 4, sigma_init = 0.5):
    loss = p -> dot(p, p, over = model)
    estimate snes_step(popsize, sigma_init)
    step 1
"""
PRUNED = """rule lottery(rounds = 10):
    loss main
    state kept = ones(w), first = w
    loss = p -> main(w = kept * p)
    estimate snes_step(popsize = 32, sigma_init = 0.3, restart = rounds) as es
    step 1
    project signal_to_noise_prune(es.sigma, first, every = rounds, keep_ratio = 0.5) as prune
    kept <- prune.mask
"""


def test_a_step_with_the_cards_draws() -> None:
    """The card's deviations differ between cells; here both are those of the first."""
    z = np.array([[1, 0], [-1, 1], [0, -1], [0.5, 0.5]])
    mean, sigma = np.array([1.0, -1.0]), 0.5
    u = np.array([0.480423, 0.019577, -0.25, -0.25])
    order = np.argsort(((mean + sigma * z) ** 2).sum(1), kind="stable")
    expected = mean + sigma * (u[:, None] * z[order]).sum(0)
    rate = (3 + math.log(2)) / (5 * math.sqrt(2))
    assert rate == pytest.approx(0.5222899, abs=1e-7)
    deviations = sigma * np.exp(rate / 2 * (u[:, None] * (z[order] ** 2 - 1)).sum(0))

    from optc.plugins.registry import library

    file = parse(Source("snes.opt", RULE))
    rule = file.items[0]
    graph = check_probe(rule, file, library())
    start = torch.tensor(mean)

    def draw(how: str, stream: int, call: int, n: int) -> torch.Tensor:
        return torch.tensor(z.ravel()[:n])

    run = Interpreter(graph, Tensors(["w"], [start]), None, None, draw)
    run.step()
    assert run.slots["w"][0].tolist() == pytest.approx(expected.tolist(), abs=1e-6)
    found: Any = next(v for k, v in run.slots.items() if k.endswith("sigma"))
    assert found[0].tolist() == pytest.approx(deviations.tolist(), abs=1e-6)


def test_it_descends_without_gradients_and_prunes() -> None:
    torch.manual_seed(0)
    w = torch.nn.Parameter(torch.tensor([0.5, -0.4, 0.3, 0.2], dtype=torch.float64))
    goal = torch.tensor([2.0, 0.0, -1.0, 0.0], dtype=torch.float64)
    scale = torch.tensor([10.0, 0.1, 10.0, 0.1], dtype=torch.float64)
    opt = optc.loads(PRUNED)([w], rounds=60)
    opt.bind(objective={"main": lambda: (scale * (w - goal) ** 2).sum()})
    for _ in range(60):
        opt.step()
    assert w.tolist() == [0.5, 0.0, 0.3, 0.0]
    for _ in range(59):
        opt.step()
    assert w.tolist() == pytest.approx(goal.tolist(), abs=0.05)
