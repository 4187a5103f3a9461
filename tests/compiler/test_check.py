"""Wrong rules: the code, the place and the help of each, several at once, never a traceback."""

from __future__ import annotations

import pytest

from optc.compiler import driver
from optc.compiler.check import check_file
from optc.compiler.codes import CODES, explain
from optc.compiler.parse import parse
from optc.compiler.source import CompileError, Source
from optc.plugins.registry import library

HEAD = "rule r(lr = 0.1, betas = (0.9, 0.99)):\n"

WRONG = {
    "misspelt primitive": ("    precondition adm()\n    step lr\n", "E201", 2, 18, "adam"),
    "another kind": ("    clip adam()\n    step lr\n", "E217", 2, 10, "precondition"),
    "misspelt option": (
        "    precondition adam(epz = 1)\n    step lr\n",
        "E203",
        2,
        23,
        "eps",
    ),
    "unknown name": ("    w <- w - lr * gg\n", "E201", 2, 19, "bound here: "),
    "bound in a block that has ended": (
        "    if lr > 1:\n        qq = 2\n    else:\n        k = 3\n    step lr * qq\n",
        "E201",
        6,
        15,
        "the block of line 2 binds `qq`, and ends with it",
    ),
    "bound in a turn that has ended": (
        "    every 3:\n        repeat 40:\n            z = 2 * lr\n    step lr * z\n",
        "E201",
        5,
        15,
        "the block of line 3 binds `z`",
    ),
    "bound for some tensors": (
        "    for params where ndim == 2:\n        a = 2\n        step a * lr\n"
        "    other:\n        step a\n",
        "E201",
        6,
        14,
        "the block of line 2 binds `a`",
    ),
    "a draw of other axes": (
        "    state P: tensor[rows, rank(2)] = 0\n    P <- normal(w, rank(2))\n    step lr\n",
        "E304",
        3,
        5,
        "`normal(P)` draws a number for each place of `P`",
    ),
    "a draw of other axes at first": (
        "    state P: tensor[rows, rank(2)] = normal(w, rank(2))\n    step lr\n",
        "E304",
        2,
        11,
        "begin with 0, and below write `P <- normal(P)` where `t == 1`",
    ),
    "a first value that is finer": (
        "    state P: model = 2 * w\n    step lr * P\n",
        "E304",
        2,
        11,
        "declare it with `: element`",
    ),
    "undeclared slot": ("    m <- m + 1\n", "E201", 2, 10, "declared: `state m = zeros(w)`"),
    "module": ("    w <- torch.sign(w)\n", "E201", 2, 10, "stand without a module"),
    "no over": ("    n = norm(grad(w))\n    step n\n", "E207", 2, 9, "over = model"),
    "wrong over": ("    n = sum(grad(w), over = losses)\n    step n\n", "E308", 2, 22, ""),
    "over the tensor that it is of": (
        "    n = norm(matrix(grad(w)), over = tensor)\n    step lr\n",
        "E308",
        2,
        31,
        "is one for each tensor already; name its axes: `over = (rows, cols)`",
    ),
    "over the tensor, by axes of another name": (
        "    state P: tensor[rows, rows'] = 0\n    step max(P, over = tensor)\n",
        "E308",
        3,
        17,
        "`over = (rows, rows')`",
    ),
    "the inner product of matrices over their tensor": (
        "    m = matrix(grad(w))\n    step dot(m, m, over = tensor)\n",
        "E308",
        3,
        20,
        "`over = (rows, cols)`",
    ),
    "a reach among axes": (
        "    n = sum(w, over = (model, row))\n    step n\n",
        "E308",
        2,
        16,
        "`model` is a reach, and cannot stand among axes",
    ),
    "a value that goes nowhere": (
        "    n = norm(w, w, over = model)\n    step n\n",
        "E205",
        2,
        17,
        "`norm(x, over)` has no place for this",
    ),
    "a second value to reduce": (
        "    n = max(w, over = model, 3)\n    step n\n",
        "E205",
        2,
        9,
        "two values or more, or one and `over`",
    ),
    "no value to reduce": (
        "    n = max(over = model)\n    step n\n",
        "E205",
        2,
        9,
        "two values or more, or one and `over`",
    ),
    "a word that max does not know": (
        "    n = max(w, axis = row)\n    step n\n",
        "E203",
        2,
        16,
        "`over = row`",
    ),
    "a word that patterns do not know": (
        '    step lr * named("*a", by = 2)\n',
        "E203",
        2,
        27,
        "`named` has no argument `by`",
    ),
    "a second point of the loss": (
        "    step lr * loss(w, w + 1)\n",
        "E205",
        2,
        23,
        "a second one for `w`",
    ),
    "a second point of the loss, by name": (
        "    step lr * loss(w, w = 2 * w)\n",
        "E205",
        2,
        23,
        "a second one for `w`",
    ),
    "a second point of the gradient": (
        "    w <- w - lr * grad(w, w + 1)\n",
        "E205",
        2,
        27,
        "a second one for `w`",
    ),
    "a second point of a loss's gradient": (
        "    w <- w - lr * grad(loss, w, w + 1)\n",
        "E205",
        2,
        33,
        "a second one for `w`",
    ),
    "a second point of a function's gradient": (
        "    f = p -> sum(p^2, over = model)\n    w <- grad(f, w, w)\n",
        "E205",
        3,
        21,
        "`grad` takes a function and a point",
    ),
    "a second point of a jacobian": (
        "    f = p -> sum(p^2, over = model)\n    w <- jacobian(f, w, w)\n",
        "E205",
        3,
        25,
        "`jacobian` takes a function and a point",
    ),
    "no vector": (
        "    w <- hvp(loss)\n",
        "E205",
        2,
        10,
        "where the target stands, `hvp(loss, v)`",
    ),
    "no function": (
        "    w <- hvp(w, grad(w))\n",
        "E205",
        2,
        10,
        "`hvp(loss, w, v)`",
    ),
    "two vectors": (
        "    step jvp(loss, w, w, w)\n",
        "E205",
        2,
        10,
        "a function, a point and a vector",
    ),
    "the name of an argument of `->`": (
        "    f = p -> p^2\n    w <- f(p = w)\n",
        "E203",
        3,
        12,
        "by place",
    ),
    "data for a loss that is written": (
        "    loss train\n    loss = p -> train(p) + sum(p^2, over = model)\n"
        "    w <- w - lr * grad(w, on = draw(val))\n",
        "E203",
        4,
        19,
        "which `on` is not in; say it in the function",
    ),
    "data for a gradient that is made": (
        "    perturb sam()\n    w <- grad(w, on = batch)\n",
        "E203",
        3,
        18,
        "`sam` as a function takes a point alone, not `on`",
    ),
    "an axis that is a number": (
        "    w <- w * ones(w, 3)\n",
        "E308",
        2,
        22,
        "the name of an axis",
    ),
    "a probability of two": (
        "    if coin(2):\n        step lr\n",
        "E309",
        2,
        8,
        "from 0 to 1, not 2",
    ),
    "one more for an oracle": (
        "    oracle f(x): model\n    step f(w, w)\n",
        "E205",
        3,
        15,
        "`f(x)` has no place for this",
    ),
    "an input that an oracle has not": (
        "    oracle f(x): model\n    step f(w, y = w)\n",
        "E203",
        3,
        15,
        "known here: x",
    ),
    "finer than the slot": (
        "    state s: model = 0\n    s <- grad(w)\n    step lr\n",
        "E304",
        3,
        5,
        "element",
    ),
    "guarded by cells": (
        "    state n: model = 0\n    if grad(w) > 1:\n        n <- n + 1\n    step n\n",
        "E304",
        3,
        8,
        "any(.., over = model)",
    ),
    "wrong slice": (
        "    state C: element[window(4)] = 0, K: model[window, window'] = 0\n"
        "    K[0, :] <- grad(w)\n    step lr\n",
        "E304",
        3,
        5,
        "",
    ),
    "no slot": ("    x = 1\n    x <- 2\n    step lr\n", "E212", 3, 5, "state x"),
    "bound twice": ("    x = 1\n    x = 2\n    step lr\n", "E213", 3, 5, "once"),
    "finer than what it chooses from": (
        "    C = ones(0, window(4))\n    step C[ndim]\n",
        "E303",
        3,
        12,
        "over = model",
    ),
    "out of the tuple": ("    step betas[2]\n", "E303", 2, 10, "0 to 1"),
    "too late": (
        "    clip global_norm()\n    perturb sam()\n    step lr\n",
        "E211",
        3,
        5,
        "first",
    ),
    "state at several points": (
        "    smooth momentum()\n    g = grad(w)\n    step lr\n    veto when g > 1\n",
        "E313",
        5,
        5,
        "any",
    ),
    "option out of bounds": (
        "    clip global_norm(max = -1)\n    step lr\n",
        "E208",
        2,
        22,
        "positive",
    ),
    "too many turns": ("    repeat 10^9:\n        w <- w\n    step lr\n", "E309", 2, 12, ""),
    "routed by the device": (
        "    for params where norm(w, over = tensor) > 1:\n        step lr\n",
        "E315",
        2,
        22,
        "named",
    ),
    "nothing happens": ("    g = grad(w)\n", "E219", 1, 1, "step lr"),
    "a direction that nothing takes": (
        "    precondition adam()\n",
        "E219",
        1,
        1,
        "it writes no target",
    ),
    "a rule that returns": ("    return grad(w)\n", "E214", 2, 5, "step lr"),
    "the gradient of a number": (
        "    w <- w - lr * grad(loss(w))\n",
        "E306",
        2,
        24,
        "the gradient of the loss is `grad(w)`",
    ),
    "a matrix for a tensor": (
        "    g = matrix(grad(w))\n    w <- w - lr * g\n",
        "E304",
        3,
        5,
        "`back(x)` puts",
    ),
    "a rule of the same name": (
        "    step lr\nrule r(lr = 0.1):\n    step lr\n",
        "E106",
        3,
        1,
        "the first one is in line 1",
    ),
    "no matrix": (
        "    g = grad(w)\n    step lr * sum(g @ g, over = model)\n",
        "E311",
        3,
        19,
        "matrix",
    ),
    "not a number": ("    step loss\n", "E302", 2, 10, "call it"),
}


