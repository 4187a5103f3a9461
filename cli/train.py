"""`optc train`: a rule and a baseline on a real problem, from the same start, side by side."""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import fmean, median
from time import perf_counter
from typing import TYPE_CHECKING, Any, cast

from .problems import PROBLEMS, load
from .settings import add_set, settings
from .terminal import UsageError, paint

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer

    from .problems.problem import Batch, Problem

    Factory = Callable[[Iterable[tuple[str, nn.Parameter]]], Optimizer]

BASELINES = ("adamw", "sgd")
HELP = """Train a small model with a rule and with a baseline, side by side from the same start.

Both see the same batches, one step each in turn; a table says what came of it."""


@dataclass
class Run:
    """What one optimizer did: a loss and two times (seconds) a step, the metrics at the end.

    `lost` is the step from which on no loss was finite, 0 where the last one is.
    """

    name: str
    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    update_seconds: list[float] = field(default_factory=list)
    gradients: int = 0
    lost: int = 0
    metrics: dict[str, float] = field(default_factory=dict)

    def summary(self) -> dict[str, float]:
        """The numbers of the table. The first step is apart: a compiler may be at work in it."""
        later = slice(1, None) if len(self.seconds) > 1 else slice(None)
        tail = self.losses[-max(1, len(self.losses) // 10) :]
        step = median(self.seconds[later])
        return {
            "train loss": fmean(tail),
            **{f"test {name}": value for name, value in self.metrics.items()},
            "gradients/step": self.gradients / len(self.seconds),
            "steps/s": 1 / step,
            "step ms": 1e3 * step,
            "update ms": 1e3 * median(self.update_seconds[later]),
            "first step ms": 1e3 * self.seconds[0],
        }


class Trainee:
    """A model with its optimizer, and the record of its run."""

    def __init__(self, name: str, problem: Problem, factory: Factory, seed: int, device: str):
        self.problem, self.device = problem, device
        self.model = problem.model(seed).to(device)
        # With their names, so that a rule may treat parameters by name.
        self.optimizer = factory(list(self.model.named_parameters()))
        self.run = Run(name)
        self.inside, self.first = 0.0, cast("Tensor | None", None)
        self.bound = self._bind(getattr(self.optimizer, "program", None))

    def _bind(self, program: Any) -> bool:
        """Whether the rule asks for more than a closure can answer; it then gets the objective."""
        if program is not None and len(program.objectives) > 1:
            losses = " and ".join(f"`{name}`" for name in program.objectives)
            raise UsageError(f"{self.run.name} has the losses {losses}, and the problems have one")
        if program is None or program.level != "objective":
            return False
        cast(Any, self.optimizer).bind(model=self.model, objective=self._loss)
        return True

    def step(self, batch: Batch) -> None:
        """One step, timed; what the loss takes (and its gradient, in a closure) is not the update's
        time.
        """
        batch = tuple(part.to(self.device) for part in batch)
        self.inside, self.first = 0.0, None
        optimizer: Any = self.optimizer  # torch says that losses are floats
        start = self._now()
        try:
            if self.bound:
                returned = optimizer.step(batch=batch)
            else:
                returned = optimizer.step(lambda: self._loss(batch, backward=True))
        except (RuntimeError, TypeError, ValueError) as error:
            if not hasattr(optimizer, "program"):
                raise
            raise UsageError(f"{self.run.name}: {error}") from error
        seconds = self._now() - start
        self.run.seconds.append(seconds)
        self.run.update_seconds.append(seconds - self.inside)
        loss = self.first if returned is None else returned
        self.run.losses.append(_as_float(loss))
        if loss is not None:
            self._note(self.run.losses[-1:], len(self.run.losses))

    def _note(self, found: Iterable[float], step: int) -> None:
        """A rule that recovers (it leaves such steps out, say) is not lost."""
        self.run.lost = 0 if all(map(math.isfinite, found)) else self.run.lost or step

    def _loss(self, batch: Batch, backward: bool = False) -> Tensor:
        start = self._now()
        if backward:
            self.optimizer.zero_grad()
        loss = self.problem.loss(self.model, batch)
        if backward:
            loss.backward()
        self.inside += self._now() - start
        self.first = loss.detach() if self.first is None else self.first
        self.run.gradients += 1
        return loss

    def evaluate(self) -> None:
        """The metrics, at the weights that the optimizer means for use."""
        self.switch("eval")
        self.model.eval()
        self.run.metrics = self.problem.evaluate(self.model)
        self.model.train()
        self.switch("train")
        if not self.run.lost:
            self._note(self.run.metrics.values(), len(self.run.losses) + 1)

    def switch(self, mode: str) -> None:
        """Some optimizers hold other weights in training than in use."""
        getattr(self.optimizer, mode, lambda: None)()

    def _now(self) -> float:
        if self.device.startswith("cuda"):
            import torch

            torch.cuda.synchronize()
        return perf_counter()


def train(
    optimizer_factories: Mapping[str, Factory],
    problem: Problem,
    epochs: int,
    seed: int = 0,
    progress: bool = True,
    out: str | Path | None = None,
    device: str = "cpu",
) -> list[Run]:
    """Train one model an optimizer, in turns; `out` is where a picture of the losses goes."""
    trainees = [
        Trainee(name, problem, factory, seed, device)
        for name, factory in optimizer_factories.items()
    ]
    for trainee in trainees:
        trainee.switch("train")
    _warm_up(problem, seed, device)
    with _bar(progress) as bar:
        for epoch in range(epochs):
            # Every epoch has its own order, and no two runs with different seeds share one.
            for batch in problem.batches(seed * 100_003 + epoch):
                for trainee in trainees:
                    trainee.step(batch)
                bar.update()
                if bar.n % 10 == 0:
                    bar.set_postfix({t.run.name: f"{t.run.losses[-1]:.3g}" for t in trainees})
            # How long an epoch is shows at the end of the first.
            bar.total = bar.total or bar.n * epochs
    for trainee in trainees:
        trainee.evaluate()
    runs = [trainee.run for trainee in trainees]
    if out is not None:
        plot(runs, problem.name, out)
    return runs


def table(runs: Sequence[Run]) -> str:
    """A column a run; two runs are also compared: the first over the second, the baseline."""
    summaries = [run.summary() for run in runs]
    compare = len(runs) == 2
    lines = [["", *(run.name for run in runs), *(["ratio"] * compare)]]
    for head in summaries[0]:
        values = [summary[head] for summary in summaries]
        ratio = [f"{values[0] / values[1]:.2f}" if values[1] else "-"] * compare
        lines.append([head, *(_number(head, value) for value in values), *ratio])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])])
        for line in lines
    )


