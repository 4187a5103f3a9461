"""Rules that join what seldom meets: every backend means what the interpreter means."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import optc
from optc.compiler import driver
from optc.compiler.check import check_file
from optc.compiler.source import CompileError, Source
from optc.plugins.registry import library
from optc.runtime import native
from optc.runtime.capture import obstacle
from optc.runtime.functional import Step
from optc.runtime.optimizer import optimizer_class

from .rich import STEPS, Problem, batch, graph, interpreted, losses, optimized

BOUND = 1e-9
RULES = {
    "draws for rows with an axis": """
        z = normal(norm(grad(w), over = row), probes(3))
        w <- w - lr * mean(z * normal(w, probes(3)), over = probes)""",
    "draws for columns with an axis": """
        z = normal(norm(w, over = column), probes(3))
        w <- w - lr * sum(z, over = model)[0] * mean(grad(w + z), over = probes)""",
    "a number chosen for all cells": """
        g = grad(w)
        a = norm(where(call % 3 == 0, numel, g), over = model)
        w <- w - lr * g * a / (1 + a)""",
    "a draw like an option": """
        w <- w - lr * grad(w) * uniform(lr) - 0.1 * mean(normal(lr, probes(2)), over = probes)""",
    "draws for a state of rows": """
        state s: row[probes(3)] = 0
        s <- s + uniform(s)
        w <- w - lr * s[0]""",
    "truth values as numbers": """
        g = grad(w)
        a = (w > 0) + (g > 0) - (w > g)
        b = grad(p -> sum(where(p > 0, 3, p - p * 2), over = model), w)
        w <- w + lr * g * -(a > 0) - lr * abs(w < g) * b
        metric both = sum((w > 0) + (w > 0.1), over = model)""",
    "a function of a size alone": """
        loss residual: model[residuals]
        metric places = size(residuals)
        metric root = sqrt(size(residuals))
        w <- w - lr * sqrt(size(residuals)) * sum(grad(residual, w), over = residuals) / 9""",
    "functions of the size of a batch": """
        n = size(examples)
        J = grad(w, on = each(batch))
        a = min(n, 3) * (n % 4) * (n // 2) * round(n / 5) * exp(-n) * (n > 3)
        w <- w - lr * a * mean(J, over = examples) - lr / sqrt(n)""",
    "sizes of the sides of matrices": """
        x = matrix(w)
        s = sqrt(size(short)) + size(long) + size(rows) * size(cols) + size(all)
        w <- w - lr * s * grad(w) / 1000""",
    "metrics of options": """
        metric root = sqrt(lr)
        metric rate = lr
        metric scaled = lr * norm(w, over = model)
        metric count = 2
        step lr""",
    "a loop that keeps the point of the turn before": """
        var u = w, v = 0 * w
        repeat turns:
            x = 0.5 * u + 0.1 * sin(u)
            v <- v + norm(x, over = model) * u
            u <- x
        w <- w - lr * tanh(v + u)""",
    "a loop that asks between its turns": """
        var u = w, v = 0 * w
        repeat turns:
            before = u
            u <- u - 0.1 * grad(u)
            v <- v + grad(u) * before * cos(before)
        w <- w - lr * tanh(v + u)""",
    "a loop that is left in a turn": """
        var u = w, a = 3
        repeat turns until a < 2:
            u <- u - lr * tanh(a)
            a <- a - 1
        w <- u""",
    "a loop that tensors leave by a selection": """
        g = grad(w)
        var v = g
        repeat turns until dot(v, g, over = model) < top(w, over = model, fraction = 0.5):
            v <- min(0.001, w)
        w <- w - lr * v""",
    "a loop that cells leave one by one, with a number": """
        var a = 1.0
        repeat turns until w * a < 0.05:
            a <- a / 2
        w <- w - lr * a * grad(w)""",
    "a loop that places of an axis leave one by one": """
        z = normal(w, probes(3))
        var a = w
        repeat turns until sum(z, over = model) > 0:
            a <- a / 2
        w <- w - lr * sum(a, over = probes)""",
    "a loop that rows leave one by one, with what they count": """
        for params where ndim == 2:
            var a = 0.0, b = 0
            repeat 6 until norm(w, over = row) * a > 0.5:
                a <- a + b + 0.2
                b <- b + 0.1
            w <- w - lr * a * b
        other:
            step lr""",
    "a loop whose numbers become finer in turn": """
        var a = 0, b = 0, c = 0
        repeat turns:
            a <- a + b
            b <- b + c
            c <- c + w
        w <- w - lr * tanh(a)""",
    "a restore that an option counts": """
        snapshot when call % 2 == 1
        restore turns / 2 when call % 5 == 0
        w <- w - lr * grad(w)""",
    "restores from different depths": """
        state k: model = 1
        snapshot when call % 2 == 0
        restore 2 when call % 5 == 0
        restore 1 when call % 7 == 0
        k <- k + 1
        w <- w - lr * grad(w) * k""",
    "metrics of tensors, of cells, and of what holds": """
        g = grad(w)
        metric norms = norm(g, over = tensor)
        metric many = count(g, over = tensor)
        metric some = any(g > 0, over = tensor)
        metric holds = g > 0
        metric none = zeros(w)
        metric own = t
        step lr""",
    "metrics within and behind a block": """
        for params where ndim == 1:
            metric point = w
            metric slope = grad(w)
            step lr
            metric moved = w
        other:
            step lr / 2
        metric all = w
        metric twice = 2 * w""",
    "as many ones as there are singular values": """
        u, s, v = svd(matrix(w))
        w <- w - lr * sum(s^0, over = singular) * back(u * (1 + zeros(s)) @ v)""",
    "an option among arrays of the model": """
        loss residual: model[residuals]
        state s: model[window(2)] = 1
        J = grad(residual, w)
        x = 0 * residual(w)
        C = dot(J, J', over = model)
        r = x + 0.25
        a, b = sparse_newton_step(x, x', C, r, r'; eta = 5 * lr, kept = turns)
        s[0] <- lr * sum(a, over = sources) + turns
        w <- w - lr * w * (s[0] + sum(b, over = sinks))""",
    "steps with state in a loop that a run ends": """
        repeat turns until norm(w, over = model) < 1:
            clip global_norm(1.0)
            smooth momentum(0.9)
            precondition adam()
            step lr / 10""",
    "steps with state in a loop of an option": """
        repeat turns:
            precondition adam()
            step lr""",
    "a line search that begins with an option": """
        g = grad(w)
        var a = 10 * lr
        repeat 8 until loss(w - a * g) < loss(w) - 1e-4 * a * dot(g, g, over = model):
            a <- a / 2
        w <- w - a * g""",
    "options that loops within loops carry for the model": """
        var a = lr
        state s: model = 0
        repeat turns until a < 0.02:
            var b = w
            repeat 40 until norm(b, over = model) < 1 + a:
                b <- b * 0.9
            a <- a * 0.5
            s <- s + a
            w <- w - a * b * s""",
    "reductions of what the host knows": """
        most = top(place, over = tensor, fraction = 0.5)
        w <- w - lr * grad(w) * norm(turns, over = model) * most""",
    "metrics of slots before they are written": """
        state s: model = 0, v = zeros(w)
        metric number = s
        metric column = v
        metric point = w
        s <- s + 1
        v <- v + w
        step lr""",
    "snapshots hold what was there before the step, with the clocks": """
        state m = zeros(w), n: model = 0
        snapshot when call % 3 == 1
        restore 2 when call % 4 == 0
        m <- 0.9 * m + grad(w)
        always n <- n + 1
        w <- w - lr * m / t / steps - 0.01 * n""",
    "a restore that looks at the point": """
        state m = zeros(w), n: model = 0
        snapshot when call % 2 == 1
        restore 1 when norm(w, over = model) > 1.7
        veto when call % 5 == 0
        m <- 0.9 * m + grad(w)
        always n <- n + norm(w, over = model)
        w <- w + lr * m / t / steps - 0.01 * n""",
    "products along vectors in a block": """
        g = grad(w)
        for params where rows > 2:
            w <- w - lr * tanh(jvp(loss, w, g) * hvp(loss, w, g)) - lr * back(wide(g))
        other:
            step lr""",
}


def agree(found: Any, wanted: Any) -> bool:
    """Whether a metric is the same value, or the same list of values."""
    if isinstance(wanted, list):
        return isinstance(found, list) and all(map(agree, found, wanted))
    alike = isinstance(found, Tensor) and (found.dtype, found.shape) == (wanted.dtype, wanted.shape)
    return alike and torch.allclose(found.double(), wanted.double(), rtol=BOUND)


@pytest.mark.parametrize("name", RULES)
def test_the_meaning_is_one(name: str) -> None:
    rule = graph(RULES[name])
    wanted, metrics = interpreted(rule)
    size = max(float(x.abs().max()) for x in wanted)
    assert size < 1e6
    for backend in ("eager", "c") if native.compiler() else ("eager",):
        found, reported = optimized(rule, backend)
        gap = max(float((a - b).abs().max()) for a, b in zip(found, wanted, strict=True))
        assert gap < BOUND * size, backend
        assert reported.keys() == metrics.keys()
        assert all(agree(reported[k], metrics[k]) for k in metrics), (backend, reported, metrics)


@pytest.mark.parametrize(
    "name",
    [
        "draws for columns with an axis",
        "restores from different depths",
        "metrics within and behind a block",
        "options that loops within loops carry for the model",
        "steps with state in a loop that a run ends",
    ],
)
def test_a_pure_step_means_the_same(name: str) -> None:
    rule = graph(RULES[name])
    wanted, metrics = interpreted(rule)
    take, w = Step(driver.program(rule)), Problem().values()
    state, reported = take.init(w), {}
    for k in range(STEPS):
        data = batch(k)
        w, state, reported = take(w, state, loss=lambda point, x=data: losses(point, x)["loss"])
    assert max(float((a - b).abs().max()) for a, b in zip(w, wanted, strict=True)) < BOUND
    assert all(agree(reported[k], metrics[k]) for k in metrics)


@pytest.mark.parametrize("reach, places", [("row", 3), ("column", 4), ("tensor", 1)])
def test_each_place_of_a_reach_has_a_number_of_its_own(reach: str, places: int) -> None:
    moved = interpreted(graph(f"w <- normal(norm(w, over = {reach}))"))[0][0]
    assert moved.shape == (3, 4) and len(torch.unique(moved)) == places


def test_a_metric_of_options_is_a_number_for_each_group() -> None:
    model = Problem()
    rule = graph("metric rate = 2 * lr\nstep lr")
    made = optimizer_class(driver.program(rule))
    first, *others = model.parameters()
    for groups, wanted in (
        ([first, *others], 0.2),
        ([{"params": [first]}, {"params": others, "lr": 0.5}], [0.2, 1.0]),
    ):
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        opt = made(groups)
        opt.step()
        found = opt.metrics["rate"]
        assert (list(map(float, found)) if isinstance(wanted, list) else float(found)) == wanted


def test_a_primitive_is_checked_whatever_its_options_require() -> None:
    options = "a: unit, b: unit_pair, c: pair, d: boolean, e: function, f: count"
    result = "where(d, g * a + b[0], e(g) * c[1]) + f"
    text = f"precondition own(g; {options}):\n    return {result}\n"
    (probe,) = check_file(driver.tree(Source("own.opt", text)), library())
    assert "w" in probe.writes


def test_what_is_flat_in_a_block_is_the_part_that_is_there() -> None:
    routed = """
        g = grad(w)
        for params where ndim == 1:
            w <- w - lr * {}
        other:
            step lr"""
    for backend in (interpreted, lambda rule: optimized(rule, "eager")):
        one, two = (backend(graph(routed.format(x)))[0] for x in ("back(flat(g))", "g"))
        assert all(map(torch.equal, one, two))


def test_options_that_count_are_whole() -> None:
    text = """
rule r(n = 2, m = 3):
    z = normal(w, probes(n))
    repeat m / 2:
        w <- w - 0.1 * sum(z, over = probes)
"""
    rule = driver.graph(Source("odd.opt", text), library())
    made = optimizer_class(driver.program(rule))
    params = Problem().values()
    for wrong in (2.5, 0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="Invalid n: it must be an integer of at least 1"):
            made(params, n=wrong)
    opt = made(params, m=4)
    opt.step()
    opt.param_groups[0]["m"] = 3
    with pytest.raises(ValueError, match="Invalid number of turns: a whole number from 0 to"):
        opt.step()
    opt.param_groups[0].update(m=2, n=1.5)
    with pytest.raises(ValueError, match="Invalid size of an axis: a whole number from 1 to"):
        opt.step()


def test_groups_agree_on_what_counts() -> None:
    made = optimizer_class(driver.program(graph("repeat turns:\n    w <- w - lr * grad(w)")))
    first, *others = Problem().parameters()
    opt = made([{"params": [first]}, {"params": others, "turns": 7}])
    for p in (first, *others):
        p.grad = torch.ones_like(p)
    with pytest.raises(ValueError, match="the groups must agree on 'turns'"):
        opt.step()


@pytest.mark.parametrize(
    "body, kept",
    [
        ("restore 2 when call == 40\nrestore 1 + 2 when call == 50", 3),
        ("", 0),
        ("restore turns when call == 40", 7),
    ],
)
def test_no_more_snapshots_are_kept_than_are_gone_back_to(body: str, kept: int) -> None:
    rule = graph(f"snapshot when call > 2\n{body}\nw <- w - lr")
    opt = optimizer_class(driver.program(rule))(Problem().parameters())
    for _ in range(9):
        opt.step()
    assert len(opt._snapshots) == kept


def test_what_is_wrong_in_a_library_points_to_the_line_that_called_it() -> None:
    with pytest.raises(CompileError) as found:
        graph("smooth momentum(momentum)\nstep lr")
    first = found.value.diagnostics[0]
    assert (first.span.source.path, first.span.row) == ("odd.opt", 2)
    assert first.met is not None and first.met.source.path.endswith("momentum.opt")
    assert "met in" in str(first) and first.as_dict()["met"]


def test_kernels_in_loops_are_not_recorded() -> None:
    rule = driver.program(graph(RULES["a loop that asks between its turns"]))
    assert "a kernel in a loop" in obstacle(rule.plan(()), None)


OF_INPUT = """function spread(g: model[tasks, kinds]):
    z = rademacher(g, probes(4))
    return mean(sum(z * g, over = kinds)^2, over = (probes, tasks))

rule r():
    input g: model[domains, classes]
    metric found = spread(g)
    metric own = sum(rademacher(g)^2, over = (domains, classes))
    w <- w - sum(uniform(w, domains), over = domains)
"""


@pytest.mark.parametrize("backend", ["eager", "auto"])
def test_draws_have_the_places_of_an_input(backend: str) -> None:
    """Those that the loop supplies, under the names of a function too."""
    w = torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))
    w.grad = torch.zeros_like(w)
    opt = optc.loads(OF_INPUT)([w], backend=backend)
    opt.supply(g=torch.full((5, 3), 2.0, dtype=torch.float64))
    opt.step()
    assert float(opt.metrics["own"]) == 15
    assert 0 <= float(opt.metrics["found"]) <= 36
    assert bool((w < 0).all()) and bool((w > -5).all())
