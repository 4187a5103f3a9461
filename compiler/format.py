"""Syntax to its canonical text: what `optc fmt` writes, and what `parse` reads back as it was."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from . import syntax as s
from .builder import is_option
from .expression_text import INDENT, WIDTH, bracketed, text, type_text, wrapped

Lines = list[str]


def to_opt(file: s.File) -> str:
    """The canonical text of a file."""
    lines: Lines = []
    if file.doc:
        lines += doc_lines(file.doc, "")
    for at, item in enumerate(file.items):
        if at or (file.doc and len(file.items) > 1):
            lines.append("")
        lines += block([item], "")
    if file.trailing:
        lines += (
            ["", *(_comment(c) for c in file.trailing)] if lines else map(_comment, file.trailing)
        )
    return "".join(f"{line}\n" for line in lines)


def doc_lines(doc: str, indent: str) -> Lines:
    """A doc string; its quotes stand alone where the text would run into them or be dedented."""
    first, *rest = doc.split("\n")
    depths = [len(line) - len(line.lstrip()) for line in rest if line.strip()]
    body = [f"{indent}{line}".rstrip() for line in (first, *rest)]
    if first.startswith(" ") or (depths and min(depths) > 0):
        return [f'{indent}"""', *body, f'{indent}"""']
    body[0] = f'{indent}"""{first}'
    if rest or doc.endswith('"') or len(body[0]) + 3 > WIDTH:
        return [*body, f'{indent}"""']
    return [f'{body[0]}"""']


def _comment(comment: str) -> str:
    return f"# {comment}".rstrip()


def block(stmts: Sequence[s.Statement], indent: str) -> Lines:
    """The lines of a block: the calls of its steps in one column, comments behind lines too."""
    pad = max((len(stmt.kind) for stmt in stmts if isinstance(stmt, s.Step)), default=0)
    lines: Lines = []
    run: list[tuple[int, str]] = []
    for stmt in stmts:
        head, below = _parts(stmt, indent, pad)
        if run and (stmt.comments or not stmt.comment or len(head) > 1):
            _align(lines, run)
        lines += [f"{indent}{_comment(c)}" for c in stmt.comments]
        lines += head
        if stmt.comment:
            run.append((len(lines) - 1, stmt.comment))
        lines += below
        lines += [f"{indent}{_comment(c)}" for c in stmt.after]
        if below or stmt.after:
            _align(lines, run)
    _align(lines, run)
    return lines


def _align(lines: Lines, run: list[tuple[int, str]]) -> None:
    """Writes the comments of neighbouring lines behind them, in one column."""
    column = max((len(lines[at]) for at, _ in run), default=0)
    fits = all(column + len(comment) + 4 <= WIDTH for _, comment in run)
    for at, comment in run:
        line = lines[at].ljust(column) if fits else lines[at]
        lines[at] = f"{line}  {_comment(comment)}"
    run.clear()


def _parts(stmt: s.Statement, indent: str, pad: int) -> tuple[Lines, Lines]:
    """The lines of a statement up to its end or its `:`, and the block below."""
    if isinstance(stmt, s.Step):
        return _step(stmt, indent, pad), []
    made = _WRITERS[type(stmt)](stmt, indent)
    return made if isinstance(made, tuple) else (made, [])


# Statements -----------------------------------------------------------------------------------


def _bind(stmt: s.Bind, indent: str) -> Lines:
    return wrapped(stmt.value, f"{', '.join(stmt.names)} = ", "", indent)


def _write(stmt: s.Write, indent: str) -> Lines:
    always = "always " if stmt.always else ""
    places = ", ".join(map(text, stmt.places))
    return _list(f"{always}{places} <- ", [("", value) for value in stmt.values], "", indent)


def _list(before: str, parts: Sequence[tuple[str, s.Expr | None]], end: str, indent: str) -> Lines:
    """Parts behind a word: on one line, or one a line behind their commas."""
    flat = [name + (text(value) if value is not None else "") for name, value in parts]
    line = f"{indent}{before}{', '.join(flat)}{end}"
    if len(line) <= WIDTH:
        return [line]
    lines: Lines = []
    for at, (name, value) in enumerate(parts):
        head, deeper = (before + name, indent) if at == 0 else (name, indent + INDENT)
        behind = end if at == len(parts) - 1 else ","
        lines += (
            [f"{deeper}{head}{behind}"] if value is None else wrapped(value, head, behind, deeper)
        )
    return lines


def _declare(stmt: s.Declare, indent: str) -> Lines:
    return _list(f"{stmt.kind} ", [_slot(slot, stmt.kind) for slot in stmt.slots], "", indent)


