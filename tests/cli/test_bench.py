"""`optc bench`: the figures for a program, the page, what is refused. No times are tested."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from optc.bench import sets
from optc.cli import main

STARTS = ("cold 10", "cold 1000", "warm 10")
EXAMPLES = Path(__file__).parents[2] / "examples"


def bench(name: str, *more: str) -> int:
    return main(["bench", str(EXAMPLES / f"{name}.opt"), "--sets", "tiny", "--rounds", "3", *more])


@pytest.mark.parametrize("name", ["adamw", "sgd", "sam_adamw", "clipped_adamw", "muon_adamw"])
def test_the_figures_of_a_step(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench(name, "--json", "--parts", "steps") == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"machine", "rounds", "note", "rules"}
    (rule,) = found["rules"]
    assert rule["against"] == rule["rule"] == name
    step = rule["sets"]["tiny"]
    assert {"optc", "torch fused", "torch foreach"} <= set(step["ms"])
    assert set(step["ratios"]["torch fused"]) == {"median", "low", "high", "best"}
    assert step["failed"] == {}
    assert step["rebuilds"] == 0
    assert (step["tensors"], step["elements"]) == (5, 1040)


def test_bytes_are_those_of_the_emitted_phases(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench("adamw", "--json", "--parts", "steps") == 0
    step = json.loads(capsys.readouterr().out)["rules"][0]["sets"]["tiny"]
    assert step["bytes_a_parameter"] == 28
    assert step["launches"] == 1


def test_fresh_processes(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench("adamw", "--json", "--parts", "compile,memory") == 0
    (rule,) = json.loads(capsys.readouterr().out)["rules"]
    assert set(rule["compile"]) == {*STARTS, "second step", "builds"}
    assert rule["compile"]["builds"]["warm 10"] == 0
    assert rule["compile"]["builds"]["cold 10"] == rule["compile"]["builds"]["cold 1000"]
    assert set(rule["memory"]) == {"set", "optc", "torch fused", "torch foreach"}


def test_a_page_with_its_plot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "benchmark.md"
    assert bench("sgd", "--parts", "steps", "--out", str(page), "--note", "It rained.") == 0
    text = page.read_text()
    assert "| sgd | tiny: 0.00104 M | 5 | torch fused |" in text
    assert "It rained." in text and "(benchmark.png)" in text
    assert page.with_suffix(".png").stat().st_size
    assert str(tmp_path) not in text and capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "more",
    [
        ["--sets", "giant"],
        ["--parts", "taste"],
        ["--against", "nobody"],
        ["--rounds", "1"],
        ["--device", "cuda:99"],
    ],
)
def test_what_is_refused(more: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert bench("adamw", *more) == 2
    assert capsys.readouterr().err.startswith("optc: ")


def test_the_sets_are_those_of_the_models() -> None:
    counts = {name: len(make()) for name, make in sets.SETS.items()}
    assert counts == {"gpt2": 148, "resnet": 161, "small": 1000, "tiny": 5}
    kernel = sets.scaled(sets.resnet(), 1e6)["stage0.0.middle.weight"]
    assert kernel[2:] == (3, 3) and kernel[0] < 64
