"""Expressions, types and the parts of a signature."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..source import NOWHERE, Span


@dataclass(frozen=True, kw_only=True)
class Syntax:
    """What all nodes of the tree have."""

    span: Span = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True)
class Number(Syntax):
    """`3`, `1e-8`, `inf`. An integer literal stays an int; `text` is how it was written."""

    value: int | float
    text: str = field(default="", compare=False)


@dataclass(frozen=True)
class Text(Syntax):
    """`"*embed*"`: only ever a pattern or an address, never code."""

    value: str


@dataclass(frozen=True)
class Quantity(Syntax):
    """`200 epochs`, `5 steps`: a length of time; the unit is `step` or `epoch`."""

    value: Expr
    unit: str


@dataclass(frozen=True)
class Name(Syntax):
    """`w`, `betas`, `losses'`; `primes` counts the primes behind the name."""

    id: str
    primes: int = 0


@dataclass(frozen=True)
class Attribute(Syntax):
    """`sgd.m`, `penalty.slope`."""

    base: Expr
    name: str


@dataclass(frozen=True)
class Slice(Syntax):
    """A bare `:` between the brackets of an index."""


@dataclass(frozen=True)
class Index(Syntax):
    """`betas[0]`, `C[i]`, `K[i, :]`."""

    base: Expr
    items: tuple[Expr | Slice, ...]


@dataclass(frozen=True)
class Argument(Syntax):
    """One argument of a call; `name` is empty where it is positional."""

    name: str
    value: Expr


@dataclass(frozen=True)
class Call(Syntax):
    """`norm(g, over = model)`, `grad[a](train, w = w1)`: `wrt` holds the bracketed target or "".

    `separator` is the number of arguments before a `;` (-1 for none); it has no meaning.
    """

    function: Expr
    arguments: tuple[Argument, ...]
    wrt: str = ""
    separator: int = field(default=-1, compare=False)


@dataclass(frozen=True)
class Unary(Syntax):
    """`-x`, `not c`."""

    op: str
    operand: Expr


@dataclass(frozen=True)
class Binary(Syntax):
    """`+ - * / // % ^ @`, `== != < <= > >=`, `and or`. `^` binds tightest, to the right."""

    op: str
    left: Expr
    right: Expr


@dataclass(frozen=True)
class Lambda(Syntax):
    """`p -> e`, `(p, q) -> e`."""

    parameters: tuple[str, ...]
    body: Expr


@dataclass(frozen=True)
class Tuple(Syntax):
    """`(0.9, 0.999)`: constants as options, axes after `over =`."""

    items: tuple[Expr, ...]


@dataclass(frozen=True)
class List(Syntax):
    """`[2.0, -3.0]`: literal cells, in `check` blocks and as constants."""

    items: tuple[Expr, ...]


Expr = (
    Number
    | Text
    | Quantity
    | Name
    | Attribute
    | Index
    | Call
    | Unary
    | Binary
    | Lambda
    | Tuple
    | List
)


# Types and signatures ------------------------------------------------------------------------


@dataclass(frozen=True)
class AxisType(Syntax):
    """One axis of a type: `window(m)`, `losses`, `rank'`."""

    name: str
    size: Expr | None = None
    primes: int = 0


@dataclass(frozen=True)
class TypeExpr(Syntax):
    """`element[rank(r)]`, `model`; what is no array is `objective`, `field`, `data`, `function`."""

    reach: str
    axes: tuple[AxisType, ...] = ()


@dataclass(frozen=True)
class Input(Syntax):
    """An input of a primitive, before the `;`."""

    name: str
    type: TypeExpr | None = None


@dataclass(frozen=True)
class Option(Syntax):
    """An option of a rule or primitive; `bound` is `positive`, `unit_pair`, ..., or ""."""

    name: str
    bound: str = ""
    default: Expr | None = None
