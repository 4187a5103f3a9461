"""The formatter: same tree, formatting twice is formatting once, nothing lost, 100 columns."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optc.compiler import syntax as s
from optc.compiler.expression_text import text as expression_text
from optc.compiler.format import to_opt
from optc.compiler.parse import parse, parse_expression
from optc.compiler.source import NOWHERE, CompileError, Source
from optc.tests.compiler.texts import EXPRESSIONS, TEXTS, comments_of


def read(text: str) -> s.File:
    return parse(Source("t.opt", text))


@pytest.mark.parametrize("name", TEXTS)
def test_formatting_keeps_the_tree_and_is_done_once(name: str) -> None:
    file = read(TEXTS[name])
    once = to_opt(file)
    again = read(once)
    assert again == file
    assert to_opt(again) == once


@pytest.mark.parametrize("name", [n for n in TEXTS if '"' not in TEXTS[n] or ".opt" in n])
def test_no_comment_is_lost(name: str) -> None:
    assert comments_of(to_opt(read(TEXTS[name]))) == comments_of(TEXTS[name])


@pytest.mark.parametrize("name", [n for n in TEXTS if "hard" in n])
def test_the_hard_cases_are_formatted(name: str) -> None:
    assert to_opt(read(TEXTS[name])) == TEXTS[name]
    assert max(len(line) for line in TEXTS[name].splitlines()) <= 100


@pytest.mark.parametrize("name", TEXTS)
def test_lines_fit(name: str) -> None:
    long = [line for line in to_opt(read(TEXTS[name])).splitlines() if len(line) > 100]
    assert all("#" in line for line in long)


UNTIDY = '''\
"""Doc."""
# the rule
rule r(a:positive=1,b = (1,2,)):
  precondition adam(b,eps=1e-8)   # first
  step a*(b+c)*-d when(t>3)  # then
  if a:
        w<-w-(a*b)
'''
TIDY = '''\
"""Doc."""
# the rule
rule r(a: positive = 1, b = (1, 2)):
    precondition adam(b, eps = 1e-8)          # first
    step         a * (b + c) * -d when t > 3  # then
    if a:
        w <- w - a * b
'''


def test_the_look() -> None:
    assert to_opt(read(UNTIDY)) == TIDY


LONG_CHECK = """\
smooth mean(g, w):
    return g
    check long:
        w = [[1.0, -1.0], [0.3333333333333333, 2.216839677047289]], g = [1.0, 1.0, 1.0], n = 10,
            loss = p -> sum(p^4, over = model) / 12 + sum(p^2, over = model) / 4 gives [
                0.3333333333333333, -0.3333333333333333, 2.216839677047289, 0.3333333333333333,
                2.216839677047289,
            ], m = [1.0] within 1e-9
"""


def test_a_long_check_line_breaks_in_its_brackets() -> None:
    assert to_opt(read(LONG_CHECK)) == LONG_CHECK


@pytest.mark.parametrize("text", EXPRESSIONS)
def test_expressions_keep_their_tree(text: str) -> None:
    tree = parse_expression(text, Source("t", text), NOWHERE)
    assert parse_expression(expression_text(tree), Source("t", ""), NOWHERE) == tree


names = st.sampled_from(["a", "b", "when", "step", "over", "grad"]).map(s.Name)
atoms = names | st.integers(0, 99).map(lambda n: s.Number(n, str(n))) | st.just(s.Name("l", 1))


def grown(inner: st.SearchStrategy[s.Expr]) -> st.SearchStrategy[s.Expr]:
    operators = ["or", "and", "==", "<", "+", "-", "*", "//", "@", "^"]
    some = st.lists(inner, min_size=1, max_size=3).map(tuple)
    call = st.builds(
        lambda f, items: s.Call(f, tuple(s.Argument("", i) for i in items)),
        inner.filter(lambda f: not isinstance(f, s.Index)),
        some,
    )
    return (
        st.builds(s.Binary, st.sampled_from(operators), inner, inner)
        | st.builds(s.Unary, st.sampled_from(["-", "not"]), inner)
        | st.builds(s.Lambda, st.sampled_from([("p",), ("p", "q")]), inner)
        | st.builds(s.Index, inner, some)
        | st.builds(s.Attribute, inner, st.just("m"))
        | st.builds(s.Tuple, some)
        | st.builds(s.List, some)
        | call
    )


@settings(max_examples=300, deadline=None)
@given(st.recursive(atoms, grown, max_leaves=25))
def test_any_expression_reads_back(tree: s.Expr) -> None:
    text = expression_text(tree)
    assert parse_expression(text, Source("t", text), NOWHERE) == tree
    line = f"rule r():\n    a_rather_long_name = {text}\n"
    file = read(line)
    assert read(to_opt(file)) == file


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_whatever_parses_formats(data: st.DataObject) -> None:
    """Drops lines and words: what is left and still right keeps its tree and its comments."""
    lines = data.draw(st.sampled_from(sorted(TEXTS.values()))).splitlines()
    for _ in range(data.draw(st.integers(1, 3))):
        if lines:
            at = data.draw(st.integers(0, len(lines) - 1))
            new = data.draw(st.sampled_from(["", "# c", "    # c", "        # d", lines[at]]))
            lines[at : at + data.draw(st.integers(0, 1))] = [new]
    text = "\n".join(lines)
    try:
        file = read(text)
    except CompileError:
        return
    once = to_opt(file)
    assert read(once) == file
    assert to_opt(read(once)) == once
