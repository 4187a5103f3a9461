"""Fresh processes: from text to the first step, and the peak of memory."""

from __future__ import annotations

import gc
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch

from .kinds import KINDS
from .measure import Report, ours
from .peers import ADAMW, peers
from .sets import SETS, Tensors, scaled

PROBE = "import sys; from optc.bench.fresh import probe; probe(sys.argv[1])"


def compile_times(
    spec: str, kind: str, options: Mapping[str, Any], device: str, repeats: int, schedule: str = ""
) -> Report:
    """Seconds from the text to the end of the first step: cold, warm, and with more tensors."""
    found: dict[str, list[Report]] = {"cold 10": [], "cold 1000": [], "warm 10": []}
    for _ in range(repeats):
        for tensors in (1000, 10):
            with tempfile.TemporaryDirectory() as folder:
                for start in ("cold", "warm")[: 1 + (tensors == 10)]:
                    task = {"what": "compile", "spec": spec, "options": options, "device": device}
                    task |= {"tensors": tensors, "kind": kind, "schedule": schedule}
                    answer = _ask(task, folder)
                    found[f"{start} {tensors}"].append(answer)
    result: Report = {k: median(a["seconds"] for a in v) for k, v in found.items()}
    result["second step"] = {k: median(a["second"] for a in v) for k, v in found.items()}
    result["builds"] = {k: v[-1]["builds"] for k, v in found.items()}
    return result


def memory(
    spec: str,
    kind: str,
    options: Mapping[str, Any],
    device: str,
    of: str,
    scale: float,
    schedule: str = "",
) -> Report:
    """The peak over what was there before the optimizer was, as multiples of the parameters."""

    def peak(name: str) -> float | str:
        task = {"what": "memory", "spec": spec, "kind": kind, "options": options, "of": of}
        task |= {"name": name, "scale": scale, "device": device, "schedule": schedule}
        with tempfile.TemporaryDirectory() as folder:
            try:
                return float(_ask(task, folder)["peak"])
            except RuntimeError as error:
                return str(error)

    names = ("optc", *peers(kind))
    # No time is taken, so they may stand in each other's way; on a device they share its memory.
    with ThreadPoolExecutor(1 if device.startswith("cuda") else os.cpu_count()) as pool:
        found = dict(zip(names, pool.map(peak, names), strict=True))
    peaks = {name: x for name, x in found.items() if isinstance(x, float)}
    failed = {name: x for name, x in found.items() if isinstance(x, str)}
    return {"set": of, "peaks": peaks, "failed": failed}


def _ask(task: Report, cache: str) -> Report:
    """A fresh process with a cache of its own."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", PROBE, json.dumps(task)],
        env={**os.environ, "OPTC_CACHE_DIR": cache},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(done.stderr.strip().rpartition("\n")[2][:200])
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
    tensors = Tensors(shapes, task["device"], True, KINDS[task["kind"]].dtype)
    gc.collect()  # else the sweep that is due of what torch's import left comes at any place
    start = perf_counter()
    step = ours(task["spec"], tensors, options, task["schedule"])[1]
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
            return ours(task["spec"], tensors, options, task["schedule"])[1]
        return peers(task["kind"])[task["name"]](tensors)

    device, dtype = task["device"], KINDS[task["kind"]].dtype
    build(Tensors(SETS["tiny"](), device, True, dtype))()  # code is loaded before it begins
    tensors = Tensors(scaled(SETS[task["of"]](), task["scale"]), device, True, dtype)
    before = _resident(device, now=True)
    step = build(tensors)
    for _ in range(3):
        step()
    return {"peak": (_resident(device) - before) / (dtype.itemsize * tensors.elements)}


def _resident(device: str, now: bool = False) -> int:
    """Bytes: what is held now, or the most that was ever held."""
    if device.startswith("cuda"):
        if now:
            torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.exists():  # what getrusage says began with the parent's peak
        if now:
            Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return 1024 * int(lines["VmRSS" if now else "VmHWM"].split()[0])
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most