@pytest.mark.parametrize("name", WRONG)
def test_each_mistake_has_its_place_and_help(name: str) -> None:
    body, code, row, column, words = WRONG[name]
    with pytest.raises(CompileError) as caught:
        check_file(parse(Source("r.opt", HEAD + body)), library())
    first = caught.value.diagnostics[0]
    at = (first.code, first.span.row, first.span.column)
    assert at == (code, row, column), str(first)
    assert words in f"{first.message}; {first.help}", str(first)


def test_an_option_is_not_called_as_what_every_group_has() -> None:
    """The counter of steps would overwrite it."""
    with pytest.raises(CompileError) as caught:
        check_file(parse(Source("r.opt", "rule r(lr = 0.1, steps = 3):\n    step lr\n")), library())
    first = caught.value.diagnostics[0]
    assert (first.code, first.span.row, first.span.column) == ("E220", 1, 18)


def test_several_mistakes_are_told_at_once() -> None:
    text = HEAD + "    precondition adm()\n    w <- w - lr * gg\n    x = norm(w)\n    step lr\n"
    with pytest.raises(CompileError) as caught:
        check_file(parse(Source("r.opt", text)), library())
    assert [d.code for d in caught.value.diagnostics] == ["E201", "E201", "E207"]
    assert str(caught.value).count("^") >= 3


