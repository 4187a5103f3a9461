"""`optc train`: fair, repeatable, and honest about what it measured."""

from __future__ import annotations

import json
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import optim

import optc
from optc.cli import main
from optc.cli.problems import PROBLEMS, load
from optc.cli.settings import settings
from optc.cli.terminal import UsageError
from optc.cli.train import GUARD, table, train

SGD = partial(optim.SGD, lr=0.1)


class Twice(optim.SGD):
    """Asks for two gradients a step, and notes which mode it was told to be in."""

    def __init__(self, parameters):
        super().__init__(parameters, lr=0.1)
        self.told = []

    def step(self, closure=None):
        with torch.enable_grad():
            closure()
        return super().step(closure)

    def train(self):
        self.told.append("train")

    def eval(self):
        self.told.append("eval")


def test_two_alike_from_the_same_start_stay_alike():
    first, second = train({"a": SGD, "b": SGD}, load("quadratic"), 1, progress=False)
    assert first.losses == second.losses
    assert first.metrics == second.metrics


def test_the_seed_decides_everything():
    losses = [
        train({"a": SGD}, load("quadratic"), 1, seed, progress=False)[0].losses
        for seed in (0, 0, 1)
    ]
    assert losses[0] == losses[1] != losses[2]


def test_the_problem_is_solved():
    (run,) = train({"sgd": SGD}, load("quadratic"), 8, progress=False)
    assert run.metrics["loss"] < 0.1 * run.losses[0]


def test_gradients_are_counted_and_modes_switched():
    made = []

    def factory(parameters):
        made.append(Twice(parameters))
        return made[-1]

    (run,) = train({"twice": factory}, load("rosenbrock"), 1, progress=False)
    assert run.gradients == 2 * len(run.losses)
    assert made[0].told == ["train", "eval", "train"]


def test_the_table_compares_with_the_baseline():
    runs = train({"mine": SGD, "theirs": SGD}, load("quadratic"), 1, progress=False)
    lines = table(runs).splitlines()
    assert lines[0].split() == ["mine", "theirs", "ratio"]
    assert len({len(line) for line in lines}) == 1
    assert "test loss" in table(runs) and "update ms" in table(runs)


def test_a_picture_is_drawn(tmp_path):
    path = tmp_path / "losses.png"
    train({"a": SGD, "b": SGD}, load("quadratic"), 1, progress=False, out=path)
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", PROBLEMS)
def test_every_problem_is_repeatable_and_trains(name):
    problem = load(name)
    assert problem.name == name
    first, second = problem.model(3), problem.model(3)
    for left, right in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(left, right)
    batch, again = next(problem.batches(5)), next(problem.batches(5))
    assert all(map(torch.equal, batch, again))
    loss = problem.loss(first, batch)
    assert loss.shape == () and loss.requires_grad
    before = problem.evaluate(first)["loss"]
    optimizer = optim.Adam(first.parameters(), lr=3e-3)
    for batch, _ in zip(problem.batches(0), range(20), strict=False):
        optimizer.zero_grad()
        problem.loss(first, batch).backward()
        optimizer.step()
    assert problem.evaluate(first)["loss"] < before


def test_problems_leave_the_global_generator_alone():
    before = torch.get_rng_state()
    train({"a": SGD}, load("digits"), 1, progress=False)
    assert torch.equal(before, torch.get_rng_state())


@pytest.fixture
def rule(monkeypatch):
    """`optc.load` gives torch's SGD, whatever the path: the verb is tested, not the compiler."""
    # Into the namespace itself: to ask for the attribute first would load all that is behind it.
    made = partial(optim.SGD, lr=0.1)
    made.program = SimpleNamespace(name="sgd", workers=False)
    monkeypatch.setitem(vars(optc), "load", lambda path: made)


def test_the_verb_prints_a_table(rule, capsys, tmp_path):
    plot = str(tmp_path / "a.png")
    arguments = "train mine.opt --problem quadratic --epochs 1 --set lr=0.05 --plot".split()
    assert main([*arguments, plot]) == 0
    out, err = capsys.readouterr()
    assert "mine.opt" in out and "torch AdamW" in out and plot in out
    assert err == "", "a progress bar is for terminals"


def test_the_verb_speaks_json(rule, capsys):
    arguments = "train mine.opt --problem quadratic --epochs 1 --baseline sgd --json".split()
    assert main(arguments) == 0
    found = json.loads(capsys.readouterr().out)
    assert [run["name"] for run in found["runs"]] == ["mine.opt", "torch SGD"]
    assert len(found["runs"][0]["losses"]) == 50


