"""The README says nothing that does not work: its rules are read, its commands run in order."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from optc.cli import available

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")

# Commands that are too slow or reach too far for a test of their own, and where they are run.
ELSEWHERE = {
    "optc train": "tests/cli/test_train.py, and `make demo`",
    "pip install": "tests/cli/test_new.py, which installs into a folder of its own",
    "optc plugin": "tests/cli/test_new.py, where the plugin is installed",
}


def fences(language: str) -> list[str]:
    """The blocks of the README in that language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


COMMANDS = [line for fence in fences("sh") for line in fence.splitlines() if line.strip()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all commands: the later ones use what the earlier ones wrote."""
    return tmp_path_factory.mktemp("readme")


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_run(command: str, folder: Path):
    program, verb, *_ = words = shlex.split(command)
    if (where := ELSEWHERE.get(f"{program} {verb}")) is not None:
        pytest.skip(f"run elsewhere: {where}")
    if verb not in available():
        pytest.skip(f"`optc {verb}` is not built yet")
    assert program == "optc", "only optc's own commands run here"
    subprocess.run(
        [sys.executable, "-m", "optc", *words[1:]],
        cwd=folder,
        env={**os.environ, "PYTHONSAFEPATH": "1"},
        stdin=subprocess.DEVNULL,
        check=True,
        timeout=120,
    )


@pytest.mark.parametrize("text", fences("opt"))
def test_rules_are_read(text: str):
    parse = pytest.importorskip("optc.compiler.parse").parse
    source = pytest.importorskip("optc.compiler.source").Source
    assert parse(source("README.md", text))


def test_a_closure_under_a_scaler_runs_as_it_is_shown(monkeypatch: pytest.MonkeyPatch):
    import torch

    import optc

    (text,) = [fence for fence in fences("python") if "scaler" in fence]
    monkeypatch.chdir(Path(__file__).parent.parent)
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 1)
    names = {
        "optc": optc,
        "model": model,
        "scaler": torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=1),
        "criterion": torch.nn.functional.mse_loss,
        "x": torch.randn(8, 3),
        "y": torch.randn(8, 1),
    }
    twin = torch.nn.Linear(3, 1)
    twin.load_state_dict(model.state_dict())
    exec(text, names)  # what the reader would type
    assert names["scaler"].get_scale() == 2048.0
    plain = optc.load("examples/sam_adamw.opt")(twin.parameters())

    def closure():
        plain.zero_grad()
        loss = names["criterion"](twin(names["x"]), names["y"])
        loss.backward()
        return loss

    plain.step(closure)
    torch.testing.assert_close(model.weight, twin.weight)
    before = model.weight.detach().clone()
    names["x"][0, 0] = float("inf")
    names["optimizer"].step(names["closure"])
    names["scaler"].update()
    assert torch.equal(model.weight, before) and names["scaler"].get_scale() == 1024.0


def test_every_make_target_of_the_readme_exists():
    makefile = (Path(__file__).parent.parent / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"\bmake (\w+)", README):
        assert f"\n{target}:" in makefile


def test_the_readme_shows_something():
    assert len(COMMANDS) > 3 and fences("opt") and fences("python")
