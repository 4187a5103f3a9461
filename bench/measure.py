"""Measures the step of a rule against peers, a copy and a roof: in turns, in one process."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from statistics import median, quantiles
from time import perf_counter
from typing import Any

import torch

from .kinds import KINDS
from .model import on_a_model
from .peers import Trained, peers
from .roof import roof
from .sets import Shapes, Tensors

COPY = 1 << 25
"""Elements of the copy that the bandwidth is measured by: far beyond the caches."""
Report = dict[str, Any]


# The step ---------------------------------------------------------------------------------


def ours(
    spec: str, tensors: Trained, options: Mapping[str, Any], schedule: str = ""
) -> tuple[Any, Callable[[], Any]]:
    """The optimizer of a rule, and its step."""
    import optc

    optimizer = optc.load(spec, schedule=schedule)(tensors.named(), **options)
    level = optimizer.program.level
    if level == "gradients":
        return optimizer, optimizer.step
    if level == "objective":
        optimizer.bind(objective=tensors.objective)
        return optimizer, optimizer.step
    return optimizer, lambda: optimizer.step(tensors.give)


def steps(
    spec: str,
    kind: str,
    shapes: Shapes,
    options: Mapping[str, Any],
    device: str = "cpu",
    rounds: int = 15,
    compiled: bool = False,
    schedule: str = "",
) -> Report:
    """The rule, its peers, a plain copy and a roof in turns; ratios are of the same round."""

    def fresh() -> Tensors:
        return Tensors(shapes, device, KINDS[kind].closures, KINDS[kind].dtype)

    mine = fresh()
    optimizer, step = ours(spec, mine, options, schedule)
    source = torch.zeros(COPY, device=device)
    target = torch.empty_like(source)
    runs = {"optc": _timer(step, mine), "copy": _timer(lambda: target.copy_(source), mine)}
    first: dict[str, float] = {"optc": runs["optc"]()}
    traffic = _traffic(optimizer)
    streams = roof(optimizer, device) if traffic["bytes"] else None
    if streams is not None:
        runs["roof"] = _timer(streams, mine)
    failed: dict[str, str] = {}
    for name, build in peers(kind, compiled).items():
        theirs = fresh()
        try:
            start = perf_counter()
            runs[name] = _timer(build(theirs), theirs)
            runs[name]()
            first[name] = perf_counter() - start
        except Exception as error:  # a library may fail in any way: that is a finding
            runs.pop(name, None)
            failed[name] = f"{type(error).__name__}: {error}".partition("\n")[0][:200]
    times = race(runs, rounds)
    copied, roofed = times.pop("copy"), times.pop("roof", None)
    found: Report = {
        "tensors": len(shapes),
        "elements": mine.elements,
        "ms": {name: 1e3 * median(ts) for name, ts in times.items()},
        "ratios": {n: _ratio(times["optc"], ts) for n, ts in times.items() if n != "optc"},
        "first_s": first,
        "failed": failed,
        "copy_gb_s": [8e-9 * COPY / t for t in reversed(quantiles(copied, n=4))],
        **traffic,
        "launches": _launches(optimizer),
        "rebuilds": _rebuilds(optimizer, step),
    }
    found["of_roof"] = _ratio(roofed, times["optc"]) if roofed else None
    found["of_copy"] = None
    if found["bytes"]:
        pairs = zip(times["optc"], copied, strict=True)
        rates = [found["bytes"] / t / (8 * COPY / c) for t, c in pairs]
        found["of_copy"] = median(rates)
    return found


def real_steps(
    spec: str,
    kind: str,
    options: Mapping[str, Any],
    device: str,
    rounds: int,
    small: bool,
    schedule: str = "",
) -> Report:
    """Whole steps on a model, its gradients included."""

    def mine(training: Trained) -> tuple[Any, Callable[[], Any]]:
        return ours(spec, training, options, schedule)

    return on_a_model(kind, mine, peers(kind), race, device, rounds, small)


def race(runs: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """The times of each after two warm-up rounds, in another order in each round.

    Who comes next pays for what is left in the caches: megabytes that have to be written back first
    after an optimizer's step, none after a copy that goes past the caches.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    order, chance = list(runs), random.Random(0)
    for turn in range(rounds + 2):
        chance.shuffle(order)
        for name in order:
            seconds = runs[name]()
            if turn >= 2:
                times[name].append(seconds)
    return times


def _timer(step: Callable[[], Any], tensors: Tensors) -> Callable[[], float]:
    """A step that returns its seconds, those inside the closure left out."""

    def on_host() -> float:
        tensors.inside = 0.0
        start = perf_counter()
        step()
        return perf_counter() - start - tensors.inside

    def on_device() -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        step()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) / 1e3

    return on_device if tensors.device.startswith("cuda") else on_host


def _ratio(mine: list[float], theirs: list[float]) -> dict[str, float]:
    ratios = [a / b for a, b in zip(mine, theirs, strict=True)]
    low, middle, high = quantiles(ratios, n=4, method="inclusive")
    return {"median": middle, "low": low, "high": high, "best": min(mine) / min(theirs)}


def _traffic(optimizer: Any) -> Report:
    """The bytes of a step, where all of its phases are element-wise."""
    from optc.compiler.emit.traffic import by_leaf
    from optc.compiler.program import Compute

    plan = next(reversed(optimizer._plans.values()))
    layout = optimizer._layout
    moved = 0
    for leaf, size in by_leaf(optimizer.program, plan).items():
        moved += size * sum(layout.params[i].numel() for i in layout.members[leaf])
    elements = sum(p.numel() for p in layout.params)
    for phase in plan.phases:
        if getattr(phase, "body", None) or isinstance(phase, Compute) and phase.mode != "kernel":
            if layout.members.get(phase.space if isinstance(phase, Compute) else "", []):
                return {"bytes": None, "bytes_a_parameter": None}
    return {"bytes": moved, "bytes_a_parameter": moved / elements}


def _launches(optimizer: Any) -> int | None:
    """Kernel calls in a step: one a phase and signature of types."""
    prepared = getattr(getattr(optimizer, "_kernels", None), "phases", None)
    return None if prepared is None else sum(len(p.parts) for p in prepared.values())


def _rebuilds(optimizer: Any, step: Callable[[], Any]) -> int:
    """How many kernels are built while every option that is a fraction moves."""
    from optc.runtime import native

    before = native.builds
    for factor in (0.9, 0.8):
        for group in optimizer.param_groups:
            for name in optimizer.program.options:
                group[name] = _moved(group[name], factor)
        step()
    return native.builds - before


def _moved(value: Any, factor: float) -> Any:
    if isinstance(value, tuple):
        return tuple(_moved(v, factor) for v in value)
    return value * factor if isinstance(value, float) else value


# What a rule is ----------------------------------------------------------------------------


def name_of(spec: str) -> str:
    """The name of a rule."""
    import optc

    return str(optc.compile(spec).name)


def options_of(spec: str, kind: str, given: Mapping[str, Any]) -> Report:
    """The options that a rule is set to: those it has."""
    import optc

    known = optc.compile(spec).options
    return {k: v for k, v in {**KINDS[kind].options, **given}.items() if k in known}
