"""`optc bench`: rules against their peers, in turns in one process; ratios are the claim."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

from .files import write_text
from .settings import add_set, settings
from .terminal import UsageError

HELP = """Time the step of a rule against hand-written optimizers on the same tensors.

All take turns in one process, so that noise meets all of them: trust the ratios, not the times."""

PARTS = ("steps", "compile", "memory")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("spec", nargs="+", help="the rules, .opt or .yaml files")
    parser.add_argument(
        "--against",
        metavar="KIND",
        help="adamw, sgd, muon_adamw, sam_adamw or clipped_adamw (by the rule's name, else adamw)",
    )
    parser.add_argument("--sets", default="gpt2,resnet,small", help="of gpt2,resnet,small,tiny")
    parser.add_argument("--scale", type=float, default=1e7, help="elements of a set (1e7 at most)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ... (cpu)")
    parser.add_argument("--rounds", type=int, default=15, help="steps that are counted (15)")
    parser.add_argument("--parts", default=",".join(PARTS), help=f"of {','.join(PARTS)} (all)")
    parser.add_argument("--compile", action="store_true", help="also torch.compile: takes minutes")
    add_set(parser, "--set", "an option, for the rules that have it")
    parser.add_argument("--note", default="", help="a sentence for the table, on the machine, say")
    parser.add_argument("--json", action="store_true", help="every figure, for a program")
    parser.add_argument("--out", metavar="MD", help="write the table, and a plot beside it")


def run(args: argparse.Namespace) -> int:
    _check(args)
    report = measure(args)
    document = _module("document")
    if args.out:
        picture = Path(args.out).with_suffix(".png")
        drawn = document.plot(report, picture)
        write_text(args.out, document.page(report, picture.name if drawn else ""))
    if args.json:
        print(json.dumps(report, indent=2))
    elif not args.out:
        print(document.page(report))
    return 0


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Every figure that was asked for, rule by rule."""
    bench, sets, peers = _module("measure"), _module("sets"), _module("peers")
    parts = args.parts.split(",")
    names = args.sets.split(",")
    rules = []
    for spec in args.spec:
        rule = bench.name_of(spec)
        kind = args.against or (rule if rule in peers.KINDS else "adamw")
        options = bench.options_of(spec, kind, settings(args.set))
        found: dict[str, Any] = {"rule": rule, "against": kind}
        if "steps" in parts:
            found["sets"] = {}
            for name in names:
                _say(f"{rule}: steps on {name}")
                shapes = sets.scaled(sets.SETS[name](), args.scale)
                found["sets"][name] = bench.steps(
                    spec, kind, shapes, options, args.device, args.rounds, args.compile
                )
        if "compile" in parts:
            _say(f"{rule}: compile")
            repeats = 3 if args.rounds >= 10 else 1
            found["compile"] = bench.compile_times(spec, options, args.device, repeats)
        if "memory" in parts:
            _say(f"{rule}: memory")
            found["memory"] = bench.memory(spec, kind, options, args.device, names[0], args.scale)
        rules.append(found)
    machine = _module("document").machine(args.device)
    return {"machine": machine, "rounds": args.rounds, "note": args.note, "rules": rules}


def _say(what: str) -> None:
    """What is being measured, for those who wait."""
    if sys.stderr.isatty():
        print(f"{what} ...", file=sys.stderr)


def _check(args: argparse.Namespace) -> None:
    import torch

    sets, kinds = _module("sets").SETS, _module("peers").KINDS
    for what, given, known in (
        ("set", args.sets.split(","), tuple(sets)),
        ("part", args.parts.split(","), PARTS),
        ("kind of rule", [args.against] if args.against else [], kinds),
    ):
        for name in given:
            if name not in known:
                raise UsageError(f"there is no {what} `{name}`: {', '.join(known)}")
    if args.rounds < 2 or args.scale < 1:
        raise UsageError("2 rounds and 1 element at least")
    try:
        torch.empty(0, device=args.device)
    except (RuntimeError, AssertionError) as error:
        first = str(error).partition("\n")[0]
        raise UsageError(f"the device `{args.device}` is not to be had here: {first}") from error


def _module(name: str) -> Any:
    """A part of bench/, which the repository has and an installed package has not."""
    if importlib.util.find_spec("optc.bench") is None:
        raise UsageError("the benchmark is no part of the installed package: run it from a clone")
    return importlib.import_module(f"optc.bench.{name}")
