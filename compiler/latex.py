"""A rule as an algorithm box in LaTeX, for the packages algorithm, algpseudocode and amsmath."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from . import syntax as s
from .expression_text import level_of, text
from .operators import BINARY, LAMBDA, POSTFIX, POWER, PREFIX

GREEK = frozenset(
    "alpha beta gamma delta epsilon zeta eta theta kappa lambda mu nu xi pi rho sigma tau phi chi "
    "psi omega".split()
)
KNOWN = {"lr": r"\eta", "eps": r"\epsilon", "betas": r"\beta", "inf": r"\infty", "lam": r"\lambda"}
SIGNS = {
    "*": r"\,", "@": r"\,", "%": r"\bmod", "and": r"\land", "or": r"\lor", "==": "=",
    "!=": r"\neq", "<=": r"\leq", ">=": r"\geq",
}  # fmt: skip
FUNCTIONS = frozenset("sin cos arctan tanh exp ln max min arg".split())


def algorithm(tree: s.Rule | s.Primitive) -> str:
    """A rule, or the definition of a primitive, as a floating algorithm."""
    caption = words(tree.name) + (f": {words(_first(tree.doc))}" if tree.doc else "")
    inputs = [name(i.name) for i in tree.inputs] if isinstance(tree, s.Primitive) else []
    options = ", ".join([*inputs, *map(_option, tree.options)])
    lines = [r"\begin{algorithm}", rf"\caption{{{caption}}}", r"\begin{algorithmic}[1]"]
    lines += [rf"\Require ${options}$"] if options else []
    lines += block(tree.body)
    return "\n".join([*lines, r"\end{algorithmic}", r"\end{algorithm}"]) + "\n"


def words(plain: str) -> str:
    """Text outside of formulas, with LaTeX's own characters escaped."""
    escaped = plain.replace("\\", r"\textbackslash ")
    for sign in "&%$#_{}":
        escaped = escaped.replace(sign, "\\" + sign)
    return escaped.replace("~", r"\textasciitilde{}").replace("^", r"\textasciicircum{}")


def _first(doc: str) -> str:
    return doc.strip().splitlines()[0]


def _option(option: s.Option) -> str:
    value = f" = {formula(option.default)}" if option.default is not None else ""
    return name(option.name) + value


# Statements -----------------------------------------------------------------------------------


def block(body: Iterable[s.Statement]) -> list[str]:
    lines: list[str] = []
    for statement in body:
        lines += [rf"\Statex \Comment{{{words(' '.join(statement.comments))}}}"] * bool(
            statement.comments
        )
        lines += _LINES[type(statement)](statement)
    return lines


def _line(left: str, value: str, before: str = "") -> list[str]:
    return [rf"\State {before}${left} \gets {value}$"]


def _write(statement: s.Write) -> list[str]:
    places = ", ".join(formula(p) for p in statement.places)
    always = r"\textbf{always} " if statement.always else ""
    return _line(places, ", ".join(map(formula, statement.values)), always)


def _declare(statement: s.Declare) -> list[str]:
    word = words(statement.kind)
    slots = [
        name(slot.name) + (rf" \gets {formula(slot.value)}" if slot.value is not None else "")
        for slot in statement.slots
    ]
    return [rf"\State \textbf{{{word}}} ${', '.join(slots)}$"]


def _step(statement: s.Step) -> list[str]:
    when = rf" \textbf{{when}} ${formula(statement.when)}$" if statement.when is not None else ""
    return [rf"\State \textbf{{{words(statement.kind)}}} ${formula(statement.call)}${when}"]


def _outcome(statement: s.Outcome) -> list[str]:
    count = f" ${formula(statement.count)}$" if statement.count is not None else ""
    when = rf"\textbf{{when}} ${formula(statement.when)}$"
    return [rf"\State \textbf{{{statement.kind}}}{count} {when}"]


def _for(statement: s.For) -> list[str]:
    which = words(f"other {statement.target}" if statement.other else statement.target)
    where = rf" where ${formula(statement.where)}$" if statement.where is not None else ""
    return [rf"\For{{{which}{where}}}", *block(statement.body), r"\EndFor"]


def _repeat(statement: s.Repeat) -> list[str]:
    count = f"${formula(statement.count)}$ times"
    index = f" as ${name(statement.index)}$" if statement.index else ""
    until = f", until ${formula(statement.until)}$" if statement.until is not None else ""
    return [rf"\For{{{count}{index}{until}}}", *block(statement.body), r"\EndFor"]


def _if(condition: str, statement: s.If | s.Every) -> list[str]:
    orelse = [r"\Else", *block(statement.orelse)] if statement.orelse else []
    return [rf"\If{{{condition}}}", *block(statement.body), *orelse, r"\EndIf"]


_LINES: dict[type, Callable[..., list[str]]] = {
    s.Bind: lambda st: _line(", ".join(map(name, st.names)), formula(st.value)),
    s.Write: _write,
    s.Declare: _declare,
    s.Step: _step,
    s.Outcome: _outcome,
    s.Return: lambda st: [rf"\State \Return ${formula(st.value)}$"],
    s.Eval: lambda st: [rf"\State \textbf{{evaluate at}} ${formula(st.value)}$"],
    s.Metric: lambda st: [rf"\State \textbf{{metric}} ${name(st.name)} = {formula(st.value)}$"],
    s.For: _for,
    s.Repeat: _repeat,
    s.Every: lambda st: _if(f"every ${formula(st.period)}$ steps", st),
    s.If: lambda st: _if(f"${formula(st.condition)}$", st),
    s.Paper: lambda st: [],
}


