"""A plugin in a package of its own, installed by pip and used."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

STRANGER = Path(__file__).parents[1] / "stranger"

USE = """
import json, sys, torch, optc
from optc.plugins.registry import library
steps = ("clip softly(0.5)", "precondition blended_sign(0.5)", "step lr")
rule = "rule r(lr = 0.1):\\n" + "".join(f"    {s}\\n" for s in steps)
p = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
opt = optc.loads(rule)([p])
for _ in range(3):
    p.grad = p.detach().clone()
    opt.step()
print(json.dumps({"p": p.tolist(), "state": sorted(opt.state[p]), "failures": library().failures}))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stranger's package and a broken one, in a folder of their own."""
    folder = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    command = [*pip, "--no-build-isolation", "--target", str(folder), str(STRANGER)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    info = folder / "broken-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[optc]\nbroken = optc_broken\n")
    (folder / "optc_broken.py").write_text("raise RuntimeError('not today')\n")
    return folder


def run(installed: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)


def test_it_is_used_like_the_built_in_library(installed: Path) -> None:
    done = run(installed, sys.executable, "-c", USE)
    assert done.returncode == 0, done.stderr
    assert "blended_sign.average" in done.stdout
    assert "not today" in done.stdout


def test_it_keeps_the_contract(installed: Path) -> None:
    done = run(installed, sys.executable, "-m", "optc", "plugin", "test", "stranger")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed, 0 failed" in done.stdout


def test_a_broken_plugin_takes_nothing_down(installed: Path) -> None:
    done = run(installed, sys.executable, "-m", "optc", "list")
    assert done.returncode == 0 and "softly" in done.stdout
    assert "broken could not be imported: RuntimeError: not today" in done.stdout


def test_a_name_clash_names_both(installed: Path) -> None:
    (installed / "optc_twin.py").write_text(
        "from optc_stranger import optc_libraries, optc_primitives\n"
    )
    info = installed / "twin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: twin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[optc]\ntwin = optc_twin\n")
    try:
        done = run(installed, sys.executable, "-c", USE)
        assert "E501" in done.stderr and "stranger" in done.stderr and "twin" in done.stderr
    finally:
        (info / "entry_points.txt").unlink()
