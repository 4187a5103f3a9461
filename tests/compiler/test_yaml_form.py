"""The YAML form: the same tree both ways, spans into the YAML, nothing dangerous, no crash."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optc.compiler import syntax as s
from optc.compiler.format import to_opt
from optc.compiler.parse import parse
from optc.compiler.source import CompileError, Source
from optc.compiler.yaml_form import parse_yaml, to_yaml
from optc.tests.compiler.texts import TEXTS


def read(text: str) -> s.File:
    return parse_yaml(Source("t.yaml", text))


@pytest.mark.parametrize("name", TEXTS)
def test_both_forms_have_the_same_tree(name: str) -> None:
    file = parse(Source("t.opt", TEXTS[name]))
    text = to_yaml(file)
    again = read(text)
    assert again == file
    assert to_yaml(again) == text
    assert to_opt(again) == to_opt(file), "comments and the way numbers are written are kept too"


PLEASANT = """\
rule: sam_adamw
doc: AdamW at a sharpness-aware point.
options:
  lr: {bound: positive, default: 1e-3}
  rho: 0.05
  betas: (0.9, 0.999)
steps:
  - {perturb: sam(rho)}
  - {clip: global_norm(max = 1.0), when: t > 3}
  - {state: {m: zeros(w)}}
  - {bind: {g: grad(w), h: g + 1}}
  - {write: {m: 0.9 * m}}
  - for: params
    where: ndim == 2
    do: [{step: lr}]
  - other: [{step: 0.1}]
  - {repeat: 8, as: i, until: m < 1, do: [{write: {m: i}}]}
  - {if: m < 1, then: [{step: lr}], else: [{step: rho}]}
  - {every: 5 steps, do: [{step: lr}]}
"""
SAME = '''\
rule sam_adamw(lr: positive = 1e-3, rho = 0.05, betas = (0.9, 0.999)):
    """AdamW at a sharpness-aware point."""
    perturb sam(rho)
    clip    global_norm(max = 1.0) when t > 3
    state m = zeros(w)
    g = grad(w)
    h = g + 1
    m <- 0.9 * m
    for params where ndim == 2:
        step lr
    other:
        step 0.1
    repeat 8 as i until m < 1:
        m <- i
    if m < 1:
        step lr
    else:
        step rho
    every 5 steps:
        step lr
'''


def test_the_short_forms() -> None:
    assert to_opt(read(PLEASANT)) == SAME
    assert read(PLEASANT) == parse(Source("t.opt", SAME))


def test_spans_point_into_the_yaml() -> None:
    (rule,) = read(PLEASANT).items
    assert isinstance(rule, s.Rule)
    clip = rule.body[1]
    assert isinstance(clip, s.Step) and isinstance(clip.call, s.Call)
    span = clip.call.arguments[0].value.span
    assert (span.row, PLEASANT.splitlines()[span.row - 1][span.column - 1 :][:3]) == (9, "1.0")
    assert rule.options[1].span.row == 5


WRONG = [
    ("rule: [", "E110", 1),
    ("rule: r\nsteps:\n  - &a {step: 1}\n", "E111", 3),
    ("rule: r\nsteps: *a\n", "E111", 2),
    ("rule: r\nsteps:\n  - {step: !!python/name:os.system 1}\n", "E112", 3),
    ("rule: r\nrule: q\n", "E114", 2),
    ("rule: r\nsetps: []\n", "E113", 2),
    ("ruel: r\n", "E113", 1),
    ("- rule: r\n", "E113", 1),
    ("rule: r\nsteps:\n  - {setp: lr}\n", "E113", 3),
    ("rule: r\nsteps:\n  - {step: 1 +}\n", "E101", 3),
    ("rule: r\nsteps:\n  - {step: 3x}\n", "E105", 3),
    ("rule: r\nsteps:\n  - {step: [1, 2]}\n", "E113", 3),
    ("rule: r\nsteps:\n  - {write: {f(x): 1}}\n", "E113", 3),
    ("rule: r\nsteps:\n  - {for: w, do: []}\n", "E113", 3),
    ("rule: r\nsteps:\n  - {state: {x: {type: f(x), value: 1}}}\n", "E113", 3),
    ("rule: 3r\n", "E113", 1),
    ('rule: r\ndoc: \'a """ b\'\n', "E113", 2),
    ('rule: r\ndoc: "\\x07"\n', "E101", 2),
    ("rule: r\n", "E113", 1),
    ("clip: c\ninputs: [d]\noptions: {d: 1}\nsteps: [{return: d}]\n", "E114", 1),
    ("rule: r\nsteps:\n  - {write: {'x[1]': 1, 'x[ 1]': 2}}\n", "E114", 3),
    ("clip: c\nchecks:\n  - {check: a, lines: [{gives: []}]}\n", "E113", 3),
    ("[" * 5000, "E104", 1),
    ("rule: r\n---\nrule: q\n", "E110", 2),
    ("#" * 300000, "E104", 1),
]


@pytest.mark.parametrize(("text", "code", "row"), WRONG)
def test_what_is_wrong_is_said_where_it_is(text: str, code: str, row: int) -> None:
    with pytest.raises(CompileError) as caught:
        read(text)
    first = caught.value.diagnostics[0]
    assert (first.code, first.span.row) == (code, row)


def test_many_errors_in_one_run() -> None:
    text = "rule: r\nsteps:\n  - {step: 1 +}\n  - {setp: 1}\n  - {step: 1}\n  - {step: 3x}\n"
    with pytest.raises(CompileError) as caught:
        read(text)
    assert [d.span.row for d in caught.value.diagnostics] == [3, 4, 6]


NOISE = ["", ":", "- ", "\n", "  ", "[", "}", "&a ", "*a", "!!x ", "'", '"', "|", "null", "{a: b}"]
NOISE += ["#", "\t", "é", "? ", "> ", ", ", "%", "@", "..."]


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_broken_text_is_an_error_and_no_crash(data: st.DataObject) -> None:
    text = to_yaml(parse(Source("t.opt", data.draw(st.sampled_from(sorted(TEXTS.values()))))))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text)))
        end = data.draw(st.integers(at, min(len(text), at + 30)))
        insert = data.draw(st.sampled_from(NOISE))
        text = text[:at] + insert + text[end:]
    try:
        file = read(text)
    except CompileError as error:
        assert all(str(d) for d in error.diagnostics)
    else:
        assert parse(Source("t.opt", to_opt(file))) == file
