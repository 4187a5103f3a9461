"""`optc check`, `graph`, `explain` and `diff`: what they print, and how they end."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from optc.cli import main
from optc.compiler.pipeline import PASSES

GOOD = "rule plain(lr: positive = 0.1):\n    clip global_norm()\n    step lr\n"
OTHER = """rule clipped(lr: positive = 0.2, most = 2.0):
    state m = zeros(w)
    d = grad(w)
    n = norm(d, over = model)
    d = d * min(1, most / (n + 1e-6))
    m <- 0.9 * m + d
    w <- w - lr * m
"""
BAD = "rule bad(lr = 0.1):\n    precondition adm()\n    w <- w - lr * gg\n"


@pytest.fixture(autouse=True)
def specs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in (("good", GOOD), ("other", OTHER), ("bad", BAD), ("both", GOOD + OTHER)):
        Path(f"{name}.opt").write_text(text)


def test_check_names_what_is_fine(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "good.opt", "both.opt"]) == 0
    assert capsys.readouterr().out == "good.opt: plain: fine\nboth.opt: plain, clipped: fine\n"


def test_check_tells_everything_that_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "bad.opt", "good.opt"]) == 1
    said = capsys.readouterr()
    assert "good.opt: plain: fine" in said.out
    assert "bad.opt:2:18: error[E201]" in said.err and "bad.opt:3:19: error[E201]" in said.err
    assert "adam" in said.err and "Traceback" not in said.err


def test_check_warns_of_a_state_that_is_not_kept(capsys: pytest.CaptureFixture[str]) -> None:
    head = "rule r(lr = 0.1):\n    state m = zeros(w), n: model = 0\n"
    head += "    n <- n + norm(w, over = model)\n"
    Path("idle.opt").write_text(f"{head}    m <- 0.9 * m + grad(w)\n    w <- w - lr * m\n")
    Path("used.opt").write_text(f"{head}    m <- grad(w) + m / n\n    w <- w - lr * m\n")
    assert main(["check", "used.opt", "idle.opt"]) == 0
    said = "nothing reads what `n` held before: it is not kept between steps"
    lines = ["used.opt: r: fine", "idle.opt: r: fine", f"idle.opt:2:25: warning: {said}"]
    assert capsys.readouterr().out.splitlines() == lines
    assert main(["check", "idle.opt", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["unread"] == ["n"]


def test_check_runs_the_checks(capsys: pytest.CaptureFixture[str]) -> None:
    text = "clip twice(d):\n    return 2 * d\n    check two:\n        d = [1.0] gives [{}]\n"
    Path("twice.opt").write_text(text.format("2.0"))
    assert main(["check", "twice.opt"]) == 0
    Path("twice.opt").write_text(text.format("3.0"))
    assert main(["check", "twice.opt"]) == 1
    said = capsys.readouterr()
    assert "twice: fine" in said.out
    assert "twice.opt:4:9: error[E221]: check `two`: the result must be [3.0]" in said.err


def test_check_for_a_program(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "other.opt", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["rule"] == "clipped" and row["slots"] == {"w": "element", "m": "element"}


def test_check_loads_neither_torch_nor_networkx() -> None:
    code = (
        "import sys; from optc.cli import main; assert main(['check', 'good.opt']) == 0; "
        "assert not {'torch', 'networkx', 'numpy'} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


@pytest.mark.parametrize("after", ["check", *PASSES])
def test_graph_after_a_pass(after: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["graph", "good.opt", "--after", after]) == 0
    assert "w <- %" in capsys.readouterr().out


def test_graph_for_graphviz(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["graph", "good.opt", "--dot"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("digraph plain {") and "->" in said and said.endswith("}\n")


@pytest.mark.parametrize("format", ["text", "md", "latex"])
def test_explain_a_rule(format: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "good.opt", "--format", format]) == 0
    said = capsys.readouterr().out
    assert "16 bytes a float32 parameter at least" in said and "1 gradient" in said
    assert (r"\begin{algorithm}" in said) == (format == "latex")


def test_explain_the_cost_for_a_program(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "good.opt", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["evaluations a step"] == "1 gradient"


def test_explain_a_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "e203"]) == 0
    assert capsys.readouterr().out.startswith("E203: ")
    assert main(["explain", "E999"]) == 2
    assert "unknown code" in capsys.readouterr().err


def test_diff_says_what_differs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", "good.opt", "other.opt"]) == 0
    said = capsys.readouterr().out
    assert "lr: positive = 0.1 -> positive = 0.2" in said
    assert "m: (nothing) -> element" in said
    assert "16 bytes a float32 parameter at least -> 24 bytes" in said
    assert "+    m <- 0.9 * m + d" in said


def test_diff_of_two_rules_of_one_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", "both.opt:plain", "good.opt", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found.pop("same_graph") is True and not any(found.values())


def test_two_ways_to_write_a_rule_are_the_same_graph(capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.opt").write_text("rule a(lr = 0.1):\n    w <- w - lr * (1 * grad(w))\n")
    Path("b.opt").write_text("rule b(lr = 0.1):\n    g = grad(w)\n    w <- w - lr * g\n")
    assert main(["diff", "a.opt", "b.opt"]) == 0
    assert capsys.readouterr().out.startswith("the same graph\n")
