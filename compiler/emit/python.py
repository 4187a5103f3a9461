"""Prints torch.fx graphs as Python that a person would have written, and data as its literals.

Text of a spec reaches the printed code by three doors only: `identifier` for names, `literal` for
strings, `comment` for comments. What is printed is in the form that `ruff format` gives it.
"""

from __future__ import annotations

import ast
import builtins
import dataclasses
import keyword
import math
import operator
import re
import unicodedata
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import fx

from .. import cells, matrices, scalars

WIDTH = 100
INLINE = 68
"""Longer expressions are taken apart into statements."""

INDENT = "    "
HOME = "ir"
"""The name by which printed data calls the module of the classes of a program."""

RESERVED = frozenset(
    (
        *keyword.kwlist,
        *keyword.softkwlist,
        *dir(builtins),
        "torch",
        "math",
        "cells",
        "matrices",
        "scalars",
    )
)

_BINARY: dict[Any, type[ast.operator]] = {
    operator.add: ast.Add,
    operator.sub: ast.Sub,
    operator.mul: ast.Mult,
    operator.truediv: ast.Div,
    operator.mod: ast.Mod,
    operator.pow: ast.Pow,
    operator.matmul: ast.MatMult,
}
_COMPARE: dict[Any, type[ast.cmpop]] = {
    operator.lt: ast.Lt,
    operator.le: ast.LtE,
    operator.gt: ast.Gt,
    operator.ge: ast.GtE,
    operator.eq: ast.Eq,
    operator.ne: ast.NotEq,
}
_UNARY: dict[Any, type[ast.unaryop]] = {operator.neg: ast.USub, operator.not_: ast.Not}
_MODULES = {
    "cells": cells,
    "matrices": matrices,
    "scalars": scalars,
    "math": math,
    "torch": torch,
    "torch.linalg": torch.linalg,
    "torch.special": torch.special,
    "torch.nn.functional": torch.nn.functional,
}


# Text of a spec -------------------------------------------------------------------------------


def identifier(text: str, taken: Collection[str] = ()) -> str:
    """A name for any text: an identifier, no word of Python's, none of those taken."""
    name = re.sub(r"\W", "_", unicodedata.normalize("NFKC", text))[:32] or "x"
    name = name if name.isidentifier() else re.sub(r"[^0-9a-zA-Z_]", "_", f"x_{name}")
    name = f"{name}_" if name in RESERVED or name.startswith("__") else name
    fresh, n = name, 1
    while fresh in taken:
        n += 1
        fresh = f"{name}_{n}"
    return fresh


def literal(text: str) -> str:
    """A string as Python, in ASCII, on one line."""
    shown = ascii(text)
    return f'"{shown[1:-1]}"' if shown[0] == "'" and '"' not in shown else shown


def comment(text: str) -> str:
    """A comment of one line, whatever is in the text."""
    return f"# {visible(text)}".rstrip()


def visible(text: str) -> str:
    """Text with what does not show, or would end a line, written out."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def docstring(text: str, indent: str = "") -> list[str]:
    """The lines of a doc string that reads as `text`."""
    safe = "\n".join(visible(line.replace("\\", "\\\\")) for line in text.split("\n"))
    body = safe.rstrip('"')  # quotes at the end would join those that close the string
    safe = body.replace('"""', '\\"\\"\\"') + '\\"' * (len(safe) - len(body))
    lines = [line.rstrip() for line in safe.split("\n")]
    one = f'{indent}"""{lines[0]}"""'
    if len(lines) == 1 and len(one) <= WIDTH:
        return [one]
    return [f'{indent}"""{lines[0]}', *(f"{indent}{x}".rstrip() for x in lines[1:]), f'{indent}"""']


# Data -----------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Raw:
    """Code that stands for itself in printed data."""

    text: str


def data(value: Any, indent: str = "", room: int = WIDTH) -> str:
    """A value as the expression that gives it; `room` is what its first line may take."""
    if isinstance(value, Raw):
        return value.text
    if isinstance(value, str):
        return literal(value) if len(literal(value)) <= room else _in_pieces(value, indent)
    if isinstance(value, float):
        return _number(value)
    if value is None or isinstance(value, bool | int):
        return repr(value)
    if isinstance(value, tuple):
        return bracketed("(", list(map(_item, value)), ")", indent, room, len(value) == 1)
    if isinstance(value, list):
        return bracketed("[", list(map(_item, value)), "]", indent, room)
    if isinstance(value, set | frozenset):
        if not value:
            return f"{type(value).__name__}()"
        inner = bracketed("{", list(map(_item, sorted(value))), "}", indent, room - 11)
        return f"frozenset({inner})" if isinstance(value, frozenset) else inner
    if isinstance(value, dict):
        return bracketed("{", [_entry(k, v) for k, v in value.items()], "}", indent, room)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return bracketed(f"{HOME}.{type(value).__name__}(", _fields(value), ")", indent, room)
    raise AssertionError(f"no literal for {type(value).__name__}")


