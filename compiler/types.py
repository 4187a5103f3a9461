"""What flows along an edge of the graph: `reach[axes]` over the cells of a target.

Reach says over which cells a value varies: element < row, column < tensor < group < model. Coarse
meets fine by broadcasting; fine becomes coarse by a reduction that names its reach. Axes are named,
sized and aligned by name; the same name twice is primed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

REACHES = ("element", "row", "column", "tensor", "group", "model")
FINE = ("element", "row", "column")
"""Reaches of values that vary within a tensor."""

COARSE = ("group", "model")
"""Reaches of values that are not one for each tensor."""

_RANK = {"element": 0, "row": 1, "column": 1, "tensor": 2, "group": 3, "model": 4}
SIDES = ("rows", "cols", "short", "long")
"""The axes of a tensor's matrix, as it is and turned where it is tall."""
SINGULAR = "singular"
"""The axis of the singular values of a matrix: each matrix has its own number of them."""
BUILD, HOST, DEVICE = 0, 1, 2
"""When a value is known: while compiling, on the host at the start of a step, or on the device."""


@dataclass(frozen=True)
class Axis:
    """A named axis. `size` is an int, a node that is known to the host, a side of the tensors'
    matrices (of an axis that had its name), or None (its name or the loop says)."""

    name: str
    size: object = None
    primes: int = 0

    def __str__(self) -> str:
        size = f"({self.size})" if isinstance(self.size, int) else ""
        return self.name + size + "'" * self.primes

    @property
    def label(self) -> str:
        """The name with its primes: what one axis differs from another by."""
        return self.name + "'" * self.primes

    @property
    def side(self) -> str:
        """The side of each tensor's matrix that it is; "" of another axis."""
        if isinstance(self.size, str):
            return self.size
        return self.name if self.name in SIDES else ""

    def renamed(self, name: str, primes: int) -> Axis:
        """The same places under another name."""
        return Axis(name, self.size or self.side or None, primes)

    def same(self, other: Axis) -> bool:
        """Whether both are the same axis; sizes are not compared."""
        return (self.name, self.primes) == (other.name, other.primes)

    def prime(self, by: int = 1) -> Axis:
        return replace(self, primes=self.primes + by)


@dataclass(frozen=True)
class Type:
    """The type of a value. `domain` names the cells it ranges over where the reach is below group.

    `kind` is `array`, or what else flows: `data` (a batch), `evaluation` (an oracle at a point).
    """

    reach: str = "model"
    axes: tuple[Axis, ...] = ()
    domain: str = ""
    logical: bool = False
    kind: str = "array"

    def __str__(self) -> str:
        if self.kind != "array":
            return self.kind
        axes = f"[{', '.join(map(str, self.axes))}]" if self.axes else ""
        return self.reach + axes

    def axis(self, name: str, primes: int = 0) -> Axis | None:
        return next((a for a in self.axes if a.same(Axis(name, None, primes))), None)

    def at(self, reach: str) -> Type:
        """The same axes at a coarser reach."""
        return replace(self, reach=reach, domain=self.domain if _RANK[reach] < 3 else "")


MODEL = Type("model")
LOGICAL = Type("model", logical=True)
DATA = Type(kind="data")
EVALUATION = Type(kind="evaluation")


def finer(a: str, b: str) -> str:
    """The reach that two values have together: the finer one; rows against columns are elements."""
    if {a, b} == {"row", "column"}:
        return "element"
    return a if _RANK[a] <= _RANK[b] else b


def coarser_or_equal(coarse: str, fine: str) -> bool:
    """Whether a value of reach `coarse` can be broadcast to the cells of reach `fine`."""
    return finer(coarse, fine) == fine


def union(axes: tuple[Axis, ...], more: tuple[Axis, ...]) -> tuple[Axis, ...]:
    """The axes of both, in order of appearance; a known size wins over an unknown one."""
    result = list(axes)
    for axis in more:
        at = next((i for i, a in enumerate(result) if a.same(axis)), None)
        if at is None:
            result.append(axis)
        elif result[at].size is None:
            result[at] = axis
    return tuple(result)


class TypeClash(Exception):
    """Two types that cannot meet; the checker turns the message into a diagnostic."""


def meet(types: list[Type]) -> Type:
    """The type of an element-wise function of values of these types."""
    reach, domain = "model", ""
    axes: tuple[Axis, ...] = ()
    for type in types:
        if type.kind != "array":
            raise TypeClash(f"a value of type {type} cannot enter arithmetic")
        if type.domain and domain and type.domain != domain:
            raise TypeClash(
                f"the cells of `{domain}` and of `{type.domain}` are different tensors; "
                "reduce one of them `over = model` first"
            )
        for axis in type.axes:
            other = next((a for a in axes if a.same(axis)), None)
            sizes = {s for s in (axis.size, other.size if other else None) if isinstance(s, int)}
            if len(sizes) > 1:
                one, two = sorted(sizes)
                raise TypeClash(f"axis `{axis.name}` has size {one} and {two}")
        reach, axes = finer(reach, type.reach), union(axes, type.axes)
        domain = domain or type.domain
    return Type(reach, axes, domain if _RANK[reach] < 3 else "")
