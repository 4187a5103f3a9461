"""Parsing: the tree of each construct, spans, what is said about wrong texts, and no crash ever."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optc.compiler import syntax as s
from optc.compiler.parse import LARGEST, parse, parse_expression
from optc.compiler.source import NOWHERE, CompileError, Source
from optc.tests.compiler.texts import EXPRESSIONS, SNIPPETS, TEXTS, in_rule


def read(text: str) -> s.File:
    return parse(Source("t.opt", text))


def expression(text: str) -> s.Expr:
    return parse_expression(text, Source("t.opt", text), NOWHERE)


def statement(*lines: str) -> s.Statement:
    (rule,) = read(in_rule(*lines)).items
    assert isinstance(rule, s.Rule)
    return rule.body[0]


a, b, c, x, y, w = (s.Name(n) for n in "abcxyw")
one, two = s.Number(1), s.Number(2)

TREES = [
    ("-x^2", s.Unary("-", s.Binary("^", x, two))),
    ("x^-1", s.Binary("^", x, s.Unary("-", one))),
    ("a^b^c", s.Binary("^", a, s.Binary("^", b, c))),
    ("-a * b", s.Binary("*", s.Unary("-", a), b)),
    ("a - b - c", s.Binary("-", s.Binary("-", a, b), c)),
    ("not a == b", s.Unary("not", s.Binary("==", a, b))),
    ("a or b and c", s.Binary("or", a, s.Binary("and", b, c))),
    ("(a, b) -> c", s.Lambda(("a", "b"), c)),
    ("a -> b -> c", s.Lambda(("a",), s.Lambda(("b",), c))),
    ("a(b)", s.Call(a, (s.Argument("", b),))),
    ("a[w](b)", s.Call(a, (s.Argument("", b),), "w")),
    ("a[1](b)", s.Call(s.Index(a, (one,)), (s.Argument("", b),))),
    ("a[w, b](c)", s.Call(s.Index(a, (w, b)), (s.Argument("", c),))),
    ("a[w]", s.Index(a, (w,))),
    ("a[1, :]", s.Index(a, (one, s.Slice()))),
    ("a.b[w](c)", s.Call(s.Index(s.Attribute(a, "b"), (w,)), (s.Argument("", c),))),
    ("a''", s.Name("a", 2)),
    ("2 steps", s.Quantity(two, "step")),
    ("(a)", a),
    ("(a,)", s.Tuple((a,))),
    ("[1]", s.List((one,))),
    ('"x"', s.Text("x")),
]


@pytest.mark.parametrize(("text", "tree"), TREES, ids=[text for text, _ in TREES])
def test_expressions_group_as_written(text: str, tree: s.Expr) -> None:
    assert expression(text) == tree


STATEMENTS = [
    (("step = 1",), s.Bind(("step",), one)),
    (("step a",), s.Step("step", a)),
    (("step (a)",), s.Step("step", a)),
    (("step a when b",), s.Step("step", a, "", b)),
    (("smooth a as b when c",), s.Step("smooth", a, "b", c)),
    (("a, b <- 1, 2",), s.Write((a, b), (one, two))),
    (("always a[1] <- b",), s.Write((s.Index(a, (one,)),), (b,), True)),
    (("losses a, b",), s.Declare("loss", (s.Slot("a"), s.Slot("b")))),
    (
        ("oracle a(b, c): model",),
        s.Declare("oracle", (s.Slot("a", s.TypeExpr("model"), None, ("b", "c")),)),
    ),
    (
        ("state a: element[b(1), b'] = 2",),
        s.Declare(
            "state",
            (
                s.Slot(
                    "a",
                    s.TypeExpr("element", (s.AxisType("b", one), s.AxisType("b", None, 1))),
                    two,
                ),
            ),
        ),
    ),
    (("veto when a",), s.Outcome("veto", a)),
    (("restore 2 when a",), s.Outcome("restore", a, two)),
    (("for a where b:", "    step c"), s.For("a", b, (s.Step("step", c),))),
    (("for other a:", "    step c"), s.For("a", None, (s.Step("step", c),), True)),
    (("other:", "    step c"), s.For("", None, (s.Step("step", c),), True)),
    (("for other:", "    step c"), s.For("", None, (s.Step("step", c),), True)),
    (("repeat 2 as a until b:", "    step c"), s.Repeat(two, (s.Step("step", c),), "a", b)),
    (
        ("every 2:", "    step a", "else:", "    step b"),
        s.Every(two, (s.Step("step", a),), (s.Step("step", b),)),
    ),
    (("metric a = b",), s.Metric("a", b)),
    (('paper 2, "x"',), s.Paper(2, "x")),
]


@pytest.mark.parametrize(("lines", "tree"), STATEMENTS, ids=[lines[0] for lines, _ in STATEMENTS])
def test_statements(lines: tuple[str, ...], tree: s.Statement) -> None:
    assert statement(*lines) == tree


def test_entries_with_default_or_bound_are_options() -> None:
    (item,) = read("clip c(d, w: element, m: positive, p = 1):\n    return d\n").items
    assert isinstance(item, s.Primitive)
    assert [i.name for i in item.inputs] == ["d", "w"]
    assert item.options == (s.Option("m", "positive"), s.Option("p", "", one))


def test_the_first_doc_string_is_that_of_the_file() -> None:
    file = read('"""File."""\nrule r():\n    """Rule.\n\n    More.\n    """\n    step 1\n')
    assert file.doc == "File."
    assert file.items[0].doc == "Rule.\n\nMore."  # type: ignore[attr-defined]


def test_comments_belong_to_their_statements() -> None:
    text = "# 1\nrule r(  # 2\n):  # 3\n    # 4\n    step a  # 5\n    # 6\n# 7\nuse m\n# 8\n"
    rule, use = (file := read(text)).items
    assert isinstance(rule, s.Rule)
    step = rule.body[0]
    assert (rule.comments, rule.comment) == (("1", "2"), "3")
    assert (step.comments, step.comment, step.after) == (("4",), "5", ("6",))
    assert (use.comments, file.trailing) == (("7",), ("8",))


def written(span: object) -> str:
    row, column, end = span.row, span.column, span.end_column  # type: ignore[attr-defined]
    return str(span.source.line(row))[column - 1 : end - 1]  # type: ignore[attr-defined]


@pytest.mark.parametrize("text", [t for t, _ in TREES])
def test_a_span_covers_its_expression(text: str) -> None:
    rule = read(in_rule(f"x = {text}")).items[0]
    bind = rule.body[0]  # type: ignore[attr-defined]
    assert written(bind.value.span) == text
    assert written(bind.span) == f"x = {text}"


def nodes(node: object) -> list[s.Syntax]:
    if isinstance(node, tuple):
        return [n for part in node for n in nodes(part)]
    if not isinstance(node, s.Syntax):
        return []
    return [node, *(n for f in fields(node) for n in nodes(getattr(node, f.name)))]


@pytest.mark.parametrize("name", TEXTS)
def test_every_node_has_a_span_inside_that_of_its_parent(name: str) -> None:
    file = read(TEXTS[name])
    for item in file.items:
        for node in nodes(item):
            assert node.span is not NOWHERE
            for child in nodes(node)[1:]:
                start, end = (node.span.row, node.span.column), (
                    node.span.end_row, node.span.end_column)  # fmt: skip
                assert start <= (child.span.row, child.span.column)
                assert (child.span.end_row, child.span.end_column) <= end


WRONG = [
    ("rule r():\n    precnodition adam()\n", "E101", 2, 5, "did you mean `precondition`?"),
    ("rule r():\n    setp lr\n", "E101", 2, 5, "did you mean `step`?"),
    ("ruel r():\n    step lr\n", "E101", 1, 1, "did you mean `rule`?"),
    ("rule r():\n    x = 3 +\n", "E101", 2, 12, ""),
    ("rule r():\n    x = f(a, b\n    step 1\n", "E101", 2, 10, ""),
    ("rule r():\n    x = f a)\n", "E101", 2, 12, ""),
    ("rule r():\n    step a whne b\n", "E101", 2, 12, "did you mean `when`?"),
    ("rule r():\n    if a < b\n        step 1\n", "E101", 2, 13, ""),
    ("rule r()\n    step 1\n", "E101", 1, 9, ""),
    ("rule r():\n    x = a < b < c\n", "E101", 2, 15, "write `a < b and b < c`"),
    ("rule r():\n    x[i] = 3\n", "E101", 2, 5, "a part of a slot is written with `<-`"),
    ("rule r():\n    a, b <- 3\n", "E101", 2, 5, ""),
    (
        "rule r():\n    elif a:\n        step 1\n",
        "E101",
        2,
        5,
        "write `else:` and an `if` below it",
    ),
    ("rule r():\n    else:\n        step 1\n", "E101", 2, 5, ""),
    ("rule r():\n    x = (1 + 2) -> 3\n", "E101", 2, 9, ""),
    ("rule r():\n    x = a $ b\n", "E101", 2, 11, ""),
    ("rule r():\n    veto c\n", "E101", 2, 10, ""),
    ("rule r():\n    restore 4\n", "E101", 2, 5, "write `restore when ..`"),
    ("rule r():\n    check a:\n        g = 1 gives 2\n", "E101", 2, 5, ""),
    ("rule r():\n    rule q():\n        step 1\n", "E101", 2, 5, ""),
    ("step lr\n", "E101", 1, 1, ""),
    ("rule r() over moon:\n    step 1\n", "E101", 1, 15, ""),
    ("clip c(d = 1; e = 2):\n    return d\n", "E101", 1, 8, "options stand behind the `;`"),
    ("extern f(x)\n", "E101", 1, 1, ""),
    ("rule r():\nstep 1\n", "E102", 1, 9, ""),
    ("rule r():\n", "E102", 1, 9, ""),
    ("rule r():\n    step 1\n      step 2\n", "E102", 3, 7, ""),
    ("rule r():\n    if a:\n        step 1\n      step 2\n", "E102", 4, 7, ""),
    ("rule r():\n\tstep 1\n", "E102", 2, 2, ""),
    ('rule r():\n    x = named("a)\n', "E103", 2, 15, 'it ends with `"`'),
    ('rule r():\n    """Doc\n    step 1\n', "E103", 2, 5, 'it ends with `"""`'),
    ('rule r():\n    x = named("a\\n")\n', "E103", 2, 15, ""),
    ("rule r():\n    x = " + "(" * 61 + "1" + ")" * 61 + "\n", "E104", 2, 69, ""),
    ("rule r():\n    x = " + "-" * 60 + "1\n", "E104", 2, 9, ""),
    ("rule r():\n    x = " + "1 + " * 61 + "1\n", "E104", 2, 9, ""),
    ("#" * (LARGEST + 1), "E104", 1, 1, ""),
    ("rule r():\n    x = a ** b\n", "E101", 2, 12, "a power is `x^y`"),
    ("rule r():\n    x = a[:, :k]\n", "E101", 2, 15, "a slice is a whole axis"),
    ("rule r():\n    w -= a\n", "E101", 2, 5, "write `w <- w - ..`"),
    ("rule r():\n    import a\n", "E101", 2, 5, "a rule is data"),
    ("rule r():\n    for i in x:\n        step 1\n", "E101", 2, 11, "`repeat n as i:`"),
    ("rule r():\n    x = 3x\n", "E105", 2, 9, "write `3 * x`"),
    ("rule r():\n    x = 1.2.3\n", "E105", 2, 9, ""),
    ("rule r():\n    x = 1e999\n", "E105", 2, 9, "infinity is `inf`"),
    ("rule r():\n    x = " + "1" * 5000 + "\n", "E105", 2, 9, ""),
    ("rule r(a, a):\n    step 1\n", "E106", 1, 11, ""),
    ("rule r():\n    a, a <- 1, 2\n", "E106", 2, 8, ""),
    ("rule r():\n    x = \x00\n", "E101", 2, 9, ""),
]