def plot(runs: Sequence[Run], title: str, path: str | Path) -> None:
    """The smoothed losses over the steps, as a picture."""
    from matplotlib.figure import Figure

    # A figure without pyplot: no window, no global state, whatever backend is set.
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    for run in runs:
        (line,) = axes.plot(_smooth(run.losses), label=run.name)
        axes.plot(run.losses, color=line.get_color(), alpha=0.2, linewidth=0.8)
    if not any(loss <= 0 for run in runs for loss in run.losses):
        axes.set_yscale("log")
    axes.set(title=title, xlabel="step", ylabel="training loss")
    axes.legend()
    figure.savefig(path, dpi=120)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    problems = "; ".join(f"{name}: {what}" for name, what in PROBLEMS.items())
    parser.add_argument("spec", help="the rule, a .opt or .yaml file")
    parser.add_argument("--problem", choices=PROBLEMS, default="digits", help=problems)
    parser.add_argument(
        "--baseline", default="adamw", metavar="adamw|sgd|SPEC", help="what to compare with (adamw)"
    )
    parser.add_argument("--epochs", type=_positive, default=8, help="passes over the data (8)")
    parser.add_argument("--seed", type=int, default=0, help="of the start and the batches (0)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ... (cpu)")
    add_set(parser, "--set", "an option of the rule")
    add_set(parser, "--baseline-set", "an option of the baseline")
    parser.add_argument("--plot", metavar="PNG", help="draw both losses into this file")
    parser.add_argument("--json", action="store_true", help="every loss and time, for a program")


def run(args: argparse.Namespace) -> int:
    factories = {
        Path(args.spec).name: rule(args.spec, settings(args.set)),
        **baseline(args.baseline, settings(args.baseline_set)),
    }
    if len(factories) == 1:
        raise UsageError(f"`{args.baseline}` would be compared with itself")
    _check_device(args.device)
    _check_plot(args.plot)
    problem = load(args.problem)
    show_progress = not args.json
    runs = train(factories, problem, args.epochs, args.seed, show_progress, args.plot, args.device)
    if args.json:
        print(json.dumps(_as_dict(args, runs), indent=2))
        return _tell_lost(args, runs)
    steps = len(runs[0].losses)
    print(paint(f"{problem.name}: {PROBLEMS[problem.name]}", "bold"))
    print(f"{args.epochs} epochs, {steps} steps, seed {args.seed}, {args.device}\n")
    print(table(runs))
    if args.plot:
        print(f"\nthe losses are drawn in {args.plot}")
    return _tell_lost(args, runs)


