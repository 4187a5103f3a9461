"""What is read off a graph: what the loop offers, evaluations, state, the least bytes, locality."""

from __future__ import annotations

from fractions import Fraction

import pytest

from optc.compiler import driver
from optc.compiler.analysis import Cost, cost
from optc.compiler.emit.traffic import by_leaf
from optc.compiler.explain import legal, sheet
from optc.compiler.ir import Graph
from optc.compiler.source import Source
from optc.plugins.registry import library

from ..runtime.rules import RULES


def graph(body: str) -> Graph:
    text = "rule r(lr = 0.1, k = 10):\n" + "".join(f"    {line}\n" for line in body.splitlines())
    return driver.graph(Source("r.opt", text if "rule " not in body else body), library())


def found(body: str) -> Cost:
    return cost(graph(body))


LEVELS = {
    "step lr": "gradients",
    "g = grad(w)\nw <- w - lr * g / norm(g, over = model)": "gradients",
    "perturb sam()\nstep lr": "closure",
    "w <- w - lr * grad(w)\nw <- w - lr * grad(w)": "closure",
    "state old = w\nw <- w - lr * grad(old)": "closure",
    "metric f = loss(w)\nstep lr": "closure",
    "var x = w\nrepeat 40:\n    x <- x - lr * grad(x)\nw <- x": "closure",
    "state g0 = grad(w + 1)\nw <- w - lr * g0": "closure",
    "w <- w - lr * hvp(loss, w, w)": "objective",
    "loss a, b\nw <- w - lr * (grad[w](a) + grad[w](b))": "objective",
    "w <- w - lr * grad(w, on = draw(large))": "objective",
    "w <- w - lr * grad(w, seed = 7)": "objective",
    "parts = split(batch, 4)\nw <- w - lr * mean(grad(w, on = parts), over = micro)": "objective",
    "oracle score(x): element\nw <- w - lr * score(w)": "objective",
}


@pytest.mark.parametrize("body", LEVELS)
def test_what_the_loop_must_offer(body: str) -> None:
    assert found(body).level == LEVELS[body]


EVALUATIONS: dict[str, dict[str, object]] = {
    "step lr": {"gradient": 1},
    "w <- w - lr * grad(w) * loss(w)": {"gradient": 1},
    "perturb sam()\nstep lr": {"gradient": 2},
    "state h = zeros(w)\nevery k:\n    h <- hvp(loss, w, w)\nw <- w - lr * h * grad(w)": {
        "gradient": 1,
        "hvp": Fraction(1, 10),
    },
    "state h = zeros(w)\nevery 4:\n    h <- grad(w + 1)\nelse:\n    h <- loss(w + 2)\nw <- w - h": {
        "gradient": Fraction(1, 4),
        "loss value": Fraction(3, 4),
    },
    "z = normal(w, probes(8))\nw <- w - sum(loss(w + z) * z, over = probes)": {"loss value": 8},
    "loss a, b\nw <- w - grad[w](a) - grad[w](a, w = w + 1) - grad[w](b)": {
        "gradient of a": 2,
        "gradient of b": 1,
    },
    "var x = w\nrepeat 40:\n    x <- x - lr * grad(x)\nw <- x": {"gradient": 40},
}


@pytest.mark.parametrize("body", EVALUATIONS)
def test_evaluations_are_counted_by_point(body: str) -> None:
    assert found(body).evaluations == EVALUATIONS[body]


def test_a_loop_that_may_stop_asks_at_most() -> None:
    sheet_of = found(
        "g = grad(w)\nf = loss(w)\nvar a = 1.0\nrepeat 20 until loss(w - a * g) < f:\n"
        "    a <- a / 2\nw <- w - a * g"
    )
    assert sheet_of.evaluations == {"gradient": 1, "loss value": 20}
    assert sheet_of.bounded == {"loss value"}