@pytest.mark.parametrize("as_json", [False, True])
def test_a_loss_that_is_lost_is_told_with_its_step(as_json, capsys, tmp_path):
    """The loss of a step is taken before it: of a step that makes it infinite, that is the next."""
    path = tmp_path / "mine.opt"
    path.write_text("rule mine(lr = 0.1):\n    w <- w - lr * grad(w) + where(call == 7, inf, 0)\n")
    command = ["train", str(path), "--problem", "quadratic", "--epochs", "1"]
    assert main([*command, *["--json"] * as_json]) == 1
    out, err = capsys.readouterr()
    assert "mine.opt: no loss is finite from step 8 on, of 50" in err
    assert f"`optc explain {path}`" in err and "`--set lr=..`" in err and err.count("optc:") == 1
    if as_json:
        assert json.loads(out)["runs"][0]["losses"].index(None) == 7


def test_a_baseline_that_is_lost_is_told_too(rule, capsys):
    command = "train mine.opt --problem quadratic --epochs 1 --baseline sgd --baseline-set lr=1e9"
    assert main(command.split()) == 1
    err = capsys.readouterr().err
    assert "optc: torch SGD: no loss is finite" in err and "`--baseline-set lr=..`" in err
    assert "mine.opt" not in err and "explain" not in err


@pytest.mark.parametrize(("at", "lost"), [(50, 51), (51, 0)])
def test_what_the_last_step_did_shows_in_the_metrics(at, lost, tmp_path):
    text = f"rule a(lr = 0.1):\n    w <- w - lr * grad(w) + where(call == {at}, inf, 0)\n"
    (run,) = train({"mine.opt": spec(tmp_path, text)}, load("quadratic"), 1, progress=False)
    assert run.lost == lost


def test_the_guard_that_is_suggested_recovers():
    """A loss that is not finite now and then, as a bad batch gives it."""
    problem, seen = load("quadratic"), []
    plain = problem.loss

    def loss(model, batch):
        seen.append(0)
        return plain(model, batch) * (float("nan") if len(seen) == 9 else 1)

    problem.loss = loss  # the first call warms torch up
    found = []
    for guard in (f"{GUARD}\n    ", ""):
        seen.clear()
        mine = optc.loads(f"rule a(lr = 0.1):\n    {guard}step lr\n")
        (run,) = train({"mine": mine}, problem, 1, progress=False)
        found.append((run.lost, sum(x != x for x in run.losses)))
    assert found == [(0, 1), (8, 43)]


@pytest.mark.parametrize(
    "wrong",
    [
        "--set lr",
        "--set lr=-1",
        "--set nonsense=1",
        "--epochs 0",
        "--device nowhere",
        "--problem nothing",
        "--plot no/such/folder/a.png",
        "--baseline elsewhere/mine.opt",
    ],
)
def test_a_wrong_command_line_is_2_and_no_traceback(rule, wrong, capsys):
    assert main(["train", "mine.opt", "--problem", "quadratic", *wrong.split()]) == 2
    assert "optc" in capsys.readouterr().err


def test_settings_are_literals_or_text():
    assert settings(["lr=1e-2", "betas=(0.9, 0.99)", "where=cpu"]) == {
        "lr": 0.01,
        "betas": (0.9, 0.99),
        "where": "cpu",
    }
    with pytest.raises(UsageError):
        settings(["3=4"])


def spec(folder, text):
    (folder / "mine.opt").write_text(text)
    return optc.cli.train.rule(str(folder / "mine.opt"), {})


def test_a_rule_that_asks_for_curvature_gets_the_objective(tmp_path):
    newton = "rule a(lr = 0.5):\n    w <- w - lr * (grad(w) + 0 * hvp(loss, w, w))\n"
    plain = "rule a(lr = 0.5):\n    step lr\n"
    runs = [
        train({"mine.opt": spec(tmp_path, text)}, load("quadratic"), 1, progress=False)[0]
        for text in (newton, plain)
    ]
    assert runs[0].losses == pytest.approx(runs[1].losses, rel=1e-5)


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ("loss b, c\n    w <- w - lr * (grad(b, w) + grad(c, w))", "`c`"),
        ("input x\n    w <- w - lr * x * grad(w)", "`x`"),
        ("loss b: model[parts]\n    w <- w - lr * sum(grad(b, w), over = parts)", "[parts]"),
    ],
)
def test_what_the_problems_lack_is_said(lines, says, tmp_path):
    mine = spec(tmp_path, f"rule a(lr = 0.1):\n    {lines}\n")
    with pytest.raises(UsageError) as wrong:
        train({"mine.opt": mine}, load("quadratic"), 1, progress=False)
    assert str(wrong.value).startswith("mine.opt") and says in str(wrong.value)
