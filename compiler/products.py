"""Public values as products, so that a ratio of two can be read: `s * size(examples) / c`."""

from __future__ import annotations

from dataclasses import dataclass

from .ir import Node
from .types import COARSE

AXIS = "examples"


@dataclass(frozen=True)
class Product:
    """A number times powers of public values."""

    number: float = 1.0
    powers: tuple[tuple[Node, int], ...] = ()

    def times(self, other: Product, sign: int = 1) -> Product:
        """The product; with sign -1 the quotient."""
        powers = dict(self.powers)
        for node, n in other.powers:
            powers[node] = powers.get(node, 0) + sign * n
        kept = sorted(((k, n) for k, n in powers.items() if n), key=lambda p: p[0].number)
        return Product(self.number * other.number**sign, tuple(kept))

    def __str__(self) -> str:
        above = [_power(k, n) for k, n in self.powers if n > 0]
        below = [_power(k, -n) for k, n in self.powers if n < 0]
        if self.number != 1 or not above:
            above.insert(0, f"{self.number:g}")
        divisor = " * ".join(below)
        divisor = f" / ({divisor})" if len(below) > 1 else f" / {divisor}" if below else ""
        return " * ".join(above) + divisor


def _power(node: Node, n: int) -> str:
    return _name(node) + (f"^{n}" if n > 1 else "")


def _name(node: Node) -> str:
    """A public value as it is known to the reader."""
    if node.op == "option":
        place = node.get("place", -1)
        return str(node["name"]) + (f"[{place}]" if place >= 0 else "")
    if counts(node):
        return f"size({AXIS})"
    span = node.span
    text = span.source.line(span.row)[span.column - 1 : span.end_column - 1]
    return f"({text})" if text and span.row == span.end_row else repr(node)


def product(node: Node) -> Product:
    """A value as a product, as far as it is one."""
    if node.op == "const":
        return Product(abs(float(node["value"])))
    if node.op in ("expand", "neg"):
        return product(node.inputs[0])
    if node.op in ("mul", "div"):
        a, b = map(product, node.inputs)
        if node.op == "mul" or b.number:
            return a.times(b, 1 if node.op == "mul" else -1)
    return Product(1.0, ((node, 1),))


def counts(node: Node) -> bool:
    """Whether a value is the number of examples; a mean counts those that are there."""
    if node.op == "reduce" and node.get("how") == "sum":
        return axes(node) == (AXIS,) and product(node.inputs[0]) == Product()
    return node.op == "size" and getattr(node["axis"], "name", "") == AXIS


def axes(node: Node) -> tuple[str, ...]:
    over = node.get("over")
    return over if isinstance(over, tuple) else ()


def coarse(node: Node) -> bool:
    """Whether a value is one number for all cells of a group."""
    inner = node.inputs[0] if node.op == "expand" else node
    return inner.type.reach in COARSE or counts(inner)