GUARD = "veto when not isfinite(norm(grad(w), over = model))"


def _tell_lost(args: argparse.Namespace, runs: Sequence[Run]) -> int:
    """Say which runs ended without a finite loss, and since when; the exit status."""
    for run, options in zip(runs, ("--set", "--baseline-set"), strict=True):
        if not run.lost:
            continue
        path = args.spec if options == "--set" else args.baseline
        looks = "" if path in BASELINES else f", look at what `optc explain {path}` says it does"
        guard = "" if path in BASELINES else f", or leave such steps out: `{GUARD}`"
        print(
            f"\noptc: {run.name}: no loss is finite from step {run.lost} on, of {len(run.losses)}\n"
            f"  help: take smaller steps (`{options} lr=..`){looks}{guard}",
            file=sys.stderr,
        )
    return int(any(run.lost for run in runs))


def rule(path: str, options: Mapping[str, Any]) -> Factory:
    """The optimizer class of a spec, with options set."""
    import optc

    made = optc.load(path)
    if made.program.workers:
        raise UsageError(f"{made.program.name} is over workers, and the problems have but one")
    return _careful(Path(path).name, partial(made, **options))


def baseline(name: str, options: Mapping[str, Any]) -> dict[str, Factory]:
    """One of torch's optimizers by its short name, or another spec; under the name to show."""
    if name not in BASELINES:
        return {Path(name).name: rule(name, options)}
    from torch import optim

    if name == "adamw":
        return {"torch AdamW": _careful("torch AdamW", partial(optim.AdamW, **options))}
    # torch's own defaults leave the momentum out.
    options = {"lr": 0.1, "momentum": 0.9, **options}
    return {"torch SGD": _careful("torch SGD", partial(optim.SGD, **options))}


def _careful(name: str, factory: Factory) -> Factory:
    """The same, where an option that the optimizer refuses is an error of the command line."""

    def build(parameters: Iterable[tuple[str, nn.Parameter]]) -> Optimizer:
        try:
            return factory(parameters)
        except (TypeError, ValueError) as error:
            raise UsageError(f"{name}: {error}") from error

    return build


def _check_device(device: str) -> None:
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        first = str(error).partition("\n")[0]
        raise UsageError(f"the device `{device}` is not to be had here: {first}") from error


def _check_plot(path: str | None) -> None:
    """Before the training: it would be a pity to find out behind it."""
    if path is None:
        return
    if not importlib.util.find_spec("matplotlib"):
        raise UsageError("a plot needs matplotlib: pip install matplotlib")
    if not Path(path).resolve().parent.is_dir():
        raise UsageError(f"{path}: there is no such folder")


def _bar(progress: bool) -> Any:
    from tqdm import tqdm

    return tqdm(unit="step", disable=not (progress and sys.stderr.isatty()), leave=False)


def _warm_up(problem: Problem, seed: int, device: str) -> None:
    """A first forward and backward loads parts of torch; no optimizer should be charged for it."""
    model = problem.model(seed).to(device)
    batch = next(problem.batches(seed))
    problem.loss(model, tuple(part.to(device) for part in batch)).backward()


def _as_float(loss: Any) -> float:
    if loss is None:
        return float("nan")
    return float(loss.detach() if hasattr(loss, "detach") else loss)


def _number(head: str, value: float) -> str:
    if "accuracy" in head:
        return f"{100 * value:.1f} %"
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"


def _smooth(losses: Sequence[float], keep: float = 0.9) -> list[float]:
    """A moving average that starts at the first loss."""
    smooth: list[float] = []
    for loss in losses:
        smooth.append(keep * smooth[-1] + (1 - keep) * loss if smooth else loss)
    return smooth


def _as_dict(args: argparse.Namespace, runs: Sequence[Run]) -> dict[str, Any]:
    """JSON knows no infinite numbers: they become null."""

    def finite(value: float) -> float | None:
        return value if abs(value) < float("inf") else None

    return {
        "problem": args.problem,
        "epochs": args.epochs,
        "seed": args.seed,
        "device": args.device,
        "runs": [
            {
                "name": run.name,
                "summary": {key: finite(value) for key, value in run.summary().items()},
                "losses": [finite(loss) for loss in run.losses],
                "step_seconds": run.seconds,
                "update_seconds": run.update_seconds,
            }
            for run in runs
        ],
    }


def _positive(text: str) -> int:
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"`{text}` is no number of epochs: 1 at least")
    return int(text)