def test_a_mistake_brings_no_second_message() -> None:
    text = HEAD + "    x = nothing\n    y = x + 1\n    step y\n"
    with pytest.raises(CompileError) as caught:
        check_file(parse(Source("r.opt", text)), library())
    assert len(caught.value.diagnostics) == 1


@pytest.mark.parametrize(
    "body",
    [
        "    repeat 32:\n        repeat 32:\n            repeat 32:\n"
        "                w <- w - lr * w\n",
        "    f = x -> f(x)\n    step f(1)\n",
        "    state C: element[window(10^9)] = 0\n    step lr\n",
        "    z = normal(w, probes(10^9))\n    w <- w - sum(z, over = probes)\n",
    ],
)
def test_nothing_grows_without_bound(body: str) -> None:
    with pytest.raises(CompileError):
        check_file(parse(Source("r.opt", HEAD + body)), library())


def test_functions_that_call_each_other_end() -> None:
    text = "function f(x;):\n    return f(x)\nrule r(lr = 0.1):\n    step lr * f(1)\n"
    with pytest.raises(CompileError) as caught:
        check_file(parse(Source("r.opt", text)), library())
    assert caught.value.diagnostics[0].code == "E209"


def test_every_code_that_is_used_is_explained() -> None:
    import re
    from pathlib import Path

    root = Path(__file__).parents[2]
    used = {
        code
        for folder in ("compiler", "plugins", "cli")
        for path in (root / folder).rglob("*.py")
        for code in re.findall(r'"(E\d{3})"', path.read_text(encoding="utf-8"))
    }
    assert used == set(CODES)
    assert all(explain(code).startswith(code) for code in CODES)


