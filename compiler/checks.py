"""Runs the `check` blocks of primitives in the float64 interpreter.

The lines of a check are the steps of one instance: what stands before `gives` is what the step
gets, what stands behind is what it must give. `g` (or `d`) is the gradient, `w` the point, `loss =
p -> ..` an objective; other lists are inputs, numbers are options. A list inside an expression is
a constant with the cells of the point. Several values are compared with a tuple. Where the
primitive mixes workers, the first axis of every list is that of the workers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any

import torch

from . import syntax as s
from .calls import supplied
from .check import check_rule, locals_of
from .interpret import Draw, Interpreter, Tensors, together
from .ir import Graph
from .primitive import Declaration, Registry
from .source import CompileError, Diagnostic
from .types import COARSE
from .workers import SEEDS

DIRECTION = ("g", "d")
TOLERANCE = 1e-9
NAMED = {"inf": math.inf, "nan": math.nan, "true": 1.0, "false": 0.0}


@dataclass(frozen=True)
class Finding:
    """A line of a check that did not hold."""

    check: str
    line: int
    what: str
    expected: Any
    found: Any

    def __str__(self) -> str:
        return (
            f"check {self.check}, step {self.line}: {self.what} must be {self.expected}, "
            f"and it is {self.found}"
        )


def run_checks(
    declaration: Declaration,
    registry: Registry,
    draw: Draw | None = None,
    file: s.File | None = None,
) -> list[Finding]:
    """What does not hold of a primitive's own checks; empty where all is well."""
    tree = declaration.tree
    if not isinstance(tree, s.Primitive):
        return []
    file = file or s.File("", (tree,))
    findings: list[Finding] = []
    for check in tree.checks:
        findings += _misused(tree, check) or _run(tree, check, registry, draw, file)
    return findings


def _misused(tree: s.Primitive, check: s.Check) -> list[Finding]:
    """What a check gives in vain: to no input or option, or anew to what a later step keeps."""
    known = {"w", "loss", *DIRECTION, *(i.name for i in tree.inputs)}
    known |= {o.name for o in tree.options}
    first = {a.name: a.value for a in check.lines[0].inputs}
    found: list[Finding] = []
    for at, line in enumerate(check.lines, 1):
        for a in line.inputs:
            if a.name not in known:
                wanted = "one of " + ", ".join(sorted(known))
                found.append(Finding(check.name, at, "a name that is given", wanted, a.name))
            elif not isinstance(a.value, s.List) and first.get(a.name) != a.value:
                what = f"`{a.name}` of a later step"
                found.append(Finding(check.name, at, what, "that of the first", "another"))
    return found


def _run(
    tree: s.Primitive, check: s.Check, registry: Registry, draw: Draw | None, file: s.File
) -> list[Finding]:
    constants: dict[str, s.List] = {}
    rule = _rule(tree, check.lines[0], constants)
    graph = check_rule(rule, file, registry)
    assert locals_of(file) is not None
    mixes = graph.mixes()
    findings: list[Finding] = []
    runs: list[Interpreter] = []
    for at, line in enumerate(check.lines, 1):
        given = {a.name: a.value for a in line.inputs}
        lists = {k: array(v) for k, v in given.items() if isinstance(v, s.List)}
        shares = _shares({**lists, **{k: array(v) for k, v in constants.items()}}, mixes)
        runs = runs or [_begun(tree, graph, share, draw, i) for i, share in enumerate(shares)]
        for run, share in zip(runs, shares, strict=True):
            if "w" in share:
                run.slots["w"] = [share["w"]]
            run.oracles.gradients = share  # type: ignore[union-attr]
            run.inputs.update({k: _supply(tree, k, v) for k, v in share.items()})
        try:
            metrics = together(runs) if mixes else [runs[0].step()]
        except _Missing as missing:
            return [Finding(check.name, at, str(missing), "given", "missing")]
        bound = float(number(line.within)) if line.within is not None else TOLERANCE
        for output in line.outputs:
            path = f"{tree.name}.{output.name}"
            if output.name and path not in runs[0].slots:
                findings.append(Finding(check.name, at, f"`{output.name}`", "a state", "none"))
                continue
            if not output.name and len(_parts(output.value)) != len(metrics[0]):
                count = f"{len(metrics[0])} values, as in the first step"
                findings.append(Finding(check.name, at, "the result", count, "another number"))
                continue
            for part, wanted in enumerate(_parts(output.value)):
                found = [
                    _one(run.slots[path] if output.name else metric[f"result{part}"])
                    for run, metric in zip(runs, metrics, strict=True)
                ]
                value = torch.stack(found) if mixes else found[0]
                what = f"`{output.name}`" if output.name else "the result"
                what += f"'s part {part + 1}" if isinstance(output.value, s.Tuple) else ""
                findings += _compare(check, at, what, wanted, value, bound)
    return findings


