"""The page of a benchmark: tables in markdown, the machine's description, a plot of the ratios."""

from __future__ import annotations

import importlib.util
import os
import platform
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from .goals import findings

Report = dict[str, Any]
LIBRARIES = ("torch-optimi", "pytorch-optimizer", "heavyball", "psgd-torch")


def machine(device: str) -> Report:
    """What the figures depend on, and nothing that names the machine."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(device) if device.startswith("cuda") else None,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "compiler": _compiler(),
        "load": round(os.getloadavg()[1], 1),
        "libraries": _libraries(),
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _compiler() -> str:
    from optc.runtime import native

    command = native.compiler()
    if command is None:
        return "none"
    answer = subprocess.run([*command, "--version"], capture_output=True, text=True).stdout
    return answer.partition("\n")[0]


def _libraries() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            pass
    return found


def page(report: Report, picture: str = "") -> str:
    """All tables, as markdown."""
    rules = report["rules"]
    parts = ["# Benchmark", _description(report)]
    parts += ["## Goals", GOALS, _goals(rules)]
    if picture:
        parts.append(f"![ratios of step times]({picture})")
    if any("sets" in r for r in rules):
        parts += ["## Step time", STEPS.format(rounds=report["rounds"]), _steps(rules)]
        parts += [_failures(rules)]
        parts += ["## Bytes, launches, recompiles", BYTES, _bytes(rules)]
    if any("model" in r for r in rules):
        parts += ["## On a model", MODEL, _models(rules)]
        parts += [_model_failures(rules)]
    if any("compile" in r for r in rules):
        parts += ["## From text to the first step", COMPILE, _compile(rules)]
    if any("memory" in r for r in rules):
        parts += ["## Memory", MEMORY, _memory(rules)]
    return "\n\n".join(p for p in parts if p) + "\n"


GOALS = """Each goal against the worst of what it was measured on, from the figures below."""
STEPS = """The step of optc over the step of the other, of the same round, all in one process, in \
another order each round:
the median of {rounds} rounds (first to third quartile), and the fastest step of one over the
fastest of the other. Below 1, optc is faster. A closure's own time (SAM's two gradients) is
left out. torch.compile and the compiled HeavyBall are measured on the set `block` only, since each
takes minutes to compile; their first step is told below. Who is missing has no such rule:
pytorch_optimizer's AdamW and SGD are torch's, torch-optimi has no SAM, Muon or PSGD. Where a peer
does a little else: HeavyBall's SAM weighs its perturbation by the squared parameters and does not
clip, its Muon takes embeddings too, pytorch_optimizer's Muon saves memory by writing over the
gradients (its five steps, their type and its matrices are the rule's), and the PSGD of HeavyBall
and pytorch_optimizer whitens gradients, which needs no second derivatives. `torch foreach` for
`cautious_adamw` and SAM is what one writes by hand with torch's operations on lists; HeavyBall's
cautious AdamW averages its weights by such a list too."""
BYTES = """Bytes that the element-wise phases read and write, counted from the emitted phases; the
bandwidth as a share of that of a kernel with the same streams and no arithmetic to speak of, one
long buffer a stream, in the same rounds (first to third quartile); and as a share of a plain
copy's. A copy is counted as 8 bytes an element, and moves 12 where the processor reads a line
before it writes it; an update has read its lines anyway, so up to 1.5 is possible. Kernel calls in
a step; kernels built while every fraction among the options moved twice."""
MODEL = """Whole steps on a decoder like GPT-2, its gradients included, by the machine's turns as \
above.
Beyond two: the step less two plain gradients (forward and backward) of the same round, over these.
Own: the step less what its closure took, over that. Second derivatives are no two gradients, so a
rule with curvature has no meaningful share; look at its ratios."""
COMPILE = """Seconds from reading the text to the end of the first step, in a fresh process; what \
torch
imports for an optimizer of its own is left out, as is the sweep of Python's heap that is due after
it. Cold: nothing is cached. Warm: a second start. The second step says how much of the first is the
step itself, and the last ratio leaves it out; the tensors are matrices of 42 x 50."""
MEMORY = """The peak of a fresh process over three steps, above what it held before the optimizer \
was
made, in multiples of the parameters; AdamW's own state is 2.00, or 4.00 of parameters in
bfloat16. What a library loads on its first step on a small set is left out."""


def _description(report: Report) -> str:
    m = report["machine"]
    where = f"{m['gpu']}, {m['cpu']}" if m["gpu"] else m["cpu"]
    words = [
        f"{where}, {m['cores']} cores, torch {m['torch']} with {m['threads']} threads, "
        f"Python {m['python']}, {m['compiler']}."
    ]
    if m["libraries"]:
        words.append(", ".join(f"{k} {v}" for k, v in m["libraries"].items()) + ".")
    if missing := [name for name in LIBRARIES if name not in m["libraries"]]:
        words.append(f"Not installed, so not measured: {', '.join(missing)}.")
    words.append(f"The load was {m['load']} processes in the five minutes before it began.")
    return "\n".join([*words, *([report["note"]] if report["note"] else [])])


def _table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    head = list(head)
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def _each(rules: list[Report]) -> Iterable[tuple[str, str, Report]]:
    for rule in rules:
        own = rule["against"] == rule["rule"]
        title = rule["rule"] if own else f"{rule['rule']} (against {rule['against']})"
        for name, found in rule.get("sets", {}).items():
            yield title, f"{name}: {found['elements'] / 1e6:.3g} M", found


def _steps(rules: list[Report]) -> str:
    rows = []
    for rule, name, found in _each(rules):
        for other, r in found["ratios"].items():
            spread = f"**{r['median']:.2f}** ({r['low']:.2f} to {r['high']:.2f})"
            ms = found["ms"]
            rows.append(
                [rule, name, found["tensors"], other, spread, f"{r['best']:.2f}"]
                + [f"{ms['optc']:.3g}", f"{ms[other]:.3g}"]
            )
    head = ["rule", "set", "tensors", "against", "ratio", "of the fastest", "optc, ms", "other, ms"]
    return _table(head, rows)


def _failures(rules: list[Report]) -> str:
    lines = {
        f"- {other} did not run {rule} on {name}: {why}"
        for rule, name, found in _each(rules)
        for other, why in found["failed"].items()
    }
    lines |= {
        f"- {other} took {found['first_s'][other]:.0f} s to its first step of {rule} on {name}."
        for rule, name, found in _each(rules)
        for other in ("torch.compile", "HeavyBall")
        if other in found["first_s"]
    }
    return "\n".join(sorted(lines))


def _goals(rules: list[Report]) -> str:
    rows = []
    for f in findings(rules):
        value = "not measured" if f.value is None else f"**{f.value:.3g}**"
        rows.append([f.goal, f.bound, value, {None: "", True: "met", False: "missed"}[f.met]])
        rows[-1].append(f.where)
    return _table(["goal", "bound", "worst measured", "", "on"], rows)


def _models(rules: list[Report]) -> str:
    rows = []
    for rule in rules:
        if not (found := rule.get("model")):
            continue
        for name, ms in found["ms"].items():
            more, ratio = found["overhead"].get(name), found["ratios"].get(name)
            own = found["own"] if name == "optc" else None
            rows.append(
                [rule["rule"], f"{found['model']}; {found['elements'] / 1e6:.3g} M", name]
                + [f"{ms:.4g}", f"**{ratio['median']:.2f}**" if ratio else ""]
                + [f"{100 * x['median']:.1f} %" if x else "" for x in (more, own)]
            )
    return _table(["rule", "model", "optimizer", "ms", "optc over it", "beyond two", "own"], rows)


def _model_failures(rules: list[Report]) -> str:
    return "\n".join(
        f"- {other} did not run {rule['rule']} on the model: {why}"
        for rule in rules
        for other, why in rule.get("model", {}).get("failed", {}).items()
    )


def _bytes(rules: list[Report]) -> str:
    rows = []
    for rule, name, found in _each(rules):
        size, share, roof = found["bytes_a_parameter"], found["of_copy"], found["of_roof"]
        rows.append(
            [rule, name]
            + ["has matrix phases" if size is None else f"{size:.3g}"]
            + [
                f"**{roof['median']:.2f}** ({roof['low']:.2f} to {roof['high']:.2f})"
                if roof
                else "",
                "" if share is None else f"{share:.2f}",
                "{0:.1f} to {2:.1f}".format(*found["copy_gb_s"]),
            ]
            + [found["launches"] if found["launches"] is not None else "none", found["rebuilds"]]
        )
    head = ["rule", "set", "bytes a parameter", "of the same streams", "of the copy"]
    return _table([*head, "copy, GB/s", "launches", "recompiles"], rows)


def _compile(rules: list[Report]) -> str:
    rows = []
    for rule in rules:
        if found := rule.get("compile"):
            few, many, again = found["cold 10"], found["cold 1000"], found["second step"]
            beyond = (many - again["cold 1000"]) / (few - again["cold 10"])
            rows.append(
                [rule["rule"], f"{few:.2f}", f"{many:.2f}", f"{many / few:.2f}"]
                + [f"{again['cold 1000']:.2f}", f"{beyond:.2f}"]
                + [f"{found['warm 10']:.2f}", found["builds"]["cold 10"]]
            )
    head = ["rule", "cold, 10 tensors", "cold, 1,000", "ratio", "second step, 1,000"]
    return _table([*head, "ratio beyond a step", "warm, 10", "libraries built"], rows)


def _memory(rules: list[Report]) -> str:
    measured = [(rule["rule"], rule["memory"]) for rule in rules if "memory" in rule]
    names = list(dict.fromkeys(name for _, found in measured for name in found["peaks"]))
    rows = []
    for rule, found in measured:
        cells = [f"{found['peaks'][n]:.2f}" if n in found["peaks"] else "" for n in names]
        rows.append([rule, found["set"], *cells])
    failed = [
        f"- {other} did not run {rule}: {why}"
        for rule, found in measured
        for other, why in found["failed"].items()
    ]
    return "\n\n".join(filter(None, [_table(["rule", "set", *names], rows), "\n".join(failed)]))


def plot(report: Report, path: Path) -> bool:
    """The ratios as bars on a logarithmic axis; False where there is nothing to draw (it) with."""
    if importlib.util.find_spec("matplotlib") is None:
        return False
    bars = [
        (f"{rule}, {name}, {other}", r["median"], r["low"], r["high"])
        for rule, name, found in _each(report["rules"])
        for other, r in found["ratios"].items()
    ] + [
        (f"{rule['rule']}, model, {other}", r["median"], r["low"], r["high"])
        for rule in report["rules"]
        for other, r in rule.get("model", {}).get("ratios", {}).items()
    ]
    if not bars:
        return False
    from matplotlib.figure import Figure

    labels, middles, lows, highs = zip(*reversed(bars), strict=True)
    figure = Figure(figsize=(8, 1 + 0.24 * len(bars)), layout="constrained")
    axes = figure.subplots()
    colours = ["tab:blue" if m <= 1 else "tab:red" for m in middles]
    axes.barh(labels, middles, color=colours)
    axes.hlines(labels, lows, highs, color="black", linewidth=1)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_xlabel("optc's step over the other's (median; line: quartiles)")
    axes.tick_params(axis="y", labelsize=7)
    axes.margins(y=0.01)
    figure.savefig(path, dpi=110)
    return True