@pytest.mark.parametrize(
    "body",
    ["if steps > 3:\n        return g\n    return 2 * g", "return g\n    return 2 * g"],
)
def test_a_primitive_returns_once_at_its_end(body: str) -> None:
    text = f"smooth a(g):\n    {body}\n\nrule r():\n    smooth a()\n    step 1\n"
    with pytest.raises(CompileError, match="returns once"):
        check_file(parse(Source("test.opt", text)), library())


def test_an_option_inside_a_vector_loss_is_one_of_the_model() -> None:
    """The derivative hands it to the oracle, which is one for all groups: they must agree."""
    text = (
        "rule r(lr = 0.1, alpha = 2.0):\n    loss outputs: model[examples]\n"
        "    loss = p -> mean((alpha * outputs(p) - 1)^2, over = examples)\n    step lr\n"
    )
    check_file(parse(Source("r.opt", text)), library())


def test_what_the_host_supplies_gets_its_inputs_in_their_order() -> None:
    head = "extern f(a, b; tol = 1) -> model\n\nrule r(lr = 0.1):\n    step lr * "
    for call in ("f(1, 2)", "f(b = 2, a = 1)", "f(1, b = 2)", "f(tol = 3, b = 2, a = 1)"):
        made = driver.graph(Source("r.opt", f"{head}{call}\n"), library())
        (node,) = [n for n in made.nodes.values() if n.op == "extern"]
        assert [n["value"] for n in node.inputs] == [1, 2, 3][: len(node.inputs)]
        assert len(node.inputs) == 2 + ("tol" in call)
    for call in ("f(1)", "f(1, 2, 3, 4)", "f(1, a = 2, b = 3)", "f(1, tol = 2)"):
        with pytest.raises(CompileError, match="`f"):
            driver.graph(Source("r.opt", f"{head}{call}\n"), library())


def test_each_call_of_a_function_keeps_its_own_state() -> None:
    text = """rule r(lr = 0.1):
    g = grad(w)
    repeat 2:
        w <- w - lr * smoothed(g) / (sqrt(smoothed(g * g)) + 1e-8)

function smoothed(x, beta = 0.9):
    state m = zeros(x)
    m <- beta * m + (1 - beta) * x
    return m
"""
    graph = driver.graph(Source("r.opt", text), library())
    assert set(graph.slots) == {"w", "smoothed.m", "smoothed_2.m"}
