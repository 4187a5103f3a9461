"""`optc compile`: writes a module that imports, overwrites nothing of others, says what it did."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

from optc.cli import main

RULE = '''"""Plain descent."""
rule descent(lr: positive = 0.1):
    w <- w - lr * grad(w)
'''
AVERAGED = """
rule averaged(lr: positive = 0.1):
    state m = zeros(w)
    m <- 0.9 * m + grad(w)
    w <- w - lr * m
"""


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "rules.opt"
    path.write_text(RULE)
    return path


def test_it_is_written_beside_under_the_rules_name(
    spec: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compile", "rules.opt"]) == 0
    text = Path("descent.py").read_text()
    ast.parse(text)
    assert text.startswith("# Written by optc ") and "Plain descent." in text
    said = capsys.readouterr().out
    assert "descent.py: class Descent" in said and "1 kernel" in said and "12 bytes" in said


def test_it_goes_where_it_is_sent(spec: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("out").mkdir()
    assert main(["compile", "rules.opt", "-o", "out"]) == 0
    assert main(["compile", "rules.opt", "-o", "mine.py"]) == 0
    capsys.readouterr()
    assert main(["compile", "rules.opt", "-o", "-"]) == 0
    written = capsys.readouterr().out
    assert Path("out/descent.py").read_text() == Path("mine.py").read_text() == written


def test_only_its_own_files_are_overwritten(spec: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compile", "rules.opt"]) == main(["compile", "rules.opt"]) == 0
    Path("descent.py").write_text("mine = 1\n")
    assert main(["compile", "rules.opt"]) == 2
    assert "did not write" in capsys.readouterr().err
    assert Path("descent.py").read_text() == "mine = 1\n"
    assert main(["compile", "rules.opt", "--force"]) == 0
    assert sorted(p.name for p in spec.parent.iterdir()) == ["descent.py", "rules.opt"]


def test_a_module_of_everyone_is_not_shadowed(spec: Path) -> None:
    spec.write_text(RULE.replace("descent(", "random("))
    assert main(["compile", "rules.opt"]) == 0
    assert not Path("random.py").exists() and Path("random_optimizer.py").exists()


def test_one_rule_of_several(spec: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec.write_text(RULE + AVERAGED)
    assert main(["compile", "rules.opt", "--rule", "averaged", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["class"] == "Averaged" and found["path"] == "averaged.py"
    assert found["state"] == ["m"] and found["steps"][0]["bytes"] == {"w": 20}


def test_what_is_wrong_is_said(spec: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec.write_text("rule descent(lr: positive = 0.1):\n    w <- w - lrr * grad(w)\n")
    assert main(["compile", "rules.opt"]) == 1
    assert "lrr" in capsys.readouterr().err and not Path("descent.py").exists()
    assert main(["compile", "nowhere.opt"]) == 2
    assert main(["compile", "rules.opt", "--after", "nothing"]) == 2


def test_the_graph_after_a_pass(spec: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compile", "rules.opt", "--after", "check"]) == 0
    assert "grad" in capsys.readouterr().out and not Path("descent.py").exists()
    assert main(["compile", "rules.opt", "--after", "fold", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["after"] == "fold"
