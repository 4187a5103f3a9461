"""The languages in which an element-wise phase is printed."""

from __future__ import annotations

from ..program import Compute
from ..signature import Signature, typed
from . import c, triton

PRINTERS = {"c": c.print_phase, "triton": triton.print_phase}


def print_kernel(phase: Compute, signature: Signature, language: str) -> str:
    """The source of a phase for one signature of types."""
    return typed(language, signature) + PRINTERS[language](phase)


def folded(source: str, language: str, width: int) -> str:
    """A kernel with its long lines broken between words; in Triton, within brackets only."""
    lines: list[str] = []
    for line in source.rstrip("\n").split("\n"):
        depth, brackets = len(line) - len(line.lstrip()), 1000 * (language == "c")
        while len(line) > width and (cut := _cut(line, depth, brackets, width)) > 0:
            lines.append(line[:cut])
            brackets += line.count("(", 0, cut) - line.count(")", 0, cut)
            line = " " * (depth + 4) + line[cut + 1 :]
        lines.append(line)
    return "\n".join(lines) + "\n"


def _cut(line: str, depth: int, brackets: int, width: int) -> int:
    """The last space within brackets (C: of a line) at which the line is short enough."""
    last = 0
    for place, letter in enumerate(line[:width]):
        brackets += (letter == "(") - (letter == ")")
        if letter == " " and place > depth + 4 and brackets > 0:
            last = place
    return last
