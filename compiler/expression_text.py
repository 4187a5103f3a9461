"""Expressions and types as text: on one line or, where that is too long, on many in brackets."""

from __future__ import annotations

from collections.abc import Sequence

from . import syntax as s
from .operators import BINARY, COMPARISON, LAMBDA, POSTFIX, POWER, PREFIX

WIDTH = 100
INDENT = "    "
_ATOM = POSTFIX + 1


def level_of(expr: s.Expr) -> int:
    """How tightly the outermost operator of an expression binds."""
    match expr:
        case s.Lambda():
            return LAMBDA
        case s.Binary(op=op):
            return BINARY[op]
        case s.Unary(op=op):
            return PREFIX[op]
        case s.Number() | s.Quantity():
            return POSTFIX - 1 if _is_negative(expr) else _ATOM
        case _:
            return _ATOM


def text(expr: s.Expr | s.Slice, least: int = LAMBDA) -> str:
    """An expression on one line, in parentheses if it binds less tightly than `least`."""
    if isinstance(expr, s.Slice):
        return ":"
    plain = _plain(expr)
    return f"({plain})" if level_of(expr) < least else plain


def _plain(expr: s.Expr) -> str:
    match expr:
        case s.Number(value=value, text=written):
            return written or repr(value)
        case s.Text(value=value):
            escaped = value.replace("\\", "\\\\").replace('"', '\\"')
            return f'"{escaped}"'
        case s.Quantity(value=value, unit=unit):
            one = isinstance(value, s.Number) and value.value == 1
            return f"{text(value, _ATOM)} {unit}{'' if one else 's'}"
        case s.Name(id=id, primes=primes):
            return id + "'" * primes
        case s.Attribute(base=base, name=name):
            return f"{_base(base)}.{name}"
        case s.Index(base=base, items=items):
            return f"{_base(base)}[{', '.join(map(text, items))}]"
        case s.Call():
            return f"{_called(expr)}({_arguments(expr)})"
        case s.Unary(op=op, operand=operand):
            space = " " if op == "not" else ""
            return f"{op}{space}{text(operand, PREFIX[op])}"
        case s.Binary(op=op, left=left, right=right):
            sign = op if op == "^" else f" {op} "
            return f"{text(left, _least_left(op))}{sign}{_right(op, right)}"
        case s.Lambda(parameters=parameters, body=body):
            return f"{_parameters(parameters)} -> {text(body)}"
        case s.Tuple(items=items):
            return f"({', '.join(map(text, items))}{',' if len(items) == 1 else ''})"
        case s.List(items=items):
            return f"[{', '.join(map(text, items))}]"


def argument(arg: s.Argument) -> str:
    return f"{_named(arg.name)}{text(arg.value)}"


def type_text(type: s.TypeExpr) -> str:
    """`element[window(m), rank']`."""
    axes = ", ".join(
        axis.name + "'" * axis.primes + (f"({text(axis.size)})" if axis.size is not None else "")
        for axis in type.axes
    )
    return f"{type.reach}[{axes}]" if axes else type.reach


def _named(name: str) -> str:
    return f"{name} = " if name else ""


def _is_negative(expr: s.Expr) -> bool:
    return isinstance(expr, s.Number) and not expr.text and expr.value < 0


def _base(expr: s.Expr) -> str:
    """What stands left of a dot or bracket; a number there would run into the dot."""
    plain = text(expr, POSTFIX)
    return f"({plain})" if isinstance(expr, s.Number | s.Quantity) else plain


def _called(call: s.Call) -> str:
    return _base(call.function) + (f"[{call.wrt}]" if call.wrt else "")


def _arguments(call: s.Call) -> str:
    parts = [argument(a) for a in call.arguments]
    if call.separator < 0:
        return ", ".join(parts)
    before, behind = parts[: call.separator], parts[call.separator :]
    return f"{', '.join(before)}; {', '.join(behind)}" if behind else ", ".join(before)


def _least_left(op: str) -> int:
    level = BINARY[op]
    return level + 1 if level in (POWER, COMPARISON) else level


def _right(op: str, right: s.Expr) -> str:
    level = BINARY[op]
    if level == POWER:
        negated = isinstance(right, s.Unary) and right.op == "-"
        return text(right) if negated else text(right, POWER)
    return text(right, level + 1)


def _parameters(parameters: Sequence[str]) -> str:
    return parameters[0] if len(parameters) == 1 else f"({', '.join(parameters)})"


# On several lines -----------------------------------------------------------------------------


def wrapped(expr: s.Expr, before: str, behind: str, indent: str, least: int = 0) -> list[str]:
    """The lines of an expression with what stands before and behind it, all within WIDTH."""
    flat = f"{indent}{before}{text(expr, least)}{behind}"
    if len(flat) <= WIDTH:
        return [flat]
    if level_of(expr) < least and not isinstance(expr, s.Binary):
        return [f"{indent}{before}(", *wrapped(expr, "", "", indent + INDENT), f"{indent}){behind}"]
    match expr:
        case s.Call(arguments=arguments) if arguments:
            return bracketed(f"{before}{_called(expr)}(", _call_parts(expr, indent), f"){behind}",
                             indent)  # fmt: skip
        case s.Tuple(items=items) if items:
            parts = [wrapped(item, "", ",", indent + INDENT) for item in items]
            return bracketed(f"{before}(", parts, f"){behind}", indent)
        case s.List(items=items) if items:
            return bracketed(f"{before}[", _cells(items, indent + INDENT), f"]{behind}", indent)
        case s.Lambda(parameters=parameters, body=body):
            return wrapped(body, f"{before}{_parameters(parameters)} -> ", behind, indent)
        case s.Binary(op=op) if op != "^":
            return bracketed(f"{before}(", _operands(expr, indent + INDENT), f"){behind}", indent)
        case _:
            return [flat]


def bracketed(head: str, parts: list[list[str]], tail: str, indent: str) -> list[str]:
    """`head`, the parts one level deeper, `tail`."""
    return [indent + head, *(line for part in parts for line in part), indent + tail]


def _cells(items: Sequence[s.Expr], indent: str) -> list[list[str]]:
    """The cells of a list: numbers fill their lines, rows of cells stand one below the other."""
    if any(isinstance(item, s.List) for item in items):
        return [wrapped(item, "", ",", indent) for item in items]
    lines = [indent]
    for word in (f"{text(item)}," for item in items):
        begun = lines[-1] != indent
        if begun and len(lines[-1]) + len(word) + 1 > WIDTH:
            lines.append(indent + word)
        else:
            lines[-1] += f" {word}" if begun else word
    return [lines]


def _call_parts(call: s.Call, indent: str) -> list[list[str]]:
    last = call.separator - 1 if call.separator < len(call.arguments) else -2
    return [
        wrapped(a.value, _named(a.name), ";" if at == last else ",", indent + INDENT)
        for at, a in enumerate(call.arguments)
    ]


def _operands(expr: s.Binary, indent: str) -> list[list[str]]:
    """The operands of a chain of equally tight operators, the operator before each."""
    level = BINARY[expr.op]
    chain: list[tuple[str, s.Expr]] = []
    left: s.Expr = expr
    while isinstance(left, s.Binary) and BINARY[left.op] == level:
        chain.append((f"{left.op} ", left.right))
        left = left.left
        if level == COMPARISON:
            break
    first = wrapped(left, "", "", indent, _least_left(expr.op))
    rest = [wrapped(right, sign, "", indent, level + 1) for sign, right in reversed(chain)]
    return [first, *rest]
