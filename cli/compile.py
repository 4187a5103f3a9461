"""`optc compile`: a spec as a standalone PyTorch optimizer."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..compiler.source import nearest
from .files import read_source, write_text
from .terminal import UsageError, paint

HELP = """Write a spec as one Python file that needs torch and nothing of optc.

The file holds an optimizer class, the rule's documentation, and each phase of the step as plain
torch code and as C. It gives the same numbers as `optc.load` to the bit."""

ELEMENT = 4
"""Bytes of a float32."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="a .opt or .yaml file, or -")
    parser.add_argument(
        "-o", "--output", metavar="PATH", help="the file or folder to write (NAME.py here); or -"
    )
    parser.add_argument("--rule", default="", metavar="NAME", help="which rule of the file")
    parser.add_argument("--schedule", metavar="FILE", help="how the rule runs, by another file")
    parser.add_argument("--after", metavar="PASS", help="print the graph after a pass instead")
    parser.add_argument(
        "--force", action="store_true", help="overwrite a file that optc did not write"
    )
    parser.add_argument("--json", action="store_true", help="what was written, for a program")


def run(args: argparse.Namespace) -> int:
    from ..compiler import driver
    from ..plugins.registry import library

    source = read_source(args.file)
    if args.after is not None:
        _known_pass(args.after)
        text = driver.graph(source, library(), args.rule, args.after).text().rstrip("\n")
        print(json.dumps({"after": args.after, "graph": text}) if args.json else text)
        return 0
    from ..compiler.emit.standalone import class_name, standalone

    other = read_source(args.schedule) if args.schedule else None
    program = driver.compile_source(source, library(), args.rule, schedule=other)
    text = standalone(program)
    path = _place(args.output, program.name)
    if not args.force:
        _refuse_strangers(path)
    write_text(path, text)
    if path != "-":
        summary = _summary(program, path, class_name(program.name))
        print(json.dumps(summary, indent=2) if args.json else _words(summary))
    return 0


def _known_pass(name: str) -> None:
    from ..compiler.pipeline import PASSES

    if name not in ("check", *PASSES):
        raise UsageError(f"there is no pass `{name}`; {nearest(name, ('check', *PASSES))}")


# Where it goes --------------------------------------------------------------------------------


def _place(output: str | None, rule: str) -> str:
    """The path to write; a rule does not take the name of a module that others import."""
    taken = rule in sys.stdlib_module_names or rule in ("torch", "numpy", "optc")
    name = f"{rule}_optimizer.py" if taken else f"{rule}.py"
    if output is None:
        return name
    if output != "-" and Path(output).is_dir():
        return str(Path(output) / name)
    return output


def _refuse_strangers(path: str) -> None:
    """A file that somebody else wrote stays as it is."""
    from ..compiler.emit.standalone import MARK

    if path == "-" or not Path(path).exists():
        return
    with open(path, "rb") as stream:
        start = stream.read(len(MARK.encode()))
    if start != MARK.encode():
        raise UsageError(f"{path}: optc did not write this file; --force overwrites it")


# What it is -----------------------------------------------------------------------------------


def _summary(program: Any, path: str, name: str) -> dict[str, Any]:
    from itertools import product

    variants = product((False, True), repeat=len(program.conditions.names))
    return {
        "path": path,
        "class": name,
        "rule": program.name,
        "needs": program.level,
        "state": [s for s, slot in program.slots.items() if slot.kind == "state"],
        "steps": [_step(program, program.plan(bits)) for bits in variants],
    }


def _step(program: Any, plan: Any) -> dict[str, Any]:
    """One variant of a step in numbers; bytes are those that kernels move for a parameter."""
    from ..compiler.emit.traffic import by_leaf
    from ..compiler.program import Compute, Evaluate

    phases = list(_every(plan.phases))
    computing = [p for p in phases if isinstance(p, Compute)]
    return {
        "evaluations": sum(isinstance(p, Evaluate) for p in phases),
        "kernels": sum(p.mode == "kernel" for p in computing),
        "torch phases": sum(p.mode != "kernel" for p in computing),
        "bytes": by_leaf(program, plan, ELEMENT),
    }


def _every(phases: list[Any]) -> Iterator[Any]:
    """All phases, those inside of loops too."""
    for phase in phases:
        yield phase
        yield from _every(getattr(phase, "body", []))


_NEEDS = {
    "gradients": "optimizer.step() after loss.backward()",
    "closure": "optimizer.step(closure)",
    "objective": "optimizer.bind(model=..., objective=...) and optimizer.step(batch=...)",
}


def _words(summary: dict[str, Any]) -> str:
    name, path = summary["class"], summary["path"]
    lines = [f"{paint(path, 'bold')}: class {name}"]
    many = len(summary["steps"]) > 1
    for at, step in enumerate(summary["steps"], 1):
        parts = [
            _count(step["evaluations"], "evaluation"),
            _count(step["kernels"], "kernel"),
            *([_count(step["torch phases"], "torch phase")] if step["torch phases"] else []),
        ]
        lines.append(f"  step{f' {at}' if many else ''}: {', '.join(parts)}")
        for domain, moved in step["bytes"].items():
            lines.append(f"    kernels move {moved:g} bytes for a float32 parameter of {domain}")
    if summary["state"]:
        lines.append(f"  state: {', '.join(summary['state'])}")
    lines.append(f"  use: {_NEEDS.get(summary['needs'], _NEEDS['objective'])}")
    return "\n".join(lines)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
