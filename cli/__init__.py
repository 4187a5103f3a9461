"""The command line: one module a verb, loaded when its verb is chosen and not before."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from types import ModuleType

from ..compiler.source import CompileError, nearest
from .terminal import UsageError, report

# What `optc --help` says; the verb's own HELP is what `optc VERB --help` opens with.
VERBS = {
    "check": "say everything that is wrong with a spec",
    "compile": "write a spec as a standalone PyTorch optimizer",
    "explain": "show the algorithm, what a step costs, which schedules are legal",
    "graph": "draw the graph of a spec",
    "fmt": "rewrite specs in the canonical form; convert .opt <-> .yaml",
    "list": "list the primitives that are installed",
    "show": "show one primitive",
    "verify": "compare the compiled step with the interpreter and with other implementations",
    "train": "train a small real model with a spec, side by side with a baseline",
    "bench": "time a spec against its peers",
    "diff": "say in what two specs differ",
    "new": "start a rule or a plugin from a template",
    "plugin": "test what a plugin brings",
}

DONE, WRONG_SPEC, WRONG_USAGE, INTERRUPTED, BROKEN_PIPE = 0, 1, 2, 130, 141


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the result is the exit status."""
    arguments = [*(sys.argv[1:] if argv is None else argv)]  # `list` is a verb here
    as_json = False
    try:
        module, args = _parse(arguments)
        as_json = bool(getattr(args, "json", False))
        status: int = module.run(args)
        # A closed pipe shows only when the buffer is written, so do that where it is caught.
        sys.stdout.flush()
        return status
    except CompileError as error:
        report(error.diagnostics, as_json)
        return WRONG_SPEC
    except UsageError as error:
        print(f"optc: {error}", file=sys.stderr)
        return WRONG_USAGE
    except BrokenPipeError:
        # The reader has gone; python's own flush at exit would complain once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except KeyboardInterrupt:
        print("optc: interrupted", file=sys.stderr)
        return INTERRUPTED
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError) as error:
        if error.filename is None:
            raise
        print(f"optc: {error.filename}: {_in_words(error)}", file=sys.stderr)
        return WRONG_USAGE
    except SystemExit as stop:  # argparse has already said what there is to say
        return stop.code if isinstance(stop.code, int) else WRONG_USAGE


def available() -> tuple[str, ...]:
    """The verbs of this version."""
    return tuple(verb for verb in VERBS if importlib.util.find_spec(f"{__name__}.{verb}"))


def _parse(arguments: list[str]) -> tuple[ModuleType, argparse.Namespace]:
    verb = arguments[0] if arguments else ""
    if not verb or verb.startswith("-"):
        _front().parse_args(arguments)
        _front().print_help(sys.stderr)
        raise SystemExit(WRONG_USAGE)
    if verb not in available():
        raise UsageError(f"there is no verb `{verb}`; {nearest(verb, available())}")
    module = importlib.import_module(f".{verb}", __name__)
    parser = argparse.ArgumentParser(
        prog=f"optc {verb}",
        description=module.HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(parser)
    return module, parser.parse_args(arguments[1:])


def _front() -> argparse.ArgumentParser:
    """What is in front of any verb: `--help` and `--version`."""
    verbs = "\n".join(f"  {verb:<9}{VERBS[verb]}" for verb in available())
    parser = argparse.ArgumentParser(
        prog="optc",
        usage="optc VERB ...",
        description=f"Compile a training update rule to one fused PyTorch step.\n\nverbs:\n{verbs}",
        epilog="`optc VERB --help` says more. Exit status: 0 done, 1 the spec is wrong, 2 the "
        "command line is wrong.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"optc {_version()}")
    return parser


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("optc")
    except PackageNotFoundError:
        return "(not installed)"


def _in_words(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    return (error.strerror or str(error)).lower()
