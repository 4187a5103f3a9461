"""A check that does not hold is found, and so is one that checks nothing."""

from __future__ import annotations

import pytest

from optc.compiler.checks import run_checks
from optc.compiler.parse import parse
from optc.compiler.primitive import from_syntax
from optc.compiler.source import CompileError, Source
from optc.compiler.syntax import Primitive
from optc.plugins.registry import library

MEAN = """smooth mean(g; beta: unit = 0.5):
    state m = zeros(g)
    m <- beta * m + (1 - beta) * g
    return m
    check steps:
"""
SAM = """perturb climb(grad, w; rho = 0.5):
    return grad(w + rho)
    check steps:
"""


def found(text: str, *lines: str) -> list[str]:
    file = parse(Source("own.opt", text + "".join(f"        {line}\n" for line in lines)))
    tree = file.items[0]
    assert isinstance(tree, Primitive)
    return [str(f) for f in run_checks(from_syntax(tree), library())]


def test_what_holds_is_silent() -> None:
    steps = "g = [2.0, -4.0] gives [1.0, -2.0]", "g = [0.0, 0.0] gives [0.5, -1.0], m = [0.5, -1.0]"
    assert found(MEAN, *steps) == []
    assert found(SAM, "w = [1.0], loss = p -> dot(p, p, over = model) gives [3.0]") == []


def test_a_list_inside_an_expression_is_constant() -> None:
    line = "w = [1.0, 2.0], loss = p -> dot([1, 10], p^2 - [0, 1], over = model)"
    assert found(SAM, f"{line} gives [3.0, 50.0]") == []
    assert "it is [3.0, 50.0]" in found(SAM, f"{line} gives [3.0, 5.0]")[0]


def test_a_written_loss_is_mapped_over_the_axes_of_its_point() -> None:
    text = """perturb spread(grad, w):
    return sum(grad(w + grid(trial, 0, 2, 3)), over = trial)
    check steps:
"""
    assert found(text, "w = [1.0], loss = p -> sum(p^4, over = model) / 4 gives [36.0]") == []


PAIR = """monitor halves(x: model[places], y: model):
    state seen: model = 0
    seen <- seen + y
    return (x / 2, seen)
    check steps:
"""


def test_what_gives_several_values_is_compared_with_a_tuple() -> None:
    first = "x = [1.0, 3.0], y = 2.0 gives ([0.5, 1.5], 2.0), seen = 2.0"
    assert found(PAIR, first, "x = [1.0, 3.0], y = 2.0 gives ([0.5, 1.5], 4.0)") == []
    assert found(PAIR, "x = [4.0], y = 2.0 gives ([2.0], 2.5)") == [
        "check steps, step 1: the result's part 2 must be 2.5, and it is 2.0"
    ]
    wrong = found(PAIR, first, "x = [1.0, 3.0], y = 2.0 gives [0.5, 1.5]")
    assert "the result must be 2 values, as in the first step" in wrong[0]


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        (MEAN, "g = [2.0] gives ([1.0], [1.0])", "own.opt:6:9: error[E205]"),
        (PAIR, "x = [4.0], y = 2.0 gives [2.0]", "own.opt:6:9: error[E302]"),
        (MEAN, "g = [2.0] gives g", "own.opt:6:25: error[E302]: a number is expected here"),
        (MEAN, "g = [2.0] gives [[1.0], [1.0, 2.0]]", "6:25: error[E302]: the parts of a list"),
        (MEAN, "g = [x] gives [1.0]", "own.opt:6:14: error[E302]: a number is expected here"),
    ],
)
def test_a_line_that_compares_nothing_is_a_mistake(text: str, line: str, what: str) -> None:
    with pytest.raises(CompileError) as error:
        found(text, line)
    assert what in str(error.value)


@pytest.mark.parametrize(
    ("lines", "what"),
    [
        (["g = [2.0] gives [1.1]"], "step 1: the result must be [1.1], and it is [1.0]"),
        (["g = [2.0] gives [1.0]", "g = [0.0] gives [1.0]"], "step 2: the result must be [1.0]"),
        (["g = [2.0] gives [1.0], m = [2.0]"], "`m` must be [2.0], and it is [1.0]"),
        (["g = [2.0] gives [1.0, 1.0]"], "the result must be [1.0, 1.0]"),
        (["g = [2.0] gives [1.0], n = [2.0]"], "`n` must be a state"),
        (["g = [2.0], bata = 0.9 gives [1.0]"], "and it is bata"),
        (["g = [2.0] gives [1.0]", "g = [0.0], beta = 0.9 gives [0.5]"], "that of the first"),
        (["g = [2.0] gives [1.0001] within 1e-6"], "the result must be [1.0001]"),
    ],
)
def test_what_does_not_hold_is_found(lines: list[str], what: str) -> None:
    assert any(what in text for text in found(MEAN, *lines))


def test_what_is_missing_is_said() -> None:
    (text,) = found(SAM, "w = [1.0] gives [3.0]")
    assert "step 1: a gradient, `g = [...]` or `loss = p -> ...`, must be given" in text


def test_states_of_a_function_are_checked_too() -> None:
    text = """function total(x):
    state sum_of = zeros(x)
    sum_of <- sum_of + x
    return 2 * sum_of
    check steps:
"""
    assert found(text, "x = [2.0] gives [4.0], sum_of = [2.0]") == []
    (wrong,) = found(text, "x = [2.0] gives [4.0], sum_of = [4.0]")
    assert "`sum_of` must be [4.0], and it is [2.0]" in wrong


def test_the_tolerance_is_that_of_the_line() -> None:
    assert found(MEAN, "g = [2.0] gives [1.0001] within 1e-3") == []


def test_a_list_of_one_is_the_number_of_an_input_of_the_model() -> None:
    text = """monitor last(x: model):
    state seen: model[window(2)] = 0
    seen[(steps - 1) % 2] <- x
    return sum(seen, over = window)
    check steps:
"""
    assert found(text, "x = [1.0] gives 1.0", "x = [2.0] gives 3.0") == []
