"""Measures a rule: turns in one process for the step, fresh processes for compile and memory."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter
from typing import Any

import torch

from .peers import ADAMW, OPTIONS, peers
from .sets import SETS, Shapes, Tensors, scaled

COPY = 1 << 25
"""Elements of the copy that the bandwidth is measured by: far beyond the caches."""
PROBE = "import sys; from optc.bench.measure import probe; probe(sys.argv[1])"
Report = dict[str, Any]


# The step ---------------------------------------------------------------------------------


def ours(spec: str, tensors: Tensors, options: Mapping[str, Any]) -> tuple[Any, Callable[[], Any]]:
    """The optimizer of a rule, and its step."""
    import optc

    optimizer = optc.load(spec)(tensors.named(), **options)
    if optimizer.program.level == "gradients":
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
) -> Report:
    """The rule, its peers and a plain copy in turns; ratios are of the same round."""
    closures = kind == "sam_adamw"
    mine = Tensors(shapes, device, closures)
    optimizer, step = ours(spec, mine, options)
    source = torch.zeros(COPY, device=device)
    target = torch.empty_like(source)
    runs = {"optc": _timer(step, mine), "copy": _timer(lambda: target.copy_(source), mine)}
    failed: dict[str, str] = {}
    first: dict[str, float] = {}
    for name, build in peers(kind, compiled).items():
        theirs = Tensors(shapes, device, closures)
        try:
            runs[name] = _timer(build(theirs), theirs)
            first[name] = runs[name]()
        except Exception as error:  # a library may fail in any way: that is a finding
            runs.pop(name, None)
            failed[name] = f"{type(error).__name__}: {error}".partition("\n")[0][:200]
    times = race(runs, rounds)
    copied = times.pop("copy")
    found: Report = {
        "tensors": len(shapes),
        "elements": mine.elements,
        "ms": {name: 1e3 * median(ts) for name, ts in times.items()},
        "ratios": {n: _ratio(times["optc"], ts) for n, ts in times.items() if n != "optc"},
        "first_s": first,
        "failed": failed,
        "copy_gb_s": [8e-9 * COPY / t for t in reversed(quantiles(copied, n=4))],
        **_traffic(optimizer),
        "launches": _launches(optimizer),
        "rebuilds": _rebuilds(optimizer, step),
    }
    found["of_copy"] = None
    if found["bytes"]:
        pairs = zip(times["optc"], copied, strict=True)
        rates = [found["bytes"] / t / (8 * COPY / c) for t, c in pairs]
        found["of_copy"] = median(rates)
    return found


def race(runs: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """The times of each after two warm-up rounds; who begins changes from round to round."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    names = list(runs)
    for turn in range(rounds + 2):
        at = turn % len(names)
        for name in names[at:] + names[:at]:
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


# Fresh processes --------------------------------------------------------------------------


def compile_times(spec: str, options: Mapping[str, Any], device: str, repeats: int) -> Report:
    """Seconds from the text to the end of the first step: cold, warm, and with more tensors."""
    found: dict[str, list[Report]] = {"cold 10": [], "cold 1000": [], "warm 10": []}
    for _ in range(repeats):
        for tensors in (1000, 10):
            with tempfile.TemporaryDirectory() as folder:
                for start in ("cold", "warm")[: 1 + (tensors == 10)]:
                    task = {"what": "compile", "spec": spec, "options": options, "device": device}
                    answer = _ask({**task, "tensors": tensors}, folder)
                    found[f"{start} {tensors}"].append(answer)
    result: Report = {k: median(a["seconds"] for a in v) for k, v in found.items()}
    result["second step"] = {k: median(a["second"] for a in v) for k, v in found.items()}
    result["builds"] = {k: v[-1]["builds"] for k, v in found.items()}
    return result


def memory(
    spec: str, kind: str, options: Mapping[str, Any], device: str, of: str, scale: float
) -> Report:
    """The peak over what was there before the optimizer was, as multiples of the parameters."""
    result: Report = {"set": of}
    for name in ("optc", "torch fused", "torch foreach"):
        task = {"what": "memory", "spec": spec, "kind": kind, "options": options, "of": of}
        with tempfile.TemporaryDirectory() as folder:
            answer = _ask({**task, "name": name, "scale": scale, "device": device}, folder)
        result[name] = answer["peak"]
    return result


def _ask(task: Report, cache: str) -> Report:
    """A fresh process with a cache of its own."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", PROBE, json.dumps(task)],
        env={**os.environ, "OPTC_CACHE_DIR": cache},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    answer: Report = json.loads(done.stdout.splitlines()[-1])
    return answer


def probe(text: str) -> None:
    """What a fresh process does: print the answer to one task."""
    task: Report = json.loads(text)
    options = {k: tuple(v) if isinstance(v, list) else v for k, v in task["options"].items()}
    # Whatever torch itself imports for the first optimizer is torch's import.
    warm = Tensors(SETS["tiny"](), task["device"])
    torch.optim.AdamW(warm.parameters, **ADAMW).step()
    print(json.dumps({"compile": _first_step, "memory": _peak}[task["what"]](task, options)))


def _first_step(task: Report, options: Report) -> Report:
    shapes = {f"hidden{i}": (42, 50) for i in range(task["tensors"])}
    tensors = Tensors(shapes, task["device"], True)
    start = perf_counter()
    step = ours(task["spec"], tensors, options)[1]
    times = []
    for _ in range(2):
        step()
        if task["device"].startswith("cuda"):
            torch.cuda.synchronize()
        times.append(perf_counter() - start)
    from optc.runtime import native

    return {"seconds": times[0], "second": times[1] - times[0], "builds": native.builds}


def _peak(task: Report, options: Report) -> Report:
    def build(tensors: Tensors) -> Callable[[], Any]:
        if task["name"] == "optc":
            return ours(task["spec"], tensors, options)[1]
        return peers(task["kind"])[task["name"]](tensors)

    device = task["device"]
    build(Tensors(SETS["tiny"](), device, True))()  # code is loaded before the measure begins
    tensors = Tensors(scaled(SETS[task["of"]](), task["scale"]), device, True)
    before = _resident(device, now=True)
    step = build(tensors)
    for _ in range(3):
        step()
    return {"peak": (_resident(device) - before) / (4 * tensors.elements)}


def _resident(device: str, now: bool = False) -> int:
    """Bytes: what is held now, or the most that was ever held."""
    if device.startswith("cuda"):
        return torch.cuda.memory_allocated() if now else torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    if status.exists():  # what getrusage says began with the parent's peak
        if now:
            Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return 1024 * int(lines["VmRSS" if now else "VmHWM"].split()[0])
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most


# What a rule is ----------------------------------------------------------------------------


def name_of(spec: str) -> str:
    """The name of a rule."""
    import optc

    return str(optc.compile(spec).name)


def options_of(spec: str, kind: str, given: Mapping[str, Any]) -> Report:
    """The options that a rule is set to: those it has."""
    import optc

    known = optc.compile(spec).options
    return {k: v for k, v in {**OPTIONS.get(kind, {}), **given}.items() if k in known}
