"""The parse tree of the grammar to syntax: one method a rule of spec/grammar.lark."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from lark import Token

from . import syntax as s
from .bounds import BOUNDS
from .expression_builder import Expressions, Several
from .expression_text import text
from .source import Span


@dataclass(frozen=True)
class Sig:
    inputs: tuple[s.Slot, ...]
    options: tuple[s.Slot, ...]
    separated: bool
    span: Span


def clean_doc(text: str) -> str:
    """A doc string without its indentation, and no spaces at the ends of its lines."""
    return "\n".join(line.rstrip() for line in inspect.cleandoc(text).split("\n")).strip("\n")


class Builder(Expressions):
    """Builds the syntax of a file."""

    # The file and its items

    def file(self, children: list[Any]) -> s.File:
        doc, items = children
        return s.File(doc or "", items.items, tuple(self.trailing), span=self.span([items]))

    def items(self, children: list[Any]) -> Several:
        return Several(tuple(c for c in children if c is not None), None)

    def broken(self, children: list[Any]) -> None:
        return None

    def doc(self, children: list[Any]) -> str | None:
        return None if children[0] is None else clean_doc(children[0][3:-3])

    def body(self, children: list[Any]) -> Several:
        doc, stmts = children[3], children[4]
        return Several((doc or "", *stmts.items), stmts.span)

    def stmts(self, children: list[Any]) -> Several:
        items = tuple(c for c in children if c is not None)
        return Several(items, self.span(items) if items else None)

    def block(self, children: list[Any]) -> Several:
        block: Several = children[3]
        return block

    def rule(self, children: list[Any]) -> s.Rule:
        _, name, sig, over, body = children
        if over is not None and over != "workers":
            self.wrong("a rule goes `over workers`", self.origin.of(over))
        for slot in sig.inputs if sig.separated else ():
            self.wrong("a rule has no inputs, only options", slot.span)
        doc, *stmts = body.items
        return self.statement(
            s.Rule,
            children,
            name=str(name),
            options=tuple(self.option(slot) for slot in sig.inputs + sig.options),
            body=self.checked(stmts, papers=True),
            doc=doc,
            workers=over is not None,
        )

    def primitive(self, children: list[Any]) -> s.Primitive:
        kind, name, sig, result, body = children
        doc, *stmts = body.items
        checks = [stmt for stmt in stmts if isinstance(stmt, s.Check)]
        for check in stmts[: len(stmts) - len(checks)]:
            if isinstance(check, s.Check):
                self.wrong("the checks stand below all statements of a primitive", check.span)
        inputs, options = self.inputs_and_options(sig)
        return self.statement(
            s.Primitive,
            children,
            kind=str(kind),
            name=str(name),
            inputs=inputs,
            options=options,
            body=self.checked([b for b in stmts if not isinstance(b, s.Check)], papers=True),
            doc=doc,
            checks=tuple(checks),
            type=result,
        )

    def extern(self, children: list[Any]) -> s.Extern:
        _, name, sig, result, _ = children
        if result is None:
            self.wrong("an `extern` says what it returns", self.span(children),
                       "write `-> model` or another type behind the parentheses")  # fmt: skip
            result = s.TypeExpr("model")
        inputs, options = self.inputs_and_options(sig)
        return self.statement(
            s.Extern, children, name=str(name), inputs=inputs, options=options, type=result
        )

    def bundle(self, children: list[Any]) -> s.Bundle:
        _, name, body = children
        doc, *members = body.items
        for member in members:
            if not isinstance(member, s.Bind):
                self.wrong("a bundle holds only `name = expression`", member.span)
        binds = tuple(member for member in members if isinstance(member, s.Bind))
        self.distinct([(name, bind.span) for bind in binds for name in bind.names])
        return self.statement(s.Bundle, children, name=str(name), members=binds, doc=doc)

    def use(self, children: list[Any]) -> s.Use:
        return self.statement(s.Use, children, name=str(children[1]))

    def schedule(self, children: list[Any]) -> s.Schedule:
        _, name, body = children
        doc, *stmts = body.items
        for stmt in stmts:
            if not isinstance(stmt, s.Store | s.Run):
                self.wrong("a schedule says how a rule runs, not what it computes", stmt.span,
                           "its lines begin with `store` or `run`")  # fmt: skip
        lines = tuple(stmt for stmt in stmts if isinstance(stmt, s.Store | s.Run))
        return self.statement(s.Schedule, children, rule=str(name), body=lines, doc=doc)

    def store(self, children: list[Any]) -> s.Store:
        _, slot, _, format, _ = children
        return self.statement(s.Store, children, slot=slot, format=format)

    def run(self, children: list[Any]) -> s.Run:
        return self.statement(s.Run, children, how=children[1])

    # Signatures and types

    def signature(self, children: list[Any]) -> Sig:
        _, before, behind, _ = children
        options = behind.items if behind is not None else ()
        self.distinct([(slot.name, slot.span) for slot in (*before.items, *options)])
        return Sig(before.items, options, behind is not None, self.span(children))

    def separated(self, children: list[Any]) -> Any:
        return children[1]

    separated_arguments = separated

    def slot(self, children: list[Any]) -> s.Slot:
        name, type, value = children
        return s.Slot(str(name), type, value, span=self.span(children))

    def inputs_and_options(self, sig: Sig) -> tuple[tuple[s.Input, ...], tuple[s.Option, ...]]:
        inputs, options = list(sig.inputs), list(sig.options)
        if not sig.separated:
            options = [slot for slot in inputs if is_option(slot)]
            inputs = [slot for slot in inputs if not is_option(slot)]
        for slot in inputs:
            if slot.value is not None:
                self.wrong(f"the input `{slot.name}` has a default", slot.span,
                           "options stand behind the `;`")  # fmt: skip
        return (
            tuple(s.Input(slot.name, slot.type, span=slot.span) for slot in inputs),
            tuple(self.option(slot) for slot in options),
        )

    def distinct(self, named: Sequence[tuple[str, Span]]) -> None:
        """Complains of a name that is given twice in one list."""
        seen: set[str] = set()
        for name, span in named:
            if name in seen:
                self.wrong(f"`{name}` stands twice", span, code="E106")
            seen.add(name)

    def option(self, slot: s.Slot) -> s.Option:
        if slot.type is not None and slot.type.axes:
            self.wrong(f"the option `{slot.name}` has axes; a bound is a word", slot.type.span)
        bound = slot.type.reach if slot.type else ""
        return s.Option(slot.name, bound, slot.value, span=slot.span)

    def type_(self, children: list[Any]) -> s.TypeExpr:
        name, axes = children
        return s.TypeExpr(str(name), axes.items, span=self.span(children))

    def axis(self, children: list[Any]) -> s.AxisType:
        name, size = children
        base = name.rstrip("'")
        return s.AxisType(base, size, len(name) - len(base), span=self.span(children))

    # Statements

    def checked(self, stmts: Sequence[Any], papers: bool = False) -> tuple[s.Statement, ...]:
        """The statements of a block, without those that can't stand there."""
        for stmt in stmts:
            if isinstance(stmt, s.Check):
                self.wrong("a `check` stands at the end of a primitive", stmt.span)
            elif isinstance(stmt, s.CheckLine):
                self.wrong("`gives` stands in a `check` block", stmt.span)
            elif isinstance(stmt, s.Store | s.Run):
                self.wrong("how a rule runs is said apart from it", stmt.span,
                           "in a block `schedule NAME:`, NAME being the rule")  # fmt: skip
            elif isinstance(stmt, s.Paper) and not papers:
                self.wrong("`paper` stands at the level of the rule or primitive", stmt.span)
        return tuple(stmts)

    def bind(self, children: list[Any]) -> s.Bind:
        places, _, values, _ = children
        for place in places.items:
            if not isinstance(place, s.Name):
                self.wrong("`=` names a value, once", place.span,
                           "a part of a slot is written with `<-`")  # fmt: skip
        if len(values.items) != 1:
            self.wrong("`=` has one value on its right", values.span or places.span,
                       "several values are written in lines of their own")  # fmt: skip
        names = tuple(place.id for place in places.items if isinstance(place, s.Name))
        self.distinct([(text(place), place.span) for place in places.items])
        return self.statement(s.Bind, children, names=names, value=values.items[0])

    def write(self, children: list[Any]) -> s.Write:
        always = isinstance(children[0], Token)
        places, _, values, _ = children[1:] if always else children
        if len(places.items) != len(values.items):
            count = f"{len(places.items)} places and {len(values.items)} values"
            help = (
                "name the parts of a tuple first: `a, b = f(x)`" if len(values.items) == 1 else ""
            )
            self.wrong(f"this writes {count}", self.span(children), help)
        self.distinct([(text(place), place.span) for place in places.items])
        return self.statement(
            s.Write, children, places=places.items, values=values.items, always=always
        )

    def place(self, children: list[Any]) -> s.Name | s.Index:
        name = self.name(children[:1])
        return name if len(children) == 1 else self.index([name, children[1]])

    def declare(self, children: list[Any]) -> s.Declare:
        kind = "loss" if children[0] == "losses" else str(children[0])
        slots = tuple(c for c in children if isinstance(c, s.Slot))
        self.distinct([(slot.name, slot.span) for slot in slots])
        return self.statement(s.Declare, children, kind=kind, slots=slots)

    def oracle(self, children: list[Any]) -> s.Declare:
        slots = tuple(c for c in children if isinstance(c, s.Slot))
        self.distinct([(slot.name, slot.span) for slot in slots])
        return self.statement(s.Declare, children, kind="oracle", slots=slots)

    def oracle_slot(self, children: list[Any]) -> s.Slot:
        name, sig, type = children
        for slot in sig.inputs + sig.options:
            if slot.type is not None or slot.value is not None or sig.separated:
                self.wrong("the inputs of an oracle are names only", slot.span)
        parameters = tuple(slot.name for slot in sig.inputs)
        return s.Slot(str(name), type, None, parameters, span=self.span(children))

    def step(self, children: list[Any]) -> s.Step:
        kind, call, alias, when, _ = children
        return self.statement(
            s.Step, children, kind=str(kind), call=call, alias=str(alias or ""), when=when
        )

    def outcome(self, children: list[Any]) -> s.Outcome:
        return self.decided(children, children[1], None)

    def restore(self, children: list[Any]) -> s.Outcome:
        return self.decided(children, children[2], children[1])

    def decided(self, children: list[Any], when: Any, count: Any) -> s.Outcome:
        if when is None:
            self.wrong(f"`{children[0]}` says when", self.span(children),
                       f"write `{children[0]} when ..`")  # fmt: skip
        when = when or s.Name("true", span=self.span(children))
        return self.statement(s.Outcome, children, kind=str(children[0]), when=when, count=count)

    def value(self, children: list[Any]) -> s.Return | s.Eval:
        if children[0].type == "RETURN":
            return self.statement(s.Return, children, value=children[1])
        return self.statement(s.Eval, children, value=children[1])

    def metric(self, children: list[Any]) -> s.Metric:
        return self.statement(s.Metric, children, name=str(children[1]), value=children[3])

    def for_(self, children: list[Any]) -> s.For:
        _, target, where, block = children
        other = isinstance(target, Token) and target.type == "OTHER"
        if other:
            target, where = where, None
        body = self.checked(block.items)
        return self.statement(
            s.For, children, target=str(target), where=where, body=body, other=other
        )

    def other(self, children: list[Any]) -> s.For:
        body = self.checked(children[-1].items)
        return self.statement(s.For, children, target="", where=None, body=body, other=True)

    def repeat(self, children: list[Any]) -> s.Repeat:
        _, count, alias, until, block = children
        body = self.checked(block.items)
        return self.statement(
            s.Repeat, children, count=count, body=body, index=str(alias or ""), until=until
        )

    def branch(self, children: list[Any]) -> s.If | s.Every:
        word, subject, block, orelse = children
        body = self.checked(block.items)
        rest = self.checked(orelse.items) if orelse else ()
        if word.type == "IF":
            return self.statement(s.If, children, condition=subject, body=body, orelse=rest)
        return self.statement(s.Every, children, period=subject, body=body, orelse=rest)

    def paper(self, children: list[Any]) -> s.Paper:
        values = children[1].items
        numbers = [v.value for v in values if isinstance(v, s.Number)]
        texts = [v.value for v in values if isinstance(v, s.Text)]
        form = [type(v) for v in values]
        if form not in ([s.Number], [s.Text], [s.Number, s.Text]) or not all(
            isinstance(n, int) for n in numbers
        ):
            self.wrong("a paper is its number, its address, or both", self.span(children),
                       'write `paper 38, "arXiv:2302.06675"`')  # fmt: skip
        return self.statement(
            s.Paper,
            children,
            number=numbers[0] if numbers else 0,
            address=texts[0] if texts else "",
        )

    def check(self, children: list[Any]) -> s.Check:
        _, name, block = children
        for line in block.items:
            if not isinstance(line, s.CheckLine):
                self.wrong("a line of a check is `inputs gives outputs`", line.span)
        lines = tuple(line for line in block.items if isinstance(line, s.CheckLine))
        return self.statement(s.Check, children, name=str(name), lines=lines)

    def check_line(self, children: list[Any]) -> s.CheckLine:
        at = next(i for i, c in enumerate(children) if isinstance(c, Token) and c.type == "GIVES")
        inputs = tuple(c for c in children[:at] if isinstance(c, s.Argument))
        outputs = tuple(c for c in children[at:] if isinstance(c, s.Argument))
        for argument in inputs:
            if not argument.name:
                self.wrong("an input of a check has a name", argument.span, "write `g = ..`")
        for side in (inputs, outputs):
            self.distinct([(a.name, a.span) for a in side if a.name])
        within = children[-2]
        parts = [c for c in children if not (isinstance(c, Token) and c.type == "GIVEN")]
        line = self.statement(s.CheckLine, children, inputs=inputs, outputs=outputs, within=within)
        return replace(line, span=self.span(parts))


def is_option(slot: s.Slot) -> bool:
    """Whether an entry of a signature without `;` is an option: it has a default or a bound."""
    bound = slot.type.reach if slot.type and not slot.type.axes else ""
    return slot.value is not None or (bound in BOUNDS and bound not in ("function", "bundle"))
