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

COMPILED = "block"
"""The set that torch.compile is measured on, with at most a million elements."""
BYTES_ONLY = "large"
"""The set that has few matrices, so large that a rule which multiplies them takes seconds."""
LEAST = 1e6
"""With fewer elements a set, the model is a toy too."""
PARTS = ("steps", "model", "compile", "memory")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("spec", nargs="+", help="the rules, .opt or .yaml files")
    parser.add_argument(
        "--against",
        metavar="KIND",
        help="what its peers do: adamw, sgd, muon_adamw, sam_adamw, clipped_adamw, psgd or "
        "cautious_adamw (by the rule's name, else adamw)",
    )
    parser.add_argument("--schedule", metavar="FILE", help="how the rules run, by another file")
    parser.add_argument(
        "--sets", default="gpt2,resnet,small,large", help="of gpt2,resnet,small,large,block,tiny"
    )
    parser.add_argument("--scale", type=float, default=1e7, help="elements of a set (1e7 at most)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ... (cpu)")
    parser.add_argument("--rounds", type=int, default=15, help="steps that are counted (15)")
    parser.add_argument("--parts", default=",".join(PARTS), help=f"of {','.join(PARTS)} (all)")
    parser.add_argument(
        "--compile", action="store_true", help="also torch.compile, on a set of its own: minutes"
    )
    add_set(parser, "--set", "an option, for the rules that have it")
    parser.add_argument("--note", default="", help="a sentence for the table, on the machine, say")
    parser.add_argument("--json", action="store_true", help="every figure, for a program")
    parser.add_argument(
        "--out", metavar="MD", help="write the tables; beside them plot and figures"
    )


def run(args: argparse.Namespace) -> int:
    _check(args)
    report = measure(args)
    document = _module("document")
    if args.out:
        picture = Path(args.out).with_suffix(".png")
        drawn = document.plot(report, picture)
        write_text(args.out, document.page(report, picture.name if drawn else ""))
        write_text(str(Path(args.out).with_suffix(".json")), json.dumps(report, indent=1) + "\n")
    if args.json:
        print(json.dumps(report, indent=2))
    elif not args.out:
        print(document.page(report))
    return 0


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Every figure that was asked for, rule by rule."""
    machine = _module("document").machine(args.device)
    rules = [_rule(spec, args) for spec in args.spec]
    return {"machine": machine, "rounds": args.rounds, "note": args.note, "rules": rules}


def _rule(spec: str, args: argparse.Namespace) -> dict[str, Any]:
    bench, fresh, kinds = _module("measure"), _module("fresh"), _module("kinds")
    parts, names = args.parts.split(","), args.sets.split(",")
    rule = bench.name_of(spec)
    against = args.against or (rule if rule in kinds.KINDS else "adamw")
    kind = kinds.KINDS[against]
    options = bench.options_of(spec, against, settings(args.set))
    schedule = args.schedule or kinds.schedule_of(rule, against)
    found: dict[str, Any] = {"rule": rule, "against": against}
    if args.compile and kind.elementwise and not kind.closures:
        names.append(COMPILED)
    if "steps" in parts and not kind.real:
        found["sets"] = {
            name: _steps(spec, against, name, options, schedule, args)
            for name in names
            if kind.elementwise or name != BYTES_ONLY
        }
    if "model" in parts and kind.closures:
        _say(f"{rule}: on a model")
        small = args.scale < LEAST
        found["model"] = bench.real_steps(
            spec, against, options, args.device, args.rounds, small, schedule
        )
    if "compile" in parts:
        _say(f"{rule}: compile")
        repeats = 3 if args.rounds >= 30 else 1
        found["compile"] = fresh.compile_times(
            spec, against, options, args.device, repeats, schedule
        )
    if "memory" in parts and not kind.real:
        _say(f"{rule}: memory")
        of = names[0]
        found["memory"] = fresh.memory(
            spec, against, options, args.device, of, args.scale, schedule
        )
    return found


def _steps(
    spec: str,
    against: str,
    name: str,
    options: dict[str, Any],
    schedule: str,
    args: argparse.Namespace,
) -> Any:
    _say(f"{spec}: steps on {name}")
    bench, sets = _module("measure"), _module("sets")
    scale = min(args.scale, 1e6) if name == COMPILED else args.scale
    shapes = sets.scaled(sets.SETS[name](), scale)
    compiled = args.compile and name == COMPILED
    return bench.steps(spec, against, shapes, options, args.device, args.rounds, compiled, schedule)


def _say(what: str) -> None:
    """What is being measured, for those who wait."""
    if sys.stderr.isatty():
        print(f"{what} ...", file=sys.stderr)


def _check(args: argparse.Namespace) -> None:
    import torch

    sets, kinds = _module("sets").SETS, _module("kinds").KINDS
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
    if args.out and not Path(args.out).resolve().parent.is_dir():
        raise UsageError(f"{args.out}: there is no such folder")
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
