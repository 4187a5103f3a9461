"""The pointer table and a hand-written AdamW kernel against torch.optim.AdamW(fused=True).

    .venv/bin/python bench/native.py

Prints the ratio of the medians of steps that alternate, after one warm-up, and the parts of a step.
"""

from __future__ import annotations

import functools
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from optc.runtime import launch, native
from optc.runtime.table import Table

KERNEL = Path(__file__).parent.parent / "tests" / "runtime" / "adamw.c"
CASES = (
    # elements in all, tensors, the ratio to reach, steps
    (10_000_000, 148, 0.7, 15),
    (2_100_000, 1000, 0.2, 15),
    (64_000, 1000, 0.1, 40),
)


class AdamW:
    """The step of an optimizer, cut down to what a launch costs."""

    def __init__(self, parameters: list[torch.nn.Parameter]) -> None:
        m = [torch.zeros_like(p) for p in parameters]
        v = [torch.zeros_like(p) for p in parameters]
        self.parameters = parameters
        self.table = Table([parameters, None, m, v], [torch.float32] * 4)
        self.host = torch.zeros(1, 6, dtype=torch.float64)
        library = native.load(native.header() + KERNEL.read_text())
        self.launch = launch.Launch(library.adamw, self.table, host=self.host)
        self.steps = 0

    def step(self) -> None:
        self.steps += 1
        bias1, bias2 = 1 - 0.9**self.steps, 1 - 0.999**self.steps
        scalars = [0.9, 0.999, 1e-8, 1 - 1e-3 * 1e-2, 1e-3 / bias1, 1 / math.sqrt(bias2)]
        self.host[0] = torch.tensor(scalars, dtype=torch.float64)
        self.table.refresh()
        self.launch.run()
        launch.increment_version(self.parameters)
        self.table.release()


def parameters(elements: int, tensors: int) -> list[torch.nn.Parameter]:
    made = [torch.nn.Parameter(torch.randn(elements // tensors)) for _ in range(tensors)]
    for p in made:
        p.grad = torch.randn_like(p)
    return made


def alternate(functions: list[Callable[[], None]], steps: int) -> list[float]:
    """The median time of each, in one process and in turn, so that noise meets all of them."""
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(steps + 1):
        for function, found in zip(functions, times, strict=True):
            start = time.perf_counter()
            function()
            found.append(time.perf_counter() - start)
    return [statistics.median(found[1:]) for found in times]


def main() -> None:
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    for elements, tensors, goal, steps in CASES:
        ours, theirs = parameters(elements, tensors), parameters(elements, tensors)
        mine = AdamW(ours)
        reference = torch.optim.AdamW(theirs, fused=True)
        step, fused = alternate([mine.step, reference.step], steps)
        mine.table.refresh()
        parts: list[Callable[[], None]] = [
            mine.table.refresh,
            mine.launch.run,
            functools.partial(launch.increment_version, ours),
        ]
        refresh, run, version = alternate(parts, steps)
        print(
            f"{elements:>11,} elements in {tensors:>5,} tensors: ratio {step / fused:.3f}"
            f" (goal {goal}); {step * 1e3:.3f} ms against {fused * 1e3:.3f} ms;"
            f" refresh {refresh * 1e6:.0f} us, launch {run * 1e6:.0f} us,"
            f" versions {version * 1e6:.0f} us"
        )


if __name__ == "__main__":
    main()