def _slot(slot: s.Slot, kind: str) -> tuple[str, s.Expr | None]:
    name = slot.name
    if kind == "oracle":
        name += f"({', '.join(slot.parameters)})"
    if slot.type is not None:
        name += f": {type_text(slot.type)}"
    return (f"{name} = ", slot.value) if slot.value is not None else (name, None)


def _step(stmt: s.Step, indent: str, pad: int) -> Lines:
    behind = f" as {stmt.alias}" if stmt.alias else ""
    behind += f" when {text(stmt.when)}" if stmt.when is not None else ""
    return wrapped(stmt.call, f"{stmt.kind.ljust(pad)} ", behind, indent)


def _outcome(stmt: s.Outcome, indent: str) -> Lines:
    count = f" {text(stmt.count)}" if stmt.count is not None else ""
    return wrapped(stmt.when, f"{stmt.kind}{count} when ", "", indent)


def _paper(stmt: s.Paper, indent: str) -> Lines:
    parts = [str(stmt.number)] if stmt.number or not stmt.address else []
    parts += [text(s.Text(stmt.address))] if stmt.address else []
    return [f"{indent}paper {', '.join(parts)}"]


def _for(stmt: s.For, indent: str) -> tuple[Lines, Lines]:
    target = f"for other {stmt.target}" if stmt.target else "other"
    if not stmt.other:
        target = f"for {stmt.target}"
    below = block(stmt.body, indent + INDENT)
    if stmt.where is None:
        return [f"{indent}{target}:"], below
    return wrapped(stmt.where, f"{target} where ", ":", indent), below


def _repeat(stmt: s.Repeat, indent: str) -> tuple[Lines, Lines]:
    behind = f" as {stmt.index}" if stmt.index else ""
    below = block(stmt.body, indent + INDENT)
    if stmt.until is None:
        return wrapped(stmt.count, "repeat ", f"{behind}:", indent), below
    return wrapped(stmt.until, f"repeat {text(stmt.count)}{behind} until ", ":", indent), below


def _branch(word: str, subject: s.Expr, stmt: s.If | s.Every, indent: str) -> tuple[Lines, Lines]:
    below = block(stmt.body, indent + INDENT)
    if stmt.orelse:
        below += [f"{indent}else:", *block(stmt.orelse, indent + INDENT)]
    return wrapped(subject, f"{word} ", ":", indent), below


# Checks ---------------------------------------------------------------------------------------


def _check(stmt: s.Check, indent: str) -> tuple[Lines, Lines]:
    return [f"{indent}check {stmt.name}:"], block(stmt.lines, indent + INDENT)


def _check_line(stmt: s.CheckLine, indent: str) -> Lines:
    """Filled up to the width, broken behind commas; what is still too long, in its brackets."""
    given, gives = [[p] for p in _pieces(stmt.inputs)], [[p] for p in _pieces(stmt.outputs)]
    within = f" within {text(stmt.within)}" if stmt.within is not None else ""
    words = [*given[:-1], [*(given[-1] if given else ()), *gives[0]], *gives[1:]]
    deeper = indent + INDENT
    lines = [indent if given else f"{indent}gives "]
    for at, word in enumerate(words):
        end = "," if at < len(words) - 1 else within
        flat = " gives ".join(name + text(value) for name, value in word) + end
        begun = at > 0
        if begun and len(lines[-1]) + len(flat) + 1 > WIDTH:
            lines.append(deeper)
            begun = False
        if len(lines[-1]) + begun + len(flat) <= WIDTH:
            lines[-1] += f" {flat}" if begun else flat
        else:
            start = lines.pop()
            lines += _broken(word, end, start, deeper if at else indent)
    return lines


def _pieces(arguments: Sequence[s.Argument]) -> list[tuple[str, s.Expr]]:
    return [(f"{a.name} = " if a.name else "", a.value) for a in arguments]


def _broken(word: Sequence[tuple[str, s.Expr]], end: str, start: str, indent: str) -> Lines:
    """`a = .. gives b`, broken inside the brackets of its values."""
    lines: Lines = []
    before = start[len(indent) :]
    for at, (name, value) in enumerate(word):
        behind = end if at == len(word) - 1 else " gives "
        *done, last = wrapped(value, before + name, behind, indent)
        lines += done
        before = last[len(indent) :]
    return [*lines, indent + before]


# Items ----------------------------------------------------------------------------------------