@pytest.mark.parametrize(("text", "code", "row", "column", "help"), WRONG)
def test_what_is_wrong_is_said_where_it_is(
    text: str, code: str, row: int, column: int, help: str
) -> None:
    with pytest.raises(CompileError) as caught:
        read(text)
    first = caught.value.diagnostics[0]
    assert (first.code, first.span.row, first.span.column) == (code, row, column)
    assert help in first.help
    assert str(first).startswith(f"t.opt:{row}:{column}: error[{code}]")


def test_many_errors_in_one_run_in_the_order_of_the_text() -> None:
    text = (
        "rule a():\n    setp lr\n    x = 1 +\n    fro w:\n        step = = 1\n    y = 3x\n"
        "    step 1\nruel b():\n    step 1\nrule c():\n    z = (1\n    step 2\n"
    )
    with pytest.raises(CompileError) as caught:
        read(text)
    assert [d.span.row for d in caught.value.diagnostics] == [2, 3, 4, 6, 8, 11]


def test_blocks_in_blocks_end_somewhere() -> None:
    lines = ["    " * n + "if a:" for n in range(1, 200)] + ["    " * 200 + "step 1"]
    with pytest.raises(CompileError) as caught:
        read("rule r():\n" + "\n".join(lines) + "\n")
    assert caught.value.diagnostics[0].code == "E104"


