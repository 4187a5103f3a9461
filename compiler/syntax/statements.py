"""The statements of a block."""

from __future__ import annotations

from dataclasses import dataclass, field

from .expressions import Expr, Index, Name, Syntax, TypeExpr


@dataclass(frozen=True, kw_only=True)
class Statement(Syntax):
    """What all statements and items have: their comments, with `#` and spaces stripped.

    `comments` are the whole-line comments above, `comment` the one behind, and `after` those below
    the last statement of a block, at its indentation.
    """

    comments: tuple[str, ...] = field(default=(), compare=False, repr=False)
    comment: str = field(default="", compare=False, repr=False)
    after: tuple[str, ...] = field(default=(), compare=False, repr=False)


@dataclass(frozen=True)
class Bind(Statement):
    """`x = e`, or `a, b = f(x)`: names values, once."""

    names: tuple[str, ...]
    value: Expr


@dataclass(frozen=True)
class Slot(Syntax):
    """One name of a declaration; `parameters` are those of an oracle (`score(x, condition)`)."""

    name: str
    type: TypeExpr | None = None
    value: Expr | None = None
    parameters: tuple[str, ...] = ()


@dataclass(frozen=True)
class Declare(Statement):
    """`state m = zeros(w), v: model = 0`; `kind` is target, state, var, input, loss or oracle."""

    kind: str
    slots: tuple[Slot, ...]


@dataclass(frozen=True)
class Write(Statement):
    """`m <- e`, `a, b <- e1, e2`, `C[i] <- c`, `always skipped <- skipped + 1`."""

    places: tuple[Name | Index, ...]
    values: tuple[Expr, ...]
    always: bool = False


@dataclass(frozen=True)
class Step(Statement):
    """`precondition adam(betas, eps) as a when t > 3`; for `step lr` the call is any expression."""

    kind: str
    call: Expr
    alias: str = ""
    when: Expr | None = None


@dataclass(frozen=True)
class Outcome(Statement):
    """`veto when c`, `restore 4 when c`, `snapshot when c`; `count` is of `restore` only."""

    kind: str
    when: Expr
    count: Expr | None = None


@dataclass(frozen=True)
class Return(Statement):
    value: Expr


@dataclass(frozen=True)
class Eval(Statement):
    """`eval x_ag`: what the target holds in evaluation."""

    value: Expr


@dataclass(frozen=True)
class Metric(Statement):
    """`metric ratio = e`."""

    name: str
    value: Expr


@dataclass(frozen=True)
class For(Statement):
    """`for params where ndim == 2:` / `for critic:`; `target` is `params` or a declared target.

    `where` is None in `for other params:`/`other:` too; there `other` is true.
    """

    target: str
    where: Expr | None
    body: tuple[Statement, ...]
    other: bool = False


@dataclass(frozen=True)
class Repeat(Statement):
    """`repeat n as i until c:`."""

    count: Expr
    body: tuple[Statement, ...]
    index: str = ""
    until: Expr | None = None


@dataclass(frozen=True)
class Every(Statement):
    """`every k:` with an optional `else:`."""

    period: Expr
    body: tuple[Statement, ...]
    orelse: tuple[Statement, ...] = ()


@dataclass(frozen=True)
class If(Statement):
    """`if c:` with an optional `else:`."""

    condition: Expr
    body: tuple[Statement, ...]
    orelse: tuple[Statement, ...] = ()


@dataclass(frozen=True)
class Paper(Statement):
    """`paper 38, "arXiv:2302.06675"`: its number in the project's list (0 if none) and address."""

    number: int = 0
    address: str = ""
