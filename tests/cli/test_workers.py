"""What the command line says of rules over workers."""

from __future__ import annotations

from pathlib import Path

import pytest

from optc.cli import main

GOSSIP = str(Path(__file__).parents[2] / "examples" / "decentralized_sgd.opt")


def test_the_cost_sheet_says_what_is_sent(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", GOSSIP]) == 0
    said = capsys.readouterr().out
    assert "sent to each neighbour                at most 4 bytes a float32 parameter" in said
    assert "no: workers mix all tensors at once" in said


@pytest.mark.parametrize("verb", ["verify", "train"])
def test_a_problem_of_one_worker_is_refused(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, GOSSIP]) == 2
    assert "decentralized_sgd is over workers" in capsys.readouterr().err
