"""`optc new`: what it writes is right, and it overwrites nothing."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tomllib
from importlib.metadata import distributions
from pathlib import Path

import pytest

from optc.cli import available, main


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


@pytest.mark.parametrize("name", ["Fast", "3rd", "a b", "../up", "rule", "norm", "class", "w", ""])
def test_a_name_that_the_language_cannot_take_is_refused(name, tmp_path, capsys):
    assert new("rule", name, tmp_path) == 2
    assert list(tmp_path.iterdir()) == []
    assert "name" in capsys.readouterr().err


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which a new plugin was installed by pip, as its reader would."""
    folder = tmp_path_factory.mktemp("plugin")
    assert new("plugin", "fast-sign", folder) == 0
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    subprocess.run(
        [*command, "--no-build-isolation", "--target", str(folder / "site"), "./optc-fast-sign"],
        cwd=folder,
        check=True,
        capture_output=True,
        stdin=subprocess.DEVNULL,
    )
    return folder / "site"


def test_a_new_plugin_installs_with_its_files_and_is_found(installed):
    assert (installed / "optc_fast_sign" / "precondition" / "fast_sign.opt").exists()
    (distribution,) = distributions(path=[str(installed)])
    (entry,) = distribution.entry_points.select(group="optc")
    assert entry.value == "optc_fast_sign"


@pytest.mark.skipif("plugin" not in available(), reason="`optc plugin` is not built yet")
def test_a_new_plugin_keeps_the_contract(installed):
    subprocess.run(
        [sys.executable, "-m", "optc", "plugin", "test", "optc_fast_sign"],
        env={**os.environ, "PYTHONPATH": str(installed), "PYTHONSAFEPATH": "1"},
        check=True,
        stdin=subprocess.DEVNULL,
    )


@pytest.mark.skipif("check" not in available(), reason="`optc check` is not built yet")
def test_a_new_rule_is_right_as_it_stands(tmp_path):
    assert new("rule", "fast_sign", tmp_path) == 0
    assert main(["check", str(tmp_path / "fast_sign.opt")]) == 0
