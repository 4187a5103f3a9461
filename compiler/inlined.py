"""A rule with the bodies of its steps in their place: the algorithm box that a paper would print.

    precondition adam(betas)        ->    d = grad(w)
                                          state exp_avg = zeros(d), ...
                                          exp_avg <- betas[0] * exp_avg + (1 - betas[0]) * d
                                          d = exp_avg / ...

It is a rule of the same language and the same meaning. Steps that map a field or a loss to another
are functions of the point, not lines; they stay, and `fields` gives their definitions.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from . import syntax as s
from .builtins import BUILTINS
from .calls import supplied
from .primitive import Declaration, Registry

AMBIENT = frozenset(
    "w d g grad loss batch t call steps epoch progress over where model element tensor row column "
    "group params other pi inf".split()
)
"""Names that a step's own names must not hide."""


@dataclass
class Inliner:
    """Replaces the steps of one rule; `taken` are the names in use, `own` those that it binds."""

    registry: Registry
    local: Mapping[str, Declaration]
    taken: set[str] = field(default_factory=set)
    kept: dict[str, Declaration] = field(default_factory=dict)
    own: set[str] = field(default_factory=set)
    loops: int = 0

    def block(self, body: Iterable[s.Statement], directed: bool = False) -> list[s.Statement]:
        """The statements of a block; `directed` says whether `d` has a value above it."""
        result: list[s.Statement] = []
        for statement in body:
            made = self.statement(statement, directed)
            if not directed and any(_reads_d(x) for x in made):
                result.append(
                    s.Bind(("d",), s.Call(s.Name("grad"), (s.Argument("", s.Name("w")),)))
                )
                directed = True
            directed = directed or any(self.directs(x) for x in made)
            result += made
        return result

    def directs(self, statement: s.Statement) -> bool:
        """Whether `d` has a value below a line: it binds it, or is a step that stays and does."""
        if isinstance(statement, s.Step):
            declaration = self.find(statement)
            tree = declaration.tree if declaration is not None else None
            inputs = tree.inputs if isinstance(tree, s.Primitive) else ()
            return "d" in {supplied(i, statement.kind) for i in inputs}
        return isinstance(statement, s.Bind) and "d" in statement.names

    def statement(self, statement: s.Statement, directed: bool) -> list[s.Statement]:
        if isinstance(statement, s.Paper):
            return []
        if isinstance(statement, s.Step):
            return self.step(statement)
        if isinstance(statement, s.For):
            routed = statement.where is not None or statement.other
            return [replace(statement, body=tuple(self.block(statement.body, directed and routed)))]
        if isinstance(statement, s.Repeat):
            self.loops += 1
            body = tuple(self.block(statement.body, directed))
            self.loops -= 1
            return [replace(statement, body=body)]
        if isinstance(statement, s.Every | s.If):
            body = tuple(self.block(statement.body, directed))
            orelse = tuple(self.block(statement.orelse, directed))
            return [replace(statement, body=body, orelse=orelse)]
        return [statement]

    def step(self, step: s.Step) -> list[s.Statement]:
        declaration = self.find(step)
        tree = declaration.tree if declaration is not None else None
        counts = self.loops and "t" in _names(tree)  # its turns, which a rule's own `t` does not
        other = {n for n in _names(tree) if n in BUILTINS} & self.own  # `mean`, say, is a slot here
        plain = isinstance(tree, s.Primitive) and _straight(tree) and not _named(step)
        if isinstance(tree, s.Primitive) and plain and not counts and not other:
            body, value = self.body(tree, step.call)
            about = f"{tree.kind} {tree.name}: {_first(tree.doc)}"
        elif declaration is None and step.kind == "step":
            body, value, about = [], step.call, ""
        else:
            if declaration is not None:
                self.kept.setdefault(f"{declaration.kind} {declaration.name}", declaration)
            return [step]
        kind = tree.kind if isinstance(tree, s.Primitive) else "stepsize"
        body.append(_result(kind, tree, value, step))
        comments = (*step.comments, *textwrap.wrap(about, 90, break_on_hyphens=False))
        return [replace(body[0], comments=(*comments, *body[0].comments)), *body[1:]]

    def find(self, step: s.Step) -> Declaration | None:
        called = step.call.function if isinstance(step.call, s.Call) else step.call
        if not isinstance(called, s.Name):
            return None
        kind = "stepsize" if step.kind == "step" else step.kind
        if kind == "stepsize" and not isinstance(step.call, s.Call):
            return None
        return self.local.get(called.id) or self.registry.find(kind, called.id)

    def body(self, tree: s.Primitive, call: s.Expr) -> tuple[list[s.Statement], s.Expr]:
        """A primitive's statements with the arguments of a call, and what it returns."""
        table = self.arguments(tree, call.arguments if isinstance(call, s.Call) else ())
        for name in _bound(tree.body):
            table[name] = s.Name(self.fresh(name, tree.name))
        body = [renamed(x, table) for x in tree.body if not isinstance(x, s.Paper)]
        last = body.pop()
        assert isinstance(last, s.Return)
        return body, last.value

    def arguments(self, tree: s.Primitive, given: Iterable[s.Argument]) -> dict[str, s.Expr]:
        named = {a.name: a.value for a in given if a.name}
        values = [a.value for a in given if not a.name]
        table: dict[str, s.Expr] = {}
        for item in tree.inputs:
            stands = supplied(item, tree.kind)
            if item.name in named:
                table[item.name] = named[item.name]
            elif stands:
                table[item.name] = s.Name(stands)
            elif values:
                table[item.name] = values.pop(0)
        for option in tree.options:
            if option.name in named:
                table[option.name] = named[option.name]
            elif values:
                table[option.name] = values.pop(0)
            elif option.default is not None:
                table[option.name] = option.default
        return table

    def fresh(self, name: str, owner: str) -> str:
        """The name itself if nothing else has it, or one with the primitive's name in front."""
        found, n = name, 1
        while found in self.taken or found in AMBIENT or found in BUILTINS:
            found = f"{owner}_{name}" if n == 1 else f"{owner}_{name}_{n}"
            n += 1
        self.taken.add(found)
        return found