def _signature(
    before: str, inputs: Sequence[s.Input], options: Sequence[s.Option], end: str, indent: str
) -> Lines:
    """`rule name(a: positive = 1):`; on one line, or an entry a line."""
    entries = [_slot(s.Slot(i.name, i.type), "") for i in inputs]
    entries += [_option(option) for option in options]
    split = len(inputs) - 1 if _needs_separator(inputs, options) else -2
    flat = [name + (text(value) if value is not None else "") for name, value in entries]
    head, tail = ", ".join(flat[: split + 1]), ", ".join(flat[max(split + 1, 0) :])
    inside = tail if split == -2 else f"{head}; {tail}".rstrip()
    line = f"{indent}{before}({inside}){end}"
    if len(line) <= WIDTH or not entries:
        return [line]
    deeper = indent + INDENT
    parts = []
    for at, (name, value) in enumerate(entries):
        sign = ";" if at == split else ","
        parts.append(
            [f"{deeper}{name}{sign}"] if value is None else wrapped(value, name, sign, deeper)
        )
    if split == -1:
        parts.insert(0, [f"{deeper};"])
    return bracketed(f"{before}(", parts, f"){end}", indent)


def _option(option: s.Option) -> tuple[str, s.Expr | None]:
    bound = s.TypeExpr(option.bound) if option.bound else None
    return _slot(s.Slot(option.name, bound, option.default), "")


def _needs_separator(inputs: Sequence[s.Input], options: Sequence[s.Option]) -> bool:
    """Whether `;` says what is an input and what an option; a rule has no inputs and needs none."""
    if inputs and options:
        return True
    return any(is_option(s.Slot(i.name, i.type)) for i in inputs)


def _rule(item: s.Rule, indent: str) -> tuple[Lines, Lines]:
    end = " over workers:" if item.workers else ":"
    head = _signature(f"rule {item.name}", (), item.options, end, indent)
    return head, _body(item.doc, item.body)


def _primitive(item: s.Primitive, indent: str) -> tuple[Lines, Lines]:
    end = f" -> {type_text(item.type)}:" if item.type else ":"
    before = f"{item.kind} {item.name}"
    head = _signed(before, item.inputs, item.options, end, indent)
    return head, _body(item.doc, (*item.body, *item.checks))


def _extern(item: s.Extern, indent: str) -> Lines:
    end = f" -> {type_text(item.type)}"
    return _signed(f"extern {item.name}", item.inputs, item.options, end, indent)


def _signed(
    before: str, inputs: Sequence[s.Input], options: Sequence[s.Option], end: str, indent: str
) -> Lines:
    """A signature in which an entry alone would be taken for an input."""
    bare = any(not o.default and not is_option(_as_slot(o)) for o in options)
    if inputs or not bare:
        return _signature(before, inputs, options, end, indent)
    flat = ", ".join(name + (text(v) if v is not None else "") for name, v in map(_option, options))
    return [f"{indent}{before}(; {flat}){end}"]


def _as_slot(option: s.Option) -> s.Slot:
    return s.Slot(option.name, s.TypeExpr(option.bound) if option.bound else None, option.default)


def _body(doc: str, stmts: Sequence[s.Statement]) -> Lines:
    return [*(doc_lines(doc, INDENT) if doc else []), *block(stmts, INDENT)]


def _bundle(item: s.Bundle, indent: str) -> tuple[Lines, Lines]:
    return [f"{indent}bundle {item.name}:"], _body(item.doc, item.members)


def _schedule(item: s.Schedule, indent: str) -> tuple[Lines, Lines]:
    return [f"{indent}schedule {item.rule}:"], _body(item.doc, item.body)


def _store(stmt: s.Store, indent: str) -> Lines:
    return [f"{indent}store {text(stmt.slot)} as {text(stmt.format)}"]


_WRITERS: dict[type, Callable[[Any, str], Lines | tuple[Lines, Lines]]] = {
    s.Bind: _bind,
    s.Declare: _declare,
    s.Write: _write,
    s.Outcome: _outcome,
    s.Return: lambda stmt, indent: wrapped(stmt.value, "return ", "", indent),
    s.Eval: lambda stmt, indent: wrapped(stmt.value, "eval ", "", indent),
    s.Metric: lambda stmt, indent: wrapped(stmt.value, f"metric {stmt.name} = ", "", indent),
    s.For: _for,
    s.Repeat: _repeat,
    s.If: lambda stmt, indent: _branch("if", stmt.condition, stmt, indent),
    s.Every: lambda stmt, indent: _branch("every", stmt.period, stmt, indent),
    s.Paper: _paper,
    s.Check: _check,
    s.CheckLine: _check_line,
    s.Rule: _rule,
    s.Primitive: _primitive,
    s.Extern: _extern,
    s.Bundle: _bundle,
    s.Use: lambda item, indent: [f"{indent}use {item.name}"],
    s.Schedule: _schedule,
    s.Store: _store,
    s.Run: lambda stmt, indent: [f"{indent}run {text(stmt.how)}"],
}