LEAST = {
    "step lr": 12,
    "smooth momentum(0.9)\nstep lr": 20,
    "precondition adam()\nstep lr": 28,
    "clip global_norm()\nstep lr": 16,
    "clip global_norm()\nprecondition adam()\nstep lr": 32,
    "step lr\nproject ball()": 20,
    "perturb sam()\nstep lr": 28,
    "w <- w - lr * normal(w)": 8,
    # the new moments are read again behind the norm: cheaper than a direction that is stored
    "precondition adam()\nn = norm(d, over = model)\nw <- w - lr * d / n": 36,
}


@pytest.mark.parametrize("body", LEAST)
def test_the_least_bytes_of_a_parameter(body: str) -> None:
    assert found(body).least == {"w": LEAST[body]}


PLAIN = [n for n in RULES if n not in ("newton_schulz", "search", "retry", "population")]


@pytest.mark.parametrize("name", PLAIN)
def test_the_emitted_code_moves_no_less(name: str) -> None:
    made = graph(RULES[name])
    compiled = driver.program(made)
    moved = by_leaf(compiled, compiled.plan((True,) * len(compiled.conditions.names)))
    assert all(cost(made).least[leaf] <= moved[leaf] for leaf in moved)


ROUTED = """for params where ndim == 2:
    smooth momentum(0.9)
    step lr
for other params:
    precondition adam()
    step lr"""


def test_each_part_of_a_model_has_its_own_bytes() -> None:
    sheet_of = found(ROUTED)
    assert sheet_of.state == {"w|0": 4, "w|1": 8}
    assert sheet_of.least == {"w|0": 20, "w|1": 28}
    shown = sheet(graph(ROUTED))
    assert "state (params where ndim == 2)" in shown and "state (other params)" in shown


LOCALITY = {
    "step lr": "element",
    "z = normal(w, probes(3))\nw <- w - lr * sum(z, over = probes)": "element",
    "w <- w - lr * grad(w) / norm(grad(w), over = tensor)": "tensor",
    "w <- w - lr * grad(w) / norm(grad(w), over = row)": "tensor",
    "w <- w - lr * grad(w) / norm(grad(w), over = group)": "group",
    "clip global_norm()\nstep lr": "model",
}


@pytest.mark.parametrize("body", LOCALITY)
def test_how_far_cells_depend_on_each_other(body: str) -> None:
    sheet_of = found(body)
    assert sheet_of.locality == LOCALITY[body]
    inside, captured, sharded = (why for _, why in legal(sheet_of))
    assert (inside == "yes") == (LOCALITY[body] in ("element", "tensor"))
    assert captured == "yes"
    assert (sharded == "yes") == (LOCALITY[body] == "element")


def test_what_the_loop_supplies_by_name() -> None:
    body = "loss train, val\noracle score(x): element\ninput warmth\n"
    body += "w <- w - lr * warmth * (grad[w](train) + grad[w](val) + score(w))"
    assert found(body).asks == ("train", "val", "score", "warmth")


def test_coarse_state_is_named() -> None:
    assert found("state n: model = 0\nn <- n + 1\nw <- w - n").coarse == ("n: model",)


def test_the_price_of_a_point_and_of_the_guard_is_told() -> None:
    plain, sharp = sheet(graph("step lr")), sheet(graph("perturb sam()\nstep lr"))
    assert "a point beside the parameters" not in plain and "4 more bytes a parameter" in plain
    assert "a point beside the parameters" in sharp
    assert found("clip global_norm()\nstep lr").guard.startswith("free")
    assert found("z = normal(w)\nw <- w - lr * z * loss(w + z)").guard.startswith("free")
    curved = "w <- w - lr * hvp(loss, w, w) - lr * grad(w)"
    assert found(curved).guard.startswith("8 more bytes a parameter")
    each = "w <- w - lr * mean(grad(w, on = each(batch)), over = examples)"
    assert "place of examples" in found(each).guard
    assert found("w <- w - lr * w").guard == ""
