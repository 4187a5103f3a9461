"""The file and its items: rules, primitives with their checks, bundles, schedules."""

from __future__ import annotations

from dataclasses import dataclass, field

from .expressions import Argument, Expr, Input, Option, Syntax, TypeExpr
from .statements import Bind, Statement


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