def _parts(value: s.Expr) -> tuple[s.Expr, ...]:
    """The values of a tuple, in brackets; what is none is its own only one."""
    return value.items if isinstance(value, s.Tuple) else (value,)


def _shares(lists: dict[str, torch.Tensor], mixes: bool) -> list[dict[str, torch.Tensor]]:
    """What each worker gets: where workers mix, a list's first axis is that of the workers."""
    if not mixes:
        return [lists]
    n = len(next(iter(lists.values())))
    return [{k: v[i] for k, v in lists.items()} for i in range(n)]


def _begun(
    tree: s.Primitive, graph: Graph, share: dict[str, torch.Tensor], draw: Draw | None, i: int
) -> Interpreter:
    """A worker's interpreter, or the only one; each draws numbers of its own."""
    start = share["w"] if "w" in share else torch.zeros_like(_shape(tree, share))
    own: Draw | None = draw
    if draw is not None and i:
        own = lambda how, stream, call, n: draw(how, stream + SEEDS * i, call, n)  # noqa: E731
    oracles: Any = _Given()
    return Interpreter(graph, Tensors(["w"], [start]), [{}], oracles, own)


def _one(value: Any) -> torch.Tensor:
    """What the only tensor has of a value."""
    found = value[0] if isinstance(value, list) else value
    return torch.as_tensor(found, dtype=torch.float64)


def _compare(
    check: s.Check, at: int, what: str, wanted: s.Expr, value: torch.Tensor, bound: float
) -> list[Finding]:
    expected = (
        array(wanted)
        if isinstance(wanted, s.List)
        else torch.tensor(float(number(wanted)), dtype=torch.float64)
    )
    if value.dim() == 0 and expected.dim() and expected.numel() == 1:
        value = value.reshape(expected.shape)
    same = value.shape == expected.shape and torch.allclose(
        value, expected, rtol=bound, atol=bound, equal_nan=True
    )
    if same:
        return []
    return [Finding(check.name, at, what, expected.tolist(), value.tolist())]


def _shape(tree: s.Primitive, share: dict[str, torch.Tensor]) -> torch.Tensor:
    """The shape of the point, where none is given: that of the gradient, or of the first list."""
    for item in tree.inputs:
        if item.name in share:
            axes = len(item.type.axes) if item.type is not None else 0
            return share[item.name][(0,) * axes]
    return next(iter(share.values()), torch.zeros(1, dtype=torch.float64))


def _supply(tree: s.Primitive, name: str, value: torch.Tensor) -> Any:
    """A list as the loop would supply it: one tensor a target, or one for the model."""
    type = next((i.type for i in tree.inputs if i.name == name), None)
    if type is None or type.reach not in COARSE:
        return [value]
    return value.reshape(()) if not type.axes and value.numel() == 1 else value


def _without_lists(value: Any, found: dict[str, s.List]) -> Any:
    """A syntax tree whose lists are names, and what these name."""
    if isinstance(value, s.List):
        name = f"constant{len(found)}"
        found[name] = value
        return s.Name(name, span=value.span)
    if isinstance(value, tuple):
        return tuple(_without_lists(v, found) for v in value)
    if not isinstance(value, s.Syntax):
        return value
    inner = {f.name: getattr(value, f.name) for f in fields(value) if f.init}
    return replace(value, **{k: _without_lists(v, found) for k, v in inner.items()})


