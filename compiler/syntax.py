"""The syntax tree: one frozen dataclass a grammar rule, each with its span.

The `.opt` grammar and the YAML form both produce this tree, and it has no other source. Spans and
comments are no part of equality, so that a tree can be compared with the tree of the other form.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from .source import NOWHERE, Span


@dataclass(frozen=True, kw_only=True)
class Syntax:
    """What all nodes of the tree have."""

    span: Span = field(default=NOWHERE, compare=False, repr=False)


# Expressions ----------------------------------------------------------------------------------


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


# Types and signatures -------------------------------------------------------------------------


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


# Statements -----------------------------------------------------------------------------------


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


# The file -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CheckLine(Statement):
    """One line of a check: inputs of one step, what it gives.

    `g = [2.0, -3.0], w = [1, 1] gives [1.0, -1.0] within 1e-12`; consecutive lines are consecutive
    steps of the same instance. `loss = p -> ...` supplies an objective, `rho = 0.1` an option,
    `target` names what is compared (`returns` is written as "gives", a slot as `gives m = [...]`).
    """

    inputs: tuple[Argument, ...]
    outputs: tuple[Argument, ...]
    within: Expr | None = None


@dataclass(frozen=True)
class Check(Statement):
    """`check first_step:` and its lines."""

    name: str
    lines: tuple[CheckLine, ...]


@dataclass(frozen=True)
class Rule(Statement):
    name: str
    options: tuple[Option, ...]
    body: tuple[Statement, ...]
    doc: str = ""
    workers: bool = False


@dataclass(frozen=True)
class Primitive(Statement):
    """`precondition adam(g; betas = ...) -> element:`; `kind` is one of KINDS."""

    kind: str
    name: str
    inputs: tuple[Input, ...]
    options: tuple[Option, ...]
    body: tuple[Statement, ...]
    doc: str = ""
    checks: tuple[Check, ...] = ()
    type: TypeExpr | None = None


@dataclass(frozen=True)
class Extern(Statement):
    """`extern cone_qp(A, b) -> model[losses]`: an opaque pure function that the host supplies."""

    name: str
    inputs: tuple[Input, ...]
    options: tuple[Option, ...]
    type: TypeExpr


@dataclass(frozen=True)
class Bundle(Statement):
    """`bundle sphere:` and binds: several functions under one name, passed as an option."""

    name: str
    members: tuple[Bind, ...]
    doc: str = ""


@dataclass(frozen=True)
class Use(Statement):
    """`use manifolds`: makes a library of a plugin known by name."""

    name: str


@dataclass(frozen=True)
class Store(Statement):
    """`store adam.m as bf16(stochastic)`: how a slot is kept between steps."""

    slot: Expr
    format: Expr


@dataclass(frozen=True)
class Run(Statement):
    """`run in_backward`, `run backend(c)`."""

    how: Expr


@dataclass(frozen=True)
class Schedule(Statement):
    """`schedule adamw:` and its lines: how a rule runs, never what it computes."""

    rule: str
    body: tuple[Store | Run, ...]
    doc: str = ""


@dataclass(frozen=True)
class File(Syntax):
    doc: str
    items: tuple[Statement, ...]
    trailing: tuple[str, ...] = field(default=(), compare=False)


KINDS = (
    "estimate",
    "perturb",
    "combine",
    "regularize",
    "clip",
    "normalize",
    "precondition",
    "smooth",
    "project",
    "stepsize",
    "average",
    "communicate",
    "monitor",
    "function",
)
"""The kinds of primitives, and of the folders of plugins/; in a rule, `step` uses stepsize."""
