"""How tightly operators bind: the parser groups by it, the formatter puts parentheses by it."""

from __future__ import annotations

LAMBDA = 0
OR, AND, NOT, COMPARISON, SUM, PRODUCT, NEGATION, POWER = range(1, 9)
POSTFIX = 9
"""Calls, indices and attributes; an atom binds tighter than all of it."""

BINARY = {
    "or": OR,
    "and": AND,
    **dict.fromkeys(("==", "!=", "<", "<=", ">", ">="), COMPARISON),
    **dict.fromkeys(("+", "-"), SUM),
    **dict.fromkeys(("*", "/", "//", "%", "@"), PRODUCT),
    "^": POWER,
}
PREFIX = {"not": NOT, "-": NEGATION}
