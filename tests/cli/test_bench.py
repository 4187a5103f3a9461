"""`optc bench`: the figures for a program, the page, what is refused. No times are tested."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from optc.bench import fresh, goals, measure, roof, sets
from optc.bench.peers import torchs
from optc.cli import main

STARTS = ("cold 10", "cold 1000", "warm 10")
EXAMPLES = Path(__file__).parents[2] / "examples"


def bench(name: str, *more: str) -> int:
    return main(["bench", str(EXAMPLES / f"{name}.opt"), "--sets", "tiny", "--rounds", "3", *more])


RULES = ("adamw", "sgd", "sam_adamw", "clipped_adamw", "muon_adamw", "cautious_adamw")


@pytest.mark.parametrize("name", RULES)
def test_the_figures_of_a_step(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench(name, "--json", "--parts", "steps") == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"machine", "rounds", "note", "rules"}
    (rule,) = found["rules"]
    assert rule["against"] == rule["rule"] == name
    step = rule["sets"]["tiny"]
    fused = set() if name == "cautious_adamw" else {"torch fused"}
    assert {"optc", "torch foreach"} | fused <= set(step["ms"])
    assert set(step["ratios"]["torch foreach"]) == {"median", "low", "high", "best"}
    assert (step["of_roof"] is None) == (name == "muon_adamw")
    assert step["failed"] == {}
    assert step["rebuilds"] == 0
    assert (step["tensors"], step["elements"]) == (5, 1040)


def test_bytes_are_those_of_the_emitted_phases(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench("adamw", "--json", "--parts", "steps") == 0
    step = json.loads(capsys.readouterr().out)["rules"][0]["sets"]["tiny"]
    assert step["bytes_a_parameter"] == 28
    assert step["launches"] == 1


def test_a_kernel_with_the_same_streams_reads_and_writes_what_the_rule_does() -> None:
    rule = EXAMPLES / "cautious_adamw.opt"
    tensors = sets.Tensors(sets.tiny(), dtype=torch.bfloat16)
    schedule = str(EXAMPLES / "schedules" / "bf16.opt")
    optimizer, step = measure.ours(str(rule), tensors, {}, schedule)
    step()
    found = roof.passes(optimizer)
    moved = sum(sum(one.reads.values()) + sum(one.writes.values()) for one in found)
    assert moved == measure._traffic(optimizer)["bytes_a_parameter"] == 40
    assert [len(one.writes) for one in found] == [0, 3, 2]  # norm; moments, direction; w, average
    run = roof.roof(optimizer, "cpu")
    assert run is not None
    run()


def test_whole_steps_on_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench("sam_adamw", "--json", "--parts", "model", "--scale", "100") == 0
    (rule,) = json.loads(capsys.readouterr().out)["rules"]
    found = rule["model"]
    assert found["failed"] == {}
    assert set(found["overhead"]) == set(found["ms"]) - {"two gradients"}
    assert found["own"]["median"] > 0


def test_curvature_is_that_of_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench("psgd", "--json", "--parts", "steps,model", "--scale", "100") == 0
    (rule,) = json.loads(capsys.readouterr().out)["rules"]
    assert "sets" not in rule and rule["model"]["failed"] == {}
    assert rule["model"]["own"] is None


def test_a_peer_that_fails_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(_: object) -> None:
        raise ValueError("no such thing")

    monkeypatch.setattr(measure, "peers", lambda kind, compiled=False: {"some library": broken})
    page = tmp_path / "benchmark.md"
    assert bench("adamw", "--parts", "steps", "--out", str(page)) == 0
    line = "- some library did not run adamw on tiny: 0.00104 M: ValueError: no such thing"
    assert line in page.read_text()
    report = json.loads(page.with_suffix(".json").read_text())
    assert report["rules"][0]["sets"]["tiny"]["ratios"] == {}


def test_goals_are_judged_by_their_worst_case() -> None:
    def found(peer: str, ratio: float, roofed: float) -> dict[str, Any]:
        ratios = {peer: {"median": ratio}, "torch.compile": {"median": 0.9}}
        return {
            "elements": 10**7,
            "tensors": 148,
            "ratios": ratios,
            "of_roof": {"median": roofed},
        }

    rules = [
        {"rule": "adamw", "against": "adamw", "sets": {"gpt2": found("torch fused", 0.71, 1.0)}},
        {
            "rule": "sgd",
            "against": "sgd",
            "sets": {"large": found("torch foreach", 0.4, 0.93), "gpt2": found("other", 0.45, 0.5)},
        },
        {
            "rule": "sam_adamw",
            "against": "sam_adamw",
            "model": {"model": "small", "own": None, "overhead": {"optc": {"median": 0.02}}},
        },
    ]
    found_all = goals.findings(rules)
    by_bound = {f.bound: f for f in found_all}
    assert (by_bound["<= 0.7"].value, by_bound["<= 0.7"].met) == (0.71, False)
    assert (by_bound["<= 0.5"].value, by_bound["<= 0.5"].met) == (0.45, True)
    assert (by_bound[">= 0.9"].value, by_bound[">= 0.9"].where) == (0.93, "sgd, 10 M")
    assert [f.met for f in found_all if f.bound == "<= 0.03"] == [True, None]
    assert by_bound["<= 0.2"].met is None


def test_fresh_processes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fresh, "peers", torchs)  # libraries take seconds to import
    assert bench("adamw", "--json", "--parts", "compile,memory") == 0
    (rule,) = json.loads(capsys.readouterr().out)["rules"]
    assert set(rule["compile"]) == {*STARTS, "second step", "builds"}
    assert rule["compile"]["builds"]["warm 10"] == 0
    assert rule["compile"]["builds"]["cold 10"] == rule["compile"]["builds"]["cold 1000"]
    assert rule["memory"]["failed"] == {}
    assert {"optc", "torch fused", "torch foreach"} <= set(rule["memory"]["peaks"])


def test_a_page_with_its_plot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "benchmark.md"
    assert bench("sgd", "--parts", "steps", "--out", str(page), "--note", "It rained.") == 0
    text = page.read_text()
    assert "| sgd | tiny: 0.00104 M | 5 | torch fused |" in text
    assert "It rained." in text and "(benchmark.png)" in text
    assert "| Muon over the fastest peer, GPT-2's shapes | <= 1 | not measured |" in text
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
        ["--out", "no/such/folder/benchmark.md"],
    ],
)
def test_what_is_refused(more: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert bench("adamw", *more) == 2
    assert capsys.readouterr().err.startswith("optc: ")


def test_the_sets_are_those_of_the_models() -> None:
    counts = {name: len(make()) for name, make in sets.SETS.items()}
    assert counts == {
        **{"gpt2": 148, "resnet": 161, "small": 1000},
        **{"large": 4, "block": 14, "tiny": 5},
    }
    kernel = sets.scaled(sets.resnet(), 1e6)["stage0.0.middle.weight"]
    assert kernel[2:] == (3, 3) and kernel[0] < 64
