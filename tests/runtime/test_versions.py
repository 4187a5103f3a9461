"""Old and new versions of a slot, in steps that commit, that are taken back, that go back."""

from __future__ import annotations

import pytest
import torch

import optc
from optc.runtime.functional import Step
from optc.runtime.native import compiler

from .compare import compiled, difference, interpreted, objective, optimized, start

BACKENDS = ["eager", *(["c"] if compiler() else [])]
SWAPPED = """rule r(lr = 0.1):
    state a: {0} = 1, b: {0} = 2
    a, b <- b, a
    w <- w - lr * grad(w) * {1}
"""
REACHES = {
    **{reach: "a" for reach in ("model", "group", "tensor", "row", "element")},
    "element[window(3)]": "sum(a, over = window)",
}
RULES = {
    **{f"swapped {r}": SWAPPED.format(r, factor) for r, factor in REACHES.items()},
    "a metric of the old version": """rule r(lr = 0.1):
    state n: model = 0, m = zeros(w)
    metric before = n
    metric size = norm(m, over = model)
    metric cells = sum(m, over = model)
    n <- n + 1
    m <- m + grad(w)
    w <- w - lr * m
    veto when call == 3
""",
    "a merge of old cells": """rule r(lr = 0.1):
    state x = zeros(w), y = ones(w)
    x <- y
    for params where ndim == 2:
        x <- x + 1
    y <- y + 0.1 * grad(w)
    w <- w - lr * y + 0.01 * x
""",
    "a loop without a turn": """rule r(lr = 0.1):
    state x = zeros(w), y = ones(w)
    var a = y
    repeat 3 until loss(w + a) > 0:
        a <- 2 * a
    x <- a
    y <- y + 0.1 * grad(w)
    w <- w - lr * y + 0.01 * x
""",
    "a matrix of old cells": """rule r(lr = 0.1):
    state m = ones(w)
    a = matrix(m)
    n = norm(a @ transpose(a), over = (rows, rows'))
    m <- 0.9 * m + grad(w)
    w <- w - lr * m / n - lr * back(a) * norm(m, over = model)
""",
    "a transpose of a state": """rule r(lr = 0.1):
    state C: element[window(3)] = 0, K: model[window, window'] = 0
    C[0] <- grad(w)
    K[0, :] <- sum(K, over = window') + call
    K <- transpose(K)
    w <- w - lr * sum(C, over = window)
    metric size = sum(K * K, over = (window, window'))
    metric row = sum(K[0, :]^2, over = window')
""",
    "what is always written, late": """rule r(lr = 0.1):
    state s = zeros(w), c: model = 0
    g = grad(w)
    n = norm(g, over = model)
    k = norm(g / (1 + n), over = model)
    w <- w - lr * g * k - 0.01 * s
    always s <- s + k * g
    always c <- c + k
    veto when n * (call - 3) == 0
    metric size = norm(s, over = model)
    metric c = c
""",
    "a metric of what a veto undoes": """rule r(lr = 0.1):
    state m = zeros(w)
    m <- 0.9 * m + grad(w)
    w <- w - lr * m
    veto when norm(w, over = model) * (call - 4) == 0
    metric size = norm(m, over = model)
    metric there = norm(w, over = model)
""",
}
BACK = """rule back(lr = 0.1):
    state m = zeros(w), s = zeros(w), seen: model = 0
    g = grad(w)
    n = norm(g, over = model)
    m <- 0.9 * m + g
    w <- w - lr * m / sqrt(t) / sqrt(steps) - 0.001 * s
    always s <- s + g / (1 + n)
    always seen <- seen + 1
    snapshot when (call - 1) % 2 == 0
    restore {0} when n * (call - 6) == 0
    metric seen = seen
    metric size = norm(s, over = model)
"""
RULES |= {f"back to {n}": BACK.format(n) for n in (1, 2, 9)}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("steps", [4, 9])
def test_it_is_the_version_of_the_text(name: str, steps: int, backend: str) -> None:
    meaning = interpreted(RULES[name], steps)
    values, opt = optimized(RULES[name], steps, backend)
    assert difference(values, meaning.tensors()) < 1e-12
    for key, value in meaning.metrics.items():
        assert abs(float(opt.metrics[key]) - float(value)) < 1e-10, key
    assert [int(opt.state[p]["step"]) + 1 for p in values] == meaning.t
    assert opt.param_groups[0]["steps"] + 1 == meaning.steps


def test_a_metric_keeps_its_cells() -> None:
    """Not the parameter itself, which the next step writes."""
    p = torch.nn.Parameter(torch.ones(3))
    opt = optc.loads("rule r(lr = 0.5):\n    metric at = w\n    w <- w - lr * grad(w)\n")([p])
    p.grad = torch.ones(3)
    opt.step()
    assert opt.metrics["at"][0].tolist() == [1.0] * 3 and p.tolist() == [0.5] * 3


@pytest.mark.parametrize("back", [1, 2, 9])
def test_a_functional_step_goes_back(back: int) -> None:
    text = BACK.format(back)
    meaning = interpreted(text, 9)
    step = Step(compiled(text))
    w = [x for _, x in start()]
    state = step.init(w)
    for _ in range(9):
        w, state, _ = step(w, state, loss=objective)
    assert difference(w, meaning.tensors()) < 1e-12
    assert [state["t"] + 1] * len(meaning.t) == meaning.t and state["steps"] + 1 == meaning.steps