def inlined(
    rule: s.Rule, registry: Registry, local: Mapping[str, Declaration] | None = None
) -> tuple[s.Rule, list[Declaration]]:
    """The rule with its steps written out, and the primitives that stay as steps."""
    inliner = Inliner(registry, local or {}, set(_names(rule)), own=set(_bound(rule.body)))
    body = tuple(inliner.block(rule.body))
    return replace(rule, body=body), list(inliner.kept.values())


# What a step becomes --------------------------------------------------------------------------


def _straight(tree: s.Primitive) -> bool:
    """Whether a body is lines and one result at its end, of values and not of functions."""
    asked = {supplied(i, tree.kind) for i in tree.inputs} - {""}
    is_field = "d" not in asked and asked & {"grad", "loss"} and tree.kind != "stepsize"
    typed = any(i.type is not None and i.type.axes for i in tree.inputs)
    returns = [x for x in _statements(tree.body) if isinstance(x, s.Return)]
    steps = any(isinstance(x, s.Step) for x in _statements(tree.body))
    last = tree.body[-1] if tree.body else None
    return not (is_field or typed or steps) and returns == [last]


def _named(step: s.Step) -> bool:
    """Others may read the state of a step that has a name."""
    return bool(step.alias) and step.kind != "monitor"


def _result(kind: str, tree: Any, value: s.Expr, step: s.Step) -> s.Statement:
    if kind == "monitor":
        return s.Metric(step.alias or tree.name, value)
    if kind == "average":
        return s.Eval(value)
    if kind == "stepsize":
        moved = s.Binary("-", s.Name("w"), s.Binary("*", value, s.Name("d")))
        return s.Write((s.Name("w"),), (_guarded("w", moved, step),))
    asked = {supplied(i, kind) for i in tree.inputs}
    if "d" in asked:
        return s.Bind(("d",), _guarded("d", value, step))
    return s.Write((s.Name("w"),), (_guarded("w", value, step),))


def _guarded(name: str, value: s.Expr, step: s.Step) -> s.Expr:
    if step.when is None:
        return value
    parts = (step.when, value, s.Name(name))
    return s.Call(s.Name("where"), tuple(s.Argument("", p) for p in parts))


def _reads_d(statement: s.Statement) -> bool:
    """Whether a line reads the direction; blocks see to theirs themselves."""
    if isinstance(statement, s.For | s.Repeat | s.Every | s.If):
        return False
    read = statement.value if isinstance(statement, s.Bind) else statement
    return "d" in _names(read)


def _first(doc: str) -> str:
    return " ".join(doc.strip().split("\n\n")[0].split())


# Names ----------------------------------------------------------------------------------------


def _statements(body: Iterable[s.Statement]) -> Iterator[s.Statement]:
    for statement in body:
        yield statement
        for part in ("body", "orelse"):
            yield from _statements(getattr(statement, part, ()))


def _bound(body: Iterable[s.Statement]) -> list[str]:
    """The names that the lines of a body give."""
    found: dict[str, None] = {}
    for statement in _statements(body):
        if isinstance(statement, s.Bind):
            found.update(dict.fromkeys(statement.names))
        elif isinstance(statement, s.Declare):
            found.update(dict.fromkeys(slot.name for slot in statement.slots))
        elif isinstance(statement, s.Repeat) and statement.index:
            found[statement.index] = None
    return list(found)


def _names(tree: Any) -> Iterator[str]:
    """Every name in a tree, given or read."""
    if isinstance(tree, tuple):
        for part in tree:
            yield from _names(part)
    elif isinstance(tree, s.Syntax):
        if isinstance(tree, s.Name):
            yield tree.id
        elif isinstance(tree, s.Bind):
            yield from tree.names
        elif isinstance(tree, s.Slot | s.Option):
            yield tree.name
        elif isinstance(tree, s.Repeat):
            yield tree.index
        for part in fields(tree):
            yield from _names(getattr(tree, part.name))


def renamed(tree: Any, table: Mapping[str, s.Expr]) -> Any:
    """A tree with names replaced; the parameters of a function hide outer names."""
    if isinstance(tree, tuple):
        return tuple(renamed(part, table) for part in tree)
    if isinstance(tree, s.Name):
        new = table.get(tree.id, tree)
        return replace(new, primes=tree.primes) if isinstance(new, s.Name) else new
    if not isinstance(tree, s.Syntax):
        return tree
    if isinstance(tree, s.Lambda):
        table = {k: v for k, v in table.items() if k not in tree.parameters}
    changed = {
        f.name: renamed(getattr(tree, f.name), table)
        for f in fields(tree)
        if isinstance(getattr(tree, f.name), s.Syntax | tuple)
    }
    made = replace(tree, **changed)
    if isinstance(made, s.Bind):
        return replace(made, names=tuple(_new(n, table) for n in made.names))
    if isinstance(made, s.Slot):
        return replace(made, name=_new(made.name, table))
    if isinstance(made, s.Repeat):
        return replace(made, index=_new(made.index, table))
    if isinstance(made, s.Index) and isinstance(made.base, s.Tuple):
        (at,) = made.items
        return made.base.items[int(at.value)] if isinstance(at, s.Number) else made
    return made


def _new(name: str, table: Mapping[str, s.Expr]) -> str:
    new = table.get(name)
    return new.id if isinstance(new, s.Name) else name
