"""`optc new`: what it writes is right, and it overwrites nothing."""

from __future__ import annotations

import ast
import tomllib

import pytest

from optc.cli import main


def new(what: str, name: str, folder) -> int:
    return main(["new", what, name, "--directory", str(folder)])


def test_a_rule_gets_a_file_of_its_name(tmp_path, capsys):
    assert new("rule", "fast_sign", tmp_path) == 0
    assert "rule fast_sign(" in (tmp_path / "fast_sign.opt").read_text()
    assert str(tmp_path / "fast_sign.opt") in capsys.readouterr().out


def test_a_plugin_is_a_whole_package(tmp_path):
    assert new("plugin", "fast-sign", tmp_path) == 0
    root = tmp_path / "optc-fast-sign"
    settings = tomllib.loads((root / "pyproject.toml").read_text())
    assert settings["project"]["entry-points"]["optc"] == {"fast_sign": "optc_fast_sign"}
    assert (root / "optc_fast_sign" / "precondition" / "fast_sign.opt").exists()
    for path in root.rglob("*.py"):
        ast.parse(path.read_text())
    assert not any("$" in path.read_text() for path in root.rglob("*.*") if path.is_file())


@pytest.mark.parametrize("what", ["rule", "plugin"])
def test_nothing_is_overwritten(what, tmp_path, capsys):
    assert new(what, "mine", tmp_path) == 0
    path = next(path for path in tmp_path.rglob("*") if path.is_file())
    path.write_text("precious")
    assert new(what, "mine", tmp_path) == 2
    assert path.read_text() == "precious"
    assert "is left as it is" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["Fast", "3rd", "a b", "../up", "rule", "class", "w", ""])
def test_a_name_that_the_language_cannot_take_is_refused(name, tmp_path, capsys):
    assert new("rule", name, tmp_path) == 2
    assert list(tmp_path.iterdir()) == []
    assert "name" in capsys.readouterr().err
