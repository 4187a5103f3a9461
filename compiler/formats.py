"""The forms in which a slot can be kept between steps."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Format:
    """How a slot is kept between steps: a type ("" is the one it is computed in), and how it gets
    into it.

    `rounding` is nearest, stochastic or kahan (a second slot keeps what rounding lost). int8 keeps
    codes, and the largest size of each `block` of cells: cell = size * (code / 127)^`power`.
    """

    type: str = ""
    rounding: str = "nearest"
    block: int = 0
    power: int = 1

    def bytes(self, computed: int = 4) -> float:
        """What a cell takes where `computed` bytes hold it in the type of computing."""
        known = {"": computed, "f32": 4, "bf16": 2, "f16": 2, "int8": 1 + 4 / (self.block or 1)}
        return known[self.type]


def sizes_of(slot: str) -> str:
    """The slot that keeps the sizes of the blocks of an int8 slot; of a routed part its own."""
    path, at, domain = slot.partition("@")
    return f"{path}.size{at}{domain}"


def rest_of(slot: str) -> str:
    """The slot that keeps what rounding took from another one."""
    return f"{slot}.rest"
