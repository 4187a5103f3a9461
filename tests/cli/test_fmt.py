"""`optc fmt`: in place and atomic, between the forms, and without a change of meaning."""

from __future__ import annotations

import io
import json

import pytest

from optc.cli import main

CANONICAL = '''"""Plain descent."""
rule descent(lr: positive = 0.1):
    # down the hill
    w <- w - lr * grad(w)
'''
UNTIDY = CANONICAL.replace("lr: positive = 0.1", "lr:positive=0.1").replace(" - lr *", "-lr*")
WRONG = "rule descent(:\n"


@pytest.fixture
def canonical(tmp_path) -> str:
    """The canonical text, as fmt itself writes it."""
    path = tmp_path / "start.opt"
    path.write_text(CANONICAL)
    assert main(["fmt", str(path)]) == 0
    return path.read_text()


def test_a_file_is_rewritten_where_it_stands(tmp_path, canonical):
    path = tmp_path / "a.opt"
    path.write_text(UNTIDY)
    path.chmod(0o640)
    assert main(["fmt", str(path)]) == 0
    assert path.read_text() == canonical
    assert path.stat().st_mode & 0o777 == 0o640
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.opt", "start.opt"]


def test_a_canonical_file_is_not_touched(tmp_path, canonical):
    path = tmp_path / "a.opt"
    path.write_text(canonical)
    before = path.stat()
    assert main(["fmt", str(path)]) == 0
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_check_tells_and_changes_nothing(tmp_path, canonical, capsys):
    path = tmp_path / "a.opt"
    path.write_text(UNTIDY)
    assert main(["fmt", "--check", str(path)]) == 1
    assert path.read_text() == UNTIDY
    assert str(path) in capsys.readouterr().err
    path.write_text(canonical)
    assert main(["fmt", "--check", str(path)]) == 0


def test_standard_input_goes_to_standard_output(canonical, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO(UNTIDY))
    assert main(["fmt", "-"]) == 0
    assert capsys.readouterr().out == canonical


def test_yaml_and_back_is_the_same_text(tmp_path, canonical):
    opt, yaml, again = (str(tmp_path / name) for name in ("a.opt", "a.yaml", "b.opt"))
    (tmp_path / "a.opt").write_text(canonical)
    assert main(["fmt", opt, "--to", "yaml", "-o", yaml]) == 0
    assert (tmp_path / "a.opt").read_text() == canonical
    assert main(["fmt", yaml, "--to", "opt", "-o", again]) == 0
    assert (tmp_path / "b.opt").read_text() == canonical


def test_a_conversion_goes_to_standard_output_or_into_a_folder(tmp_path, canonical, capsys):
    path = tmp_path / "a.opt"
    path.write_text(canonical)
    (tmp_path / "out").mkdir()
    assert main(["fmt", str(path), "--to", "yaml"]) == 0
    assert main(["fmt", str(path), "--to", "yaml", "-o", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "a.yaml").read_text() == capsys.readouterr().out


def test_a_wrong_file_is_left_and_the_others_are_formatted(tmp_path, canonical, capsys):
    wrong, untidy = tmp_path / "wrong.opt", tmp_path / "a.opt"
    wrong.write_text(WRONG)
    untidy.write_text(UNTIDY)
    assert main(["fmt", str(wrong), str(untidy), "--json"]) == 1
    (found, *_) = json.loads(capsys.readouterr().out)
    assert found["path"] == str(wrong)
    assert wrong.read_text() == WRONG
    assert untidy.read_text() == canonical


@pytest.mark.parametrize("arguments", [["no/such.opt"], ["."], ["-", "-", "-o", "one.opt"]])
def test_a_wrong_command_line_is_2(arguments, capsys):
    assert main(["fmt", *arguments]) == 2
    assert "optc: " in capsys.readouterr().err


def test_what_is_no_text_is_said_to_be_none(tmp_path, capsys):
    path = tmp_path / "a.opt"
    path.write_bytes(b"\xff\xfe\x00")
    assert main(["fmt", str(path)]) == 2
    assert "UTF-8" in capsys.readouterr().err