def _rule(tree: s.Primitive, line: s.CheckLine, constants: dict[str, s.List]) -> s.Rule:
    """`result0 = NAME(..)`, or as many as a tuple has; `constants` gets the check's inner lists."""
    given = {
        a.name: a.value if isinstance(a.value, s.List) else _without_lists(a.value, constants)
        for a in line.inputs
    }
    slots = [s.Slot(name, s.TypeExpr("element")) for name in constants]
    body: list[s.Statement] = [s.Declare("input", (slot,)) for slot in slots]
    arguments: list[s.Argument] = []
    inputs = {i.name: i for i in tree.inputs}
    for name, item in inputs.items():
        value = given.get(name)
        kind = supplied(item, tree.kind)
        if kind == "d" and item.type is not None and item.type.axes:
            body.append(s.Declare("loss", (s.Slot(name, s.TypeExpr("model", item.type.axes)),)))
        elif kind in ("d", "w", "grad"):
            continue
        elif kind == "loss" and value is not None:
            continue
        elif isinstance(value, s.List) and name == "w":
            arguments.append(s.Argument(name, s.Name("w")))
        elif isinstance(value, s.List):
            slot = s.Slot(name, item.type or s.TypeExpr("element"))
            body.append(s.Declare("input", (slot,)))
            arguments.append(s.Argument(name, s.Name(name)))
        elif value is not None:
            arguments.append(s.Argument(name, value))
    if "loss" in given:
        body.append(s.Bind(("loss",), given["loss"]))
    options = {o.name for o in tree.options}
    arguments += [s.Argument(k, v) for k, v in given.items() if k in options and k not in inputs]
    call = s.Call(s.Name(tree.name, span=line.span), tuple(arguments), span=line.span)
    gives = next((_parts(o.value) for o in line.outputs if not o.name), (call,))
    names = tuple(f"result{part}" for part in range(len(gives)))
    body.append(s.Bind(names, call, span=line.span))
    body += [s.Metric(name, s.Name(name, span=line.span), span=line.span) for name in names]
    body.append(s.Write((s.Name("w"),), (s.Binary("*", s.Name("w"), s.Number(1)),)))
    return s.Rule("check", (), tuple(body), workers=True, span=tree.span)


class _Missing(Exception):
    """The primitive asks for what its check does not give."""


class _Given:
    """The oracles of a check: the gradient that its line gives, of a batch of one example."""

    gradients: dict[str, torch.Tensor]

    def gradient(self, objective: str, points: Any, data: Any, wrt: str) -> list[torch.Tensor]:
        for name in (objective, *DIRECTION):
            if name in self.gradients:
                return [self.gradients[name]]
        raise _Missing("a gradient, `g = [...]` or `loss = p -> ...`,")

    def value(self, objective: str, points: Any, data: Any) -> torch.Tensor:
        raise _Missing("a loss, `loss = p -> ...`,")

    def data(self, op: str, arguments: list[Any], attributes: dict[str, Any]) -> Any:
        return [None] if op in ("each", "split") else None


def array(value: s.Expr) -> torch.Tensor:
    """A literal list as a tensor."""

    def plain(v: s.Expr) -> Any:
        return [plain(i) for i in v.items] if isinstance(v, s.List) else number(v)

    try:
        return torch.tensor(plain(value), dtype=torch.float64)
    except (ValueError, TypeError):
        wrong = Diagnostic("E302", "the parts of a list are equally long", value.span)
        raise CompileError((wrong,)) from None


def number(value: s.Expr) -> float:
    """A literal number, with its sign."""
    if isinstance(value, s.Unary) and value.op == "-":
        return -number(value.operand)
    if isinstance(value, s.Name) and value.id in NAMED:
        return NAMED[value.id]
    if isinstance(value, s.Binary) and value.op in ("/", "*"):
        a, b = number(value.left), number(value.right)
        return a * b if value.op == "*" else a / b if b else math.nan
    if not isinstance(value, s.Number):
        help = "a check compares with numbers, lists of them, and tuples of these"
        raise CompileError((Diagnostic("E302", "a number is expected here", value.span, help),))
    return float(value.value)