@pytest.mark.parametrize("bomb", ["(", "[", "-", "not ", "a^", "a -> ", "a+", "a(", "a.b", "f()("])
def test_no_bomb_explodes(bomb: str) -> None:
    for text in (bomb * 20000, bomb * 20000 + "a"):
        with pytest.raises(CompileError):
            read(f"rule r():\n    x = {text}\n")


ALPHABET = [
    *"()[]:;,.=<>+-*/%@^'\"#\n\t x1$",
    "\n    ", "\n        ", "rule ", "step ", "if ", "else:", "for ", " when ", "->", "<-",
    "gives ", '"""', "check ", "state ", "1e", "other", "\r\n", "\x00", "é",
]  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_broken_text_is_an_error_and_no_crash(data: st.DataObject) -> None:
    text = data.draw(st.sampled_from(sorted(TEXTS.values())))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text)))
        end = data.draw(st.integers(at, min(len(text), at + 40)))
        insert = "".join(data.draw(st.lists(st.sampled_from(ALPHABET), max_size=4)))
        text = text[:at] + insert + text[end:]
    try:
        read(text)
    except CompileError as error:
        assert error.diagnostics
        assert all(str(d) for d in error.diagnostics)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(ALPHABET), max_size=60).map("".join) | st.text(max_size=80))
def test_noise_is_an_error_and_no_crash(text: str) -> None:
    for read_it in (read, expression):
        try:
            read_it(text)
        except CompileError as error:
            assert error.diagnostics


def test_parsing_needs_neither_torch_nor_networkx() -> None:
    code = (
        "import sys; from optc.compiler.parse import parse;"
        "from optc.compiler.source import Source;"
        "parse(Source('t', 'rule r():\\n    step 1\\n'));"
        "assert not {'torch', 'networkx', 'numpy'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_snippets_are_all_different() -> None:
    assert len(set(SNIPPETS)) == len(SNIPPETS)
    assert len(set(EXPRESSIONS)) == len(EXPRESSIONS)
