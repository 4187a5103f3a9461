"""`optc verify`: every way of running a rule agrees, and where one does not, the status says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from optc.cli import main, references, verify

EXAMPLES = Path(__file__).parents[2] / "examples"


def found(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    return {(r["first"], r["second"]): r for r in json.loads(capsys.readouterr().out)["rows"]}


@pytest.mark.parametrize("name", ["adamw", "sgd", "sam_adamw", "muon_adamw"])
def test_an_example_agrees_with_itself_and_with_torch(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(EXAMPLES / f"{name}.opt"), "--steps", "5", "--json"]) == 0
    rows = found(capsys)
    assert rows["interpreter", "eager"]["gaps"]["float64"] <= 1e-12
    alone = [r for (_, second), r in rows.items() if second == "standalone module"]
    assert [set(r["gaps"].values()) for r in alone] == [{0.0}]
    others = {second for _, second in rows if "torch.optim" in second}
    assert len(others) == (0 if name == "sam_adamw" else 1)


def test_the_table_names_every_way(capsys: pytest.CaptureFixture[str]) -> None:
    path = str(EXAMPLES / "sign_momentum.opt")
    assert main(["verify", path, "--steps", "2", "--dtype", "float32"]) == 0
    said = capsys.readouterr().out
    for word in ("interpreter - eager", "standalone module", "float32", "tolerance", "all agree"):
        assert word in said
    assert "float64" not in said


def test_a_rule_that_is_not_what_its_name_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "sgd.opt"
    path.write_text("rule sgd(lr: positive = 0.1):\n    w <- w - 2 * lr * grad(w)\n")
    assert main(["verify", str(path), "--steps", "2"]) == 1
    said = capsys.readouterr().out
    assert "above the tolerance: c - torch.optim.SGD" in said.replace("eager - ", "c - ")


def test_bfloat16_is_the_rounding_of_what_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    path = str(EXAMPLES / "adamw.opt")
    assert main(["verify", path, "--steps", "5", "--dtype", "bfloat16", "--json"]) == 0
    gap = found(capsys)["interpreter", "eager"]["gaps"]["bfloat16"]
    assert 0 < gap < 0.04


def test_a_rule_may_have_several_losses(tmp_path: Path) -> None:
    path = tmp_path / "two.opt"
    path.write_text(
        "rule a(lr = 0.1):\n    loss b, c\n    w <- w - lr * max(grad(b, w), grad(c, w))\n"
    )
    assert main(["verify", str(path), "--steps", "2"]) == 0


def test_a_product_by_a_gradient_that_some_tensor_lacks(tmp_path: Path) -> None:
    path = tmp_path / "curved.opt"
    path.write_text(
        "rule a(lr = 0.1):\n    g = grad(w)\n    w <- w - lr * hvp(loss, w, g) - lr * g\n"
    )
    assert main(["verify", str(path), "--steps", "3"]) == 0


def test_the_command_line_is_checked(capsys: pytest.CaptureFixture[str]) -> None:
    path = str(EXAMPLES / "adamw.opt")
    assert main(["verify", path, "--steps", "0"]) == 2
    assert main(["verify", path, "--dtype", "int8"]) == 2


def test_a_reference_understands_all_options() -> None:
    assert references.reference("adam", {"lr": 1, "betas": (0, 0)}) is not None
    assert references.reference("adam", {"lr": 1, "warmup": 3}) is None
    assert references.reference("mine", {}) is None


def test_nan_is_a_difference_unless_both_have_it() -> None:
    import torch

    a, b = torch.tensor([1.0, float("nan")]), torch.tensor([1.0, 2.0])
    assert verify._gap(a, a, b) == 0.0 and verify._gap(a, b, b) == float("inf")
