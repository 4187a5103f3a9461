"""`optc new`: a rule or a whole plugin to start from."""

from __future__ import annotations

import argparse
import keyword
import re
from importlib.resources import files
from pathlib import Path
from string import Template

from .terminal import UsageError

HELP = "Start a rule or a plugin from a template; nothing that exists is overwritten."

# Template -> the file it becomes, in the current folder or that of `--directory`.
TEMPLATES = {
    "rule": {"rule.opt": "$name.opt"},
    "plugin": {
        "plugin/pyproject.toml": "optc-$dashed/pyproject.toml",
        "plugin/README.md": "optc-$dashed/README.md",
        "plugin/module.py": "optc-$dashed/optc_$name/__init__.py",
        "plugin/primitive.opt": "optc-$dashed/optc_$name/precondition/$name.opt",
        "plugin/test.py": "optc-$dashed/tests/test_$name.py",
    },
}
NEXT = {
    "rule": "optc check $name.opt",
    "plugin": "pip install --editable optc-$dashed && optc plugin test optc_$name",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", choices=TEMPLATES, help="what to start")
    parser.add_argument("name", help="its name, in small letters: sign_momentum")
    parser.add_argument(
        "--directory", default=".", metavar="DIR", help="where to put it (the current folder)"
    )


def run(args: argparse.Namespace) -> int:
    name = valid_name(args.name)
    written = write(args.what, name, Path(args.directory))
    for path in written:
        print(path)
    print(f"\nnext: {_fill(NEXT[args.what], name)}")
    return 0


def valid_name(text: str) -> str:
    """The name with underscores for dashes, if the language and Python both take it."""
    name = text.replace("-", "_")
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise UsageError(f"`{text}` is no name: small letters, digits and _, a letter first")
    if name in _taken() or keyword.iskeyword(name) or keyword.issoftkeyword(name):
        raise UsageError(f"`{text}` means something already: take another name")
    return name


def _taken() -> set[str]:
    """What means something in every spec: no name may hide it."""
    from ..compiler.builtins import BUILTINS
    from ..compiler.builtins.constants import CONSTANTS
    from ..compiler.builtins.metadata import METAS
    from ..compiler.layout import ALWAYS_WORDS, INFIX_WORDS, LINE_WORDS, UNITS
    from ..compiler.types import REACHES

    values = {"w", "d", "t", "grad", "hvp", "params", "workers"}
    return values.union(
        ALWAYS_WORDS, BUILTINS, CONSTANTS, INFIX_WORDS, LINE_WORDS, METAS, REACHES, UNITS
    )


def write(what: str, name: str, directory: Path) -> list[Path]:
    """Fill in the templates: all of them, or none if a file is in the way."""
    if not directory.is_dir():
        raise UsageError(f"{directory}: there is no such folder")
    texts = {
        directory / _fill(target, name): _fill(_template(template), name)
        for template, target in TEMPLATES[what].items()
    }
    for path in texts:
        if path.exists():
            raise UsageError(f"{path} is there already, and is left as it is")
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        # "x": what appeared since we looked is not overwritten either.
        with path.open("x", encoding="utf-8") as stream:
            stream.write(text)
    return list(texts)


def _template(name: str) -> str:
    return (files("optc.cli") / "templates" / f"{name}.tmpl").read_text(encoding="utf-8")


def _fill(text: str, name: str) -> str:
    return Template(text).substitute(name=name, dashed=name.replace("_", "-"))
