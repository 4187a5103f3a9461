"""The wheel holds what the tree holds: `packages` is a list by hand, and a gap in it is silent."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())
OUTSIDE = {"tests", "examples", "bench", "docs", "out", "build", "dist"}
DATA = {".lark", ".json", ".opt", ".tmpl", ".c", ".h", ".typed"}


def inside(path: Path) -> bool:
    """Whether the file belongs to the package, and not to the repository around it."""
    top, *_ = path.relative_to(ROOT).parts
    return not (top in OUTSIDE or top.startswith(".") or top.endswith(".egg-info"))


FILES = sorted(
    path
    for path in ROOT.rglob("*")
    if inside(path) and path.is_file() and "__pycache__" not in path.parts
)


def test_every_package_is_listed():
    found = {
        ".".join(["optc", *path.parent.relative_to(ROOT).parts])
        for path in FILES
        if path.name == "__init__.py"
    }
    assert found == set(SETTINGS["tool"]["setuptools"]["packages"])


def test_every_folder_with_code_is_a_package():
    """Only plugins/ has folders of kinds, which ship as data."""
    bare = {
        path.parent.relative_to(ROOT).as_posix()
        for path in FILES
        if path.suffix == ".py" and not (path.parent / "__init__.py").exists()
    }
    assert {folder for folder in bare if not folder.startswith("plugins/")} == set()


def test_no_stray_module_at_the_root():
    """Everything that lies there ships; conftest.py belongs into tests/."""
    assert {path.name for path in ROOT.glob("*.py")} == {"__init__.py", "__main__.py", "api.py"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """A wheel of a copy: building in the tree would leave a build/ that later wheels pick up."""
    folder = tmp_path_factory.mktemp("wheel")
    for path in [*FILES, ROOT / "README.md"]:
        target = folder / "tree" / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run(
        [*command, "--wheel-dir", str(folder), str(folder / "tree")],
        check=True,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def test_the_wheel_holds_every_file_of_the_package(wheel: zipfile.ZipFile):
    wanted = {
        f"optc/{path.relative_to(ROOT).as_posix()}"
        for path in FILES
        if path.suffix == ".py" or path.suffix in DATA
    }
    assert wanted - set(wheel.namelist()) == set()


def test_the_wheel_holds_nothing_else(wheel: zipfile.ZipFile):
    tops = {name.split("/")[1] for name in wheel.namelist() if name.startswith("optc/")}
    assert tops & (OUTSIDE | {".venv", "Makefile"}) == set()
