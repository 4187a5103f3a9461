"""The grammar's table is kept only where nobody else can write."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from optc.compiler.table_cache import table_file


def test_a_folder_of_ours_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPTC_CACHE_DIR", str(tmp_path / "own"))
    assert table_file() == str(tmp_path / "own" / "grammar.table")
    assert (tmp_path / "own").stat().st_mode & 0o777 == 0o700


def test_nothing_is_kept_where_others_can_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPTC_CACHE_DIR", str(tmp_path))
    os.chmod(tmp_path, 0o777)
    assert table_file() is None
    os.chmod(tmp_path, 0o700)
    (tmp_path / "grammar.table").symlink_to("/dev/null")
    assert table_file() is None
    monkeypatch.setenv("OPTC_CACHE_DIR", "relative")
    assert table_file() is None


def test_a_broken_table_is_built_anew(tmp_path: Path) -> None:
    (tmp_path / "grammar.table").write_bytes(b"not a table")
    os.chmod(tmp_path, 0o700)
    script = (
        "from optc.compiler.parse import parse; from optc.compiler.source import Source; "
        "print(parse(Source('r.opt', 'rule r(lr = 1):\\n    step lr\\n')).items[0].name)"
    )
    environment = {**os.environ, "OPTC_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", script]
    for _ in range(2):
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert done.stdout.strip() == "r", done.stderr
