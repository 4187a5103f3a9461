"""Steps in which some tensors have no gradient, or none that is finite: as in the interpreter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch

import optc
from optc.compiler import driver
from optc.compiler.interpret import Interpreter, Tensors
from optc.compiler.ir import postorder
from optc.compiler.primitive import NoLibrary
from optc.compiler.source import Source
from optc.runtime.capture import obstacle
from optc.runtime.native import compiler
from optc.runtime.optimizer import optimizer_class
from optc.runtime.random import draw

from .compare import compiled, difference, start

BACKENDS = ["eager", *(["c"] if compiler() else [])]
ABSENT = {0: [1], 1: [1], 2: [0, 3], 3: [2, 3], 4: [0, 1, 2, 3]}
"""By step the tensors that the loss does not use."""
RULES = {
    "a number of each tensor in its state": """rule r(lr = 0.1):
    state r: tensor = 1
    g = grad(w)
    r <- 0.5 * r + norm(g, over = tensor)
    w <- w - lr * g / r
""",
    "a number of each tensor beside its cells": """rule r(lr = 0.1):
    state m = zeros(w), u = ones(w)
    g = grad(w)
    n = norm(g, over = tensor)
    m <- 0.9 * m + g
    u <- u * 1.01
    w <- w * (1 - lr * n / (1 + n)) - lr * m / u
""",
    "reductions of nothing": """rule r(lr = 0.1):
    g = grad(w)
    n = max(abs(g), over = model)
    k = min(abs(g), over = tensor)
    w <- w - lr * w / (1 + max(n, 0) + k)
    metric n = max(n, -1)
    metric k = sum(k, over = model)
    metric some = where(any(g > 100, over = model), 1, 0)
    metric each = where(all(g > 100, over = model), 1, 0)