# Expressions ----------------------------------------------------------------------------------


def name(id: str, primes: int = 0) -> str:
    """A name as a symbol: one letter or a Greek one, or upright words."""
    if id in KNOWN:
        plain = KNOWN[id]
    elif id in GREEK:
        plain = "\\" + id
    else:
        plain = id if len(id) == 1 else rf"\mathit{{{words(id)}}}"
    return plain + "'" * primes


def formula(expr: s.Expr | s.Slice, least: int = LAMBDA) -> str:
    """An expression in mathematical notation, in parentheses if it binds less than `least`."""
    plain = _plain(expr)
    if isinstance(expr, s.Slice) or _bracketed(expr) or level_of(expr) >= least:
        return plain
    return rf"\left({plain}\right)"


def _bracketed(expr: s.Expr | s.Slice) -> bool:
    """A fraction groups by itself."""
    return isinstance(expr, s.Binary) and expr.op in ("/", "//")


def _plain(expr: s.Expr | s.Slice) -> str:
    match expr:
        case s.Slice():
            return ":"
        case s.Number():
            return _number(expr)
        case s.Name(id=id, primes=primes):
            return name(id, primes)
        case s.Text():
            return rf"\text{{{words(text(expr))}}}"
        case s.Attribute(base=base, name=member):
            return rf"{formula(base, POSTFIX)}.{name(member)}"
        case s.Index(base=base, items=items):
            return rf"{formula(base, POSTFIX)}_{{{', '.join(map(formula, items))}}}"
        case s.Call():
            return _call(expr)
        case s.Unary(op=op, operand=operand):
            return (r"\lnot " if op == "not" else op) + formula(operand, PREFIX[op])
        case s.Binary():
            return _binary(expr)
        case s.Lambda(parameters=parameters, body=body):
            return rf"{', '.join(map(name, parameters))} \mapsto {formula(body)}"
        case s.Tuple(items=items):
            return rf"({', '.join(map(formula, items))})"
        case s.List(items=items):
            return rf"[{', '.join(map(formula, items))}]"
        case _:
            return rf"\text{{{words(text(expr))}}}"


def _number(expr: s.Number) -> str:
    mantissa, mark, power = (expr.text or repr(expr.value)).lower().partition("e")
    if not mark:
        return name("inf") if mantissa == "inf" else mantissa
    scale = rf"10^{{{int(power)}}}"
    return scale if float(mantissa) == 1 else rf"{mantissa} \cdot {scale}"


def _binary(expr: s.Binary) -> str:
    op, level = expr.op, BINARY[expr.op]
    if op in ("/", "//"):
        return rf"\frac{{{formula(expr.left)}}}{{{formula(expr.right)}}}"
    if op == "^":
        base = formula(expr.left, POWER + 1)
        grown = _bracketed(expr.left)
        return (rf"\left({base}\right)" if grown else base) + rf"^{{{formula(expr.right)}}}"
    left, right = formula(expr.left, level), formula(expr.right, level + 1)
    sign = r"\cdot" if op == "*" and isinstance(expr.right, s.Number) else SIGNS.get(op, op)
    return f"{left} {sign} {right}"


def _call(call: s.Call) -> str:
    called = call.function.id if isinstance(call.function, s.Name) else ""
    values = [a.value for a in call.arguments if not a.name]
    named = {a.name: a.value for a in call.arguments if a.name}
    write = _CALLS.get(called)
    over = rf"_{{{formula(named.pop('over'))}}}" if "over" in named else ""
    if write is not None and values and not named:
        return write(values, over, call.wrt)
    rest = [formula(v) for v in values] + [f"{name(k)} = {formula(v)}" for k, v in named.items()]
    if called in FUNCTIONS:
        head = rf"\{called}"
    elif called:
        head = rf"\operatorname{{{words(called)}}}"
    else:
        head = formula(call.function, POSTFIX)
    wrt = rf"_{{{name(call.wrt)}}}" if call.wrt else ""
    return rf"{head}{over}{wrt}\left({', '.join(rest)}\right)"


def _gradient(values: list[s.Expr], over: str, wrt: str) -> str:
    wrt = rf"_{{{name(wrt)}}}" if wrt else ""
    if len(values) == 1:
        return rf"\nabla{wrt} L\left({formula(values[0])}\right)"
    return rf"\nabla{wrt} {formula(values[0], POSTFIX)}\left({formula(values[1])}\right)"


def _where(values: list[s.Expr], over: str, wrt: str) -> str:
    c, a, b = map(formula, values)
    return rf"\begin{{cases}} {a} & \text{{if }} {c} \\ {b} & \text{{otherwise}} \end{{cases}}"


_CALLS: dict[str, Callable[[list[s.Expr], str, str], str]] = {
    "grad": _gradient,
    "where": _where,
    "sqrt": lambda v, over, wrt: rf"\sqrt{{{formula(v[0])}}}",
    "abs": lambda v, over, wrt: rf"\left|{formula(v[0])}\right|",
    "norm": lambda v, over, wrt: rf"\left\|{formula(v[0])}\right\|{over}",
    "dot": lambda v, over, wrt: rf"\left\langle {', '.join(map(formula, v))} \right\rangle{over}",
    "sum": lambda v, over, wrt: rf"\sum{over} {formula(v[0], POWER)}",
    "transpose": lambda v, over, wrt: rf"{formula(v[0], POSTFIX)}^{{\top}}",
    "zeros": lambda v, over, wrt: "0",
    "loss": lambda v, over, wrt: rf"L\left({', '.join(map(formula, v))}\right)",
}
