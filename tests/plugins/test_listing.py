"""`optc list` and `optc show` say what there is, without torch."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from optc.cli import main
from optc.compiler.parse import parse
from optc.compiler.source import Source
from optc.compiler.syntax import Primitive


def test_a_primitive_is_listed_with_its_meaning(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--kind", "clip"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "clip"
    (line,) = (x for x in lines if x.split()[0] == "global_norm")
    assert "norm over the whole model is at most" in line


def test_a_kind_or_a_word_shortens_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "clip"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "clip"
    assert main(["list", "Sharpness"]) == 0
    shown = capsys.readouterr().out
    assert "wsam" in shown and "global_norm" not in shown
    assert main(["list", "no such thing"]) == 2


def test_the_list_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    rows = {(r["kind"], r["name"]): r for r in found["primitives"]}
    assert rows["precondition", "adam"]["origin"] == "optc"
    assert all(r["meaning"] for r in rows.values())
    assert {"failures", "clashes"} <= set(found)


def test_papers_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--papers", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == 188
    assert main(["list", "--papers"]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    nothing = [r["id"] for r in rows if not (r["primitives"] or r["missing"])]
    assert [int(x.split()[0]) for x in lines if "offers no primitive" in x] == nothing
    assert sum(int(x) for x in last.replace(",", "").split()[::2]) == 188


def test_what_is_shown_is_the_primitive(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "clip/global_norm"]) == 0
    (item,) = parse(Source("shown", capsys.readouterr().out)).items
    assert isinstance(item, Primitive) and item.name == "global_norm" and item.checks


def test_all_kinds_of_a_name_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "ema"]) == 0
    shown = capsys.readouterr().out
    assert "smooth ema(" in shown and "function ema(" in shown


def test_what_is_built_in_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "norm"]) == 0
    assert "norm(x, over)" in (shown := capsys.readouterr().out) and "Euclidean norm" in shown


@pytest.mark.parametrize("name", ["adm", "../clip/value", "clip/../clip/value"])
def test_an_unknown_name_gets_the_nearest(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", name]) == 2
    assert f"unknown primitive '{name}'" in capsys.readouterr().err


def test_the_public_names_are_listed_without_torch() -> None:
    code = (
        "import sys, optc; names = dir(optc); "
        "assert {'load', 'loads', 'Optimizer', 'primitive', '__version__'} <= {*names}; "
        "assert 'annotations' not in names; sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("arguments", [["list"], ["list", "--papers"], ["show", "adam"]])
def test_neither_imports_torch(arguments: list[str]) -> None:
    code = (
        "import sys; from optc.cli import main; "
        f"assert main({arguments}) == 0; sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