""",
    "sums of nothing with an axis": """rule r(lr = 0.1, m: count = 3):
    state C: element[window(m)] = 0, K: model[window, window'] = 0
    g = grad(w)
    C[(steps - 1) % m] <- g
    r = dot(C, g, over = model)
    K[:, (steps - 1) % m] <- r
    z = solve(2 * eye(window) + K @ transpose(K), r)
    w <- w - lr * g - 0.01 * w * sum(z, over = window)
    metric z = sum(z^2, over = window)
""",
    "a block without tensors": """rule r(lr = 0.1):
    state k: model = 0
    for params where ndim == 3:
        n = max(abs(grad(w)), over = model)
        k <- max(-7, n)
        w <- w - lr * grad(w) / n
    for other params:
        w <- w - lr * grad(w)
    metric k = k
""",
    "state that begins with a gradient": """rule r(lr = 0.1):
    state m = grad(w), first = grad(w)
    m <- 0.9 * m + grad(w)
    w <- w - lr * m - 0.01 * first
""",
    "a sum of slots that begin with a gradient": """rule r(lr = 0.1):
    state m = grad(w), n: model = 0
    n <- dot(m, w, over = model)
    w <- w - lr * grad(w) / (1 + n^2)
    metric n = n
""",
    "the same in blocks, and a veto": """rule r(lr = 0.1):
    state m = grad(w)
    g = grad(w)
    n = norm(g, over = model)
    for params where ndim == 2:
        m <- 0.9 * m + g
        w <- w - lr * m
    for other params:
        m <- 0.5 * m + g
        w <- w - lr * m / t
    veto when not isfinite(n)
""",
    "a side of the step that needs no gradient": """rule r(lr = 0.1):
    state m = zeros(w), k: model = 0
    g = grad(w)
    if mod(k, 2) == 1:
        m <- 0.5 * m + w
        w <- 0.9 * w - m
    else:
        m <- 0.9 * m + g
        w <- w - lr * m
    k <- k + 1
    metric n = norm(g, over = model)
""",
    "a choice that is stored, summed and chosen again": """rule r(lr = 0.1):
    state k: model = 0
    g = grad(w)
    a = where(mod(k, 2) == 1, g, w)
    b = where(mod(k, 3) == 1, a, where(mod(k, 2) == 0, 2 * w, g))
    n = norm(a, over = model)
    s = sum(a * b, over = tensor)
    w <- w - lr * b * s / (1 + n^2) + 0.01 * sin(a)
    k <- k + 1
    metric n = n
    metric most = max(b, over = model)
    metric some = where(any(b > 0.5, over = model), 1, 0)
    metric s = sum(s, over = model)
""",
    "a choice of matrices, and of all cells in one axis": """rule r(lr = 0.1):
    state k: model = 0
    g = grad(w)
    x = where(mod(k, 2) == 1, g, 0.5 * w)
    m = matrix(x)
    y = flip(flat(x), over = all)
    w <- w - lr * back(transpose(m @ transpose(m)) @ m) - 0.1 * back(y, w)
    k <- k + 1
    metric n = norm(g, over = model)
""",
    "turns of a loop, some of which need a gradient": """rule r(lr = 0.1, turns = 5):
    state k: model = 0
    var a = 0.1 * w, b = zeros(w)
    repeat turns as i:
        a <- 0.9 * a
        if mod(k + i, 2) == 1:
            b <- b + a
        else:
            b <- b + grad(w) / 5
    w <- w - lr * b
    w <- w + 0.01 * a
    k <- k + 1
    metric a = norm(a, over = model)
    metric b = norm(b, over = model)
""",
}


def objective(tensors: list[torch.Tensor], step: int, scale: float) -> torch.Tensor:
    total = torch.zeros((), dtype=torch.float64, requires_grad=True) * 1
    for k, x in enumerate(tensors):
        if k not in ABSENT.get(step, ()):
            total = total + (0.5 + 0.3 * k) * (x**2).sum() + 0.1 * torch.sin(2 * x).sum()
    return scale * total


class Gradients:
    """The oracles of the interpreter."""

    def __init__(self, scales: Mapping[int, float]):
        self.step, self.scales = 0, scales

    def gradient(self, name: str, points: Any, data: Any, wrt: str) -> list[Any]:
        with torch.enable_grad():
            leaves = [x.detach().clone().requires_grad_() for x in points[wrt]]
            loss = objective(leaves, self.step, self.scales.get(self.step, 1.0))
            return list(torch.autograd.grad(loss, leaves, allow_unused=True))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("scales", [{}, {0: float("nan"), 5: float("nan")}], ids=["finite", "nan"])
@pytest.mark.parametrize("name", RULES)
def test_it_is_the_step_of_the_interpreter(
    name: str, scales: Mapping[int, float], backend: str
) -> None:
    if scales and "veto" not in name:
        pytest.skip("the rule has no veto")
    graph = driver.graph(Source("rule.opt", RULES[name]), NoLibrary())
    loop = Gradients(scales)
    tensors = Tensors([n for n, _ in start()], [v for _, v in start()])
    numbers = lambda how, stream, call, n: draw(how, 0, stream, call, n, 0)  # noqa: E731
    meaning = Interpreter(graph, tensors, [{}], loop, numbers)  # type: ignore[arg-type]
    params = [(n, torch.nn.Parameter(v)) for n, v in start()]
    values = [p for _, p in params]
    opt = optimizer_class(compiled(RULES[name]))(params, backend=backend)
    for step in range(8):
        loop.step = step
        meaning.step()
        opt.zero_grad()
        objective(values, step, scales.get(step, 1.0)).backward()
        opt.step()
        assert difference(values, meaning.tensors()) < 1e-12, step
        for key, value in meaning.metrics.items():
            assert float(opt.metrics[key]) == pytest.approx(float(value), rel=1e-12), (step, key)
    assert [int(opt.state[p]["step"]) + 1 for p in values] == meaning.t


def _lowest(cells: torch.Tensor) -> torch.Tensor:
    return cells.quantile(0.3)


def _kept(cells: torch.Tensor) -> torch.Tensor:
    return cells.sort(descending=True).values[: cells.numel() * 2 // 3].sum()


def _squares(cells: torch.Tensor) -> torch.Tensor:
    return (cells**2).sum()


REDUCTIONS: dict[str, Any] = {
    "sum(g, over = model)": torch.sum,
    "product(g, over = model)": torch.prod,
    "count(g, over = model)": torch.numel,
    "mean(g, over = model)": torch.mean,
    "mean(mean(g, over = group), over = model)": torch.mean,
    "max(-g, over = model)": lambda cells: (-cells).max(),
    "min(abs(g), over = model)": lambda cells: cells.abs().min(),
    "norm(g, over = model)": torch.norm,
    "dot(g, g, over = model)": _squares,
    "dot(two, two', over = model)[1, 0] / 2": _squares,
    "mean(two, over = model)[0]": torch.mean,
    "where(any(abs(g) < 0.02, over = model), 1, 0)": lambda cells: (cells.abs() < 0.02).any(),
    "where(all(abs(g) > 0.02, over = model), 1, 0)": lambda cells: (cells.abs() > 0.02).all(),
    "quantile(g, 0.3, over = model)": _lowest,
    "quantile(two, 0.3, over = model)[1] / 2": _lowest,
    "quantile(norm(g, over = tensor), 1, over = model)": lambda cells: cells[:10].norm(),
    "sum(top(g - 9, over = model, fraction = 0.667), over = model)": lambda c: _kept(c - 9),
    "sum(top(two - 9, over = model, k = 10), over = model)[0]": lambda c: _kept(c - 9),
    "count(top(g, over = model, k = 2), over = model)": torch.numel,
    "sum(count(g, over = tensor), over = model)": torch.numel,
    "sum(count(g, over = row), over = model)": torch.numel,
    "sum(where(g < 0, 2, 2), over = model)": lambda cells: 2 * cells.numel(),
    "sum(g^0, over = model)": torch.numel,
}
"""What is taken over all cells, and the same of the cells that are there, by torch."""


@pytest.mark.parametrize("expression", REDUCTIONS)
def test_a_reduction_skips_the_cells_that_are_absent(expression: str) -> None:
    text = f"""rule r(lr = 0.1):
    g = grad(w)
    two = g * grid(places, 1, 2, 2)
    found = {expression}
    w <- w - lr * g
    metric found = found
"""
    step = 2
    graph = driver.graph(Source("rule.opt", text), NoLibrary())
    loop = Gradients({})
    loop.step = step
    tensors = Tensors([n for n, _ in start()], [v for _, v in start()])
    meaning = Interpreter(graph, tensors, [{}], loop)  # type: ignore[arg-type]
    meaning.step()
    found = [float(meaning.metrics["found"])]
    for backend in BACKENDS:
        params = [torch.nn.Parameter(v) for _, v in start()]
        opt = optimizer_class(compiled(text))(params, backend=backend)
        objective(params, step, 1.0).backward()
        opt.step()
        found.append(float(opt.metrics["found"]))
    cells = torch.cat([p.grad.flatten() for p in params if p.grad is not None])
    assert cells.numel() == 15
    assert found == pytest.approx([float(REDUCTIONS[expression](cells))] * len(found), rel=1e-12)


def test_what_the_largest_cells_are_taken_of_stays_absent() -> None:
    """Of a tensor without a gradient nothing is written, and it takes no part in the step."""
    text = "rule r(lr = 0.1):\n    w <- 0.5 * w - lr * top(grad(w), over = model, k = 3)\n"
    params = [torch.nn.Parameter(v) for _, v in start()]
    opt = optimizer_class(compiled(text))(params)
    objective(params, 2, 1.0).backward()
    opt.step()
    for k, (p, (_, before)) in enumerate(zip(params, start(), strict=True)):
        assert torch.equal(p, before) is (k in ABSENT[2])
        assert int(opt.state[p]["step"]) == (0 if k in ABSENT[2] else 1)


def test_cells_that_are_all_there_are_not_looked_at() -> None:
    text = """rule r(lr = 0.1):
    n = quantile(abs(w), 0.5, over = model) + mean(w^0, over = model)
    w <- top(w, over = model, k = 3) * n
"""
    nodes = list(postorder(driver.graph(Source("rule.opt", text), NoLibrary()).roots()))
    assert sorted(len(n.inputs) for n in nodes if n.op in ("select", "reduce")) == [1, 2, 2]
    assert not [n for n in nodes if n.op in ("eq", "pow")]


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_largest_cell_of_an_empty_tensor(backend: str) -> None:
    text = """rule r(lr = 0.1):
    state r: row = 0
    g = grad(w)
    r <- r + max(g, over = row)
    w <- w - lr * g / max(abs(g), over = model) + 0 * r
    metric most = max(g, over = model)
    metric each = max(max(g, over = tensor), over = model)
"""
    shapes = ((0, 3), (2, 2), (), (3, 0))
    params = [torch.nn.Parameter(torch.ones(s, dtype=torch.float64)) for s in shapes]
    opt = optimizer_class(compiled(text))(params, backend=backend)
    for p in params:
        p.grad = torch.full_like(p, 3.0)
    opt.step()
    assert float(opt.metrics["most"]) == float(opt.metrics["each"]) == 3
    assert params[1].tolist() == [[0.9, 0.9], [0.9, 0.9]]


@pytest.mark.parametrize(("factor", "refused"), [("lr", True), ("0.9", False)])
def test_what_the_host_does_for_tensors_without_a_gradient_is_not_recorded(
    factor: str, refused: bool
) -> None:
    text = f"""rule r(lr = 0.1):
    state u = ones(w)
    u <- u * {factor}
    w <- w - u * grad(w)
"""
    why = obstacle(compiled(text).plan(()), None)
    assert ("a tensor without a gradient" in why) is refused


def test_a_state_that_has_not_begun_leaves_its_tensor_out() -> None:
    """Its memory is not there, though the numbers drawn for the tensor are."""
    text = """rule r(lr = 0.1):
    state D = abs(hvp(loss, w, w))
    D <- 0.5 * D + 0.5 * abs(hvp(loss, w, w)) * abs(rademacher(w))
    w <- w - lr * grad(w) / (1 + D) * abs(rademacher(w))
"""
    found = []
    for backend in BACKENDS:
        used, late = (torch.nn.Parameter(torch.ones(3, dtype=torch.float64)) for _ in range(2))
        opt = optc.loads(text)([late, used], backend=backend)
        for turn in range(4):
            opt.bind(objective=lambda t=turn, u=used, v=late: (u**2 + (v**4 if t > 1 else 0)).sum())
            opt.step()
            assert ("D" in opt.state[late]) == (turn > 1)
        found.append([used.detach(), late.detach()])
    assert all(map(torch.allclose, found[0], found[-1])) and not torch.equal(*found[0])


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_gradient_may_be_absent_at_one_point_and_there_at_another(backend: str) -> None:
    """What needs one of them alone is written where the other is absent."""
    text = """rule r(lr = 0.1):
    state m = zeros(w)
    s = lr * grad(w)
    far = grad(w + 1)
    m <- m + s
    if loss(w - s) <= loss(w):
        w <- w - s
    else:
        w <- w - far - m
"""
    used, near = (torch.nn.Parameter(torch.ones(2, dtype=torch.float64)) for _ in range(2))
    opt = optc.loads(text)([used, near], backend=backend)
    opt.bind(objective=lambda: (used**2).sum() + ((near**2).sum() if used[0] < 1.5 else 0))
    opt.step()
    for p in (used, near):
        assert torch.allclose(p, torch.full_like(p, 0.8))
        assert torch.allclose(opt.state[p]["m"], torch.full_like(p, 0.2))
