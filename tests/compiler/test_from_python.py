"""What one writes by habit of Python is refused where it stands, with what there is instead."""

from __future__ import annotations

import pytest

from optc.compiler.check import check_file
from optc.compiler.parse import parse
from optc.compiler.source import CompileError, Source
from optc.plugins.registry import library

HABITS = {
    "step lr * where(t > 3 && t < 5, 1, 2)": ("&", "`a and b`"),
    "step lr * where(t < 3 || t > 5, 1, 2)": ("|", "`a or b`"),
    "step lr * where(!(t < 3), 1, 2)": ("!", "`not a`"),
    "step lr if t > 3 else 0": ("if", "`where(condition, a, b)`"),
    "f = lambda x: x^2": ("x: x", "`p -> expression`"),
    "step lr;": (";", "ends with its line"),
    "w < - w": ("w <", "`<-` without a space"),
    "stat m = zeros(w)": ("stat", "did you mean `state`?"),
    "β = 0.9": ("β", "letters from a to z"),
    "step log(lr)": ("log", "`ln(x)`"),
    "step None": ("None", "without a default"),
    "step std(grad(w), over = tensor)": ("std", "`sqrt(mean("),
    "step sum(grad(w), dim = 1)": ("dim", "`over = row`"),
    "w <- w - grad(w).sign()": ("grad(w).", "`sign(x)`"),
    "w <- w − grad(w)": ("−", "minus is `-`"),
    "if t <> 1: step lr": (">", "`a != b`"),
    "state m <- zeros(w)": ("<-", "`m <- ..` stands below it"),
    "step lr * int(t)": ("int", "`floor(x)`"),
    "step lr(grad(w))": ("lr", "a product is `lr * (..)`"),
    "step [0.1, 0.2]": ("[", "are a tuple"),
    "print(lr)": ("print", "`metric name = ..`"),
    "w <- matrix(w).T": ("matrix", "`transpose(matrix(x))`"),
}


@pytest.mark.parametrize("line", HABITS)
def test_a_habit_of_python_has_an_answer(line: str) -> None:
    at, words = HABITS[line]
    with pytest.raises(CompileError) as caught:
        check_file(parse(Source("r.opt", f"rule r(lr = 0.1):\n    {line}\n")), library())
    first = caught.value.diagnostics[0]
    assert (first.span.row, first.span.column) == (2, 5 + line.index(at)), str(first)
    assert words in first.help, str(first)


def test_an_else_with_a_condition_has_an_answer() -> None:
    text = "rule r(lr = 0.1):\n    if t < 3:\n        step lr\n    else if t < 5:\n        step 1\n"
    with pytest.raises(CompileError) as caught:
        parse(Source("r.opt", text))
    assert caught.value.diagnostics[0].help == "write `else:` and an `if` below it"


def test_a_primitive_that_asks_for_an_option_of_the_rule_is_told_once() -> None:
    text = "clip own(d):\n    return d * lr\nrule r(lr = 0.1):\n    clip own()\n    step lr\n"
    with pytest.raises(CompileError) as caught:
        check_file(parse(Source("r.opt", text)), library())
    (only,) = caught.value.diagnostics
    assert "`lr` is the rule's" in only.help


def test_a_file_may_begin_as_windows_writes_it() -> None:
    (graph,) = check_file(parse(Source("r.opt", "\ufeffrule r(lr = 0.1):\r\n    step lr\r\n")))
    assert graph.name == "r"