def _in_pieces(text: str, indent: str) -> str:
    """A long string, broken behind its spaces."""
    deeper, pieces = indent + INDENT, [""]
    for word in re.split(r"(?<= )(?=[^ ])", text):
        if pieces[-1] and len(literal(pieces[-1] + word)) > WIDTH - len(deeper):
            pieces.append("")
        pieces[-1] += word
    lines = [deeper + literal(piece) for piece in pieces]
    return "\n".join(["(", *lines, f"{indent})"]) if len(pieces) > 1 else literal(text)


Item = Callable[[str, int], str]
"""Prints one item of a bracket: (indent, room) -> text."""


def _item(value: Any) -> Item:
    return lambda indent, room: data(value, indent, room)


def _entry(key: Any, value: Any) -> Item:
    head = f"{data(key)}: "
    return lambda indent, room: head + data(value, indent, room - len(head))


def _fields(value: Any) -> list[Item]:
    """Keyword arguments; what has its default is left out."""
    given: list[Item] = []
    for field in dataclasses.fields(value):
        held = getattr(value, field.name)
        default: Any = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        if default is not dataclasses.MISSING and type(held) is type(default) and held == default:
            continue
        given.append(_keyword(field.name, held))
    return given


def _keyword(name: str, value: Any) -> Item:
    return lambda indent, room: f"{name}=" + data(value, indent, room - len(name) - 1)


def bracketed(
    opening: str,
    items: Sequence[Item],
    closing: str,
    indent: str,
    room: int = WIDTH,
    trailing: bool = False,
) -> str:
    """Items on one line where they fit, or one a line."""
    flat = [item(indent, 10**6) for item in items]
    one = opening + ", ".join(flat) + ("," if trailing else "") + closing
    if not items or len(one) <= room:
        return one
    deeper = indent + INDENT
    lines = [f"{deeper}{item(deeper, WIDTH - len(deeper) - 1)}," for item in items]
    return "\n".join([opening, *lines, indent + closing])


def _number(value: float) -> str:
    if math.isfinite(value):
        return repr(float(value))
    return "math.nan" if math.isnan(value) else "math.inf" if value > 0 else "-math.inf"


# Functions ------------------------------------------------------------------------------------

Note = Callable[[fx.Node], str]
"""What a comment before a statement says about a node, or ""."""


class Printer:
    """Prints one graph. `parameters` names the placeholders, `results` what is returned."""

    def __init__(self, graph: fx.Graph, parameters: Mapping[str, str], results: Sequence[str]):
        self.graph, self.hints = graph, list(results)
        self.known: dict[fx.Node, ast.expr] = {}
        self.inlined: dict[fx.Node, ast.expr] = {}
        self.taken = set(parameters.values())
        self.lines: list[str] = []
        for node in graph.nodes:
            if node.op == "placeholder":
                self.known[node] = ast.Name(parameters[node.name])
        self.last = ""

    def body(self, note: Note | None = None) -> list[str]:
        """The statements, with the return at the end."""
        self.note = note or (lambda node: "")
        returned = next(n for n in self.graph.nodes if n.op == "output").args[0]
        wanted: dict[fx.Node, str] = {}
        for value, hint in zip(returned, self.hints, strict=True):
            if isinstance(value, fx.Node):
                wanted.setdefault(value, hint)
        for node in self.graph.nodes:
            if node.op not in ("placeholder", "output"):
                self._statement(node, wanted)
        items = [_said(_text(self._value(v))) for v in returned]
        if len(items) > 1:
            line = "return " + ", ".join(x("", 0) for x in items)
            if len(line) + len(INDENT) <= WIDTH:
                return [*self.lines, line]
        last = bracketed("return (", items, ")", INDENT, WIDTH - len(INDENT), len(items) == 1)
        return [*self.lines, *_undented(last)]

    def _statement(self, node: fx.Node, wanted: Mapping[fx.Node, str]) -> None:
        made = self._call(node)
        while len(_text(made)) > INLINE and (long := self._longest(node)) is not None:
            self._assign(long, self.inlined.pop(long), _word(long))
            made = self._call(node)
        uses = sum(_occurs(node, user) for user in node.users)
        if node in wanted:
            self._assign(node, made, wanted[node])
        elif uses == 1:
            self.inlined[node] = made
        elif uses:
            self._assign(node, made, _word(node))

    def _longest(self, node: fx.Node) -> fx.Node | None:
        """The argument whose printing takes most room, if it can have a name."""
        found = [
            x
            for x in node.all_input_nodes
            if x in self.inlined and len(_text(self.inlined[x])) > 12
        ]
        return max(found, key=lambda x: len(_text(self.inlined[x])), default=None)

    def _assign(self, node: fx.Node, made: ast.expr, hint: str) -> None:
        name = identifier(hint, self.taken)
        self.taken.add(name)
        said = self.note(node)
        if said and said != self.last:
            self.lines.append(comment(said)[: WIDTH - len(INDENT)].rstrip())
            self.last = said
        self.lines += _undented(_wrapped(f"{name} = ", made))
        self.known[node] = ast.Name(name)

    def _value(self, value: Any) -> ast.expr:
        if isinstance(value, fx.Node):
            return self.known[value] if value in self.known else self.inlined[value]
        if isinstance(value, tuple):
            return ast.Tuple([self._value(v) for v in value])
        if isinstance(value, list):
            return ast.List([self._value(v) for v in value])
        if isinstance(value, torch.dtype | torch.device):
            return ast.Name(str(value))
        if isinstance(value, int | float) and not isinstance(value, bool):
            negative = value < 0 or (value == 0 and math.copysign(1, value) < 0)
            size: ast.expr = ast.Name(
                _number(abs(value)) if isinstance(value, float) else repr(abs(value))
            )
            return ast.UnaryOp(ast.USub(), size) if negative else size
        return ast.Name(data(value))

    def _call(self, node: fx.Node) -> ast.expr:
        args = [self._value(a) for a in node.args]
        named = [ast.keyword(k, self._value(v)) for k, v in node.kwargs.items()]
        if node.op == "call_method":
            return ast.Call(ast.Attribute(args[0], str(node.target)), args[1:], named)
        assert node.op == "call_function", node.op
        target: Any = node.target
        if target in _BINARY:
            return ast.BinOp(args[0], _BINARY[target](), args[1])
        if target in _COMPARE:
            return ast.Compare(args[0], [_COMPARE[target]()], [args[1]])
        if target in _UNARY:
            return ast.UnaryOp(_UNARY[target](), args[0])
        if target is operator.getitem:
            return ast.Subscript(args[0], args[1])
        return ast.Call(ast.Name(dotted(target)), args, named)


def dotted(function: Any) -> str:
    """The name of a function in the printed module."""
    name = getattr(function, "__name__", "")
    for path, module in _MODULES.items():
        if getattr(module, name, None) is function:
            return f"{path}.{name}"
    if getattr(builtins, name, None) is function:
        return name
    raise AssertionError(f"no name for {function!r}")


def _occurs(node: fx.Node, user: fx.Node) -> int:
    count = 0

    def seen(other: fx.Node) -> fx.Node:
        nonlocal count
        count += other is node
        return other

    fx.map_arg((user.args, user.kwargs), seen)
    return count


def _word(node: fx.Node) -> str:
    """A name for a value: what made it."""
    return str(node.meta.get("op") or re.sub(r"_\d+$", "", node.name))


_HUGGED = re.compile(
    r"(?<![\w.\])])((?:[A-Za-z_][\w.]*)|(?:\d[\w.]*(?:(?<=e)-\d+)?)) \*\* (-?[\w.]+)(?![\w.(\[])"
)


def _text(made: ast.expr) -> str:
    """An expression as text; powers of plain names and numbers are written closely."""
    return _HUGGED.sub(r"\1**\2", ast.unparse(made))


def _said(text: str) -> Item:
    return lambda indent, room: text


def _wrapped(before: str, made: ast.expr) -> str:
    """A statement, its call taken apart where it is too long."""
    line = before + _text(made)
    if len(line) + len(INDENT) <= WIDTH or not isinstance(made, ast.Call):
        return line
    items = [_said(_text(x)) for x in made.args]
    items += [_said(f"{k.arg}={_text(k.value)}") for k in made.keywords]
    return bracketed(f"{before}{_text(made.func)}(", items, ")", INDENT, 0)


def _undented(text: str) -> list[str]:
    """Lines that were made for the depth of a function's body, at depth 0."""
    return [x.removeprefix(INDENT) for x in text.split("\n")]


def function(
    name: str, parameters: Iterable[str], doc: str, body: Sequence[str], result: str = ""
) -> list[str]:
    """The lines of a function."""
    items = [_said(p) for p in parameters]
    arrow = f" -> {result}" if result else ""
    head = bracketed(f"def {name}(", items, f"){arrow}:", "")
    return [
        *head.split("\n"),
        *docstring(doc, INDENT),
        *(f"{INDENT}{line}".rstrip() for line in body),
    ]
