"""The words at the head of a standalone module: what the rule is, its algorithm, how it is used."""

from __future__ import annotations

from .. import syntax as s
from ..format import to_opt
from ..parse import parse
from ..program import Program
from ..source import Source
from .python import data

_STEP = {
    "gradients": (
        "loss.backward()",
        "optimizer.step()",
        "optimizer.zero_grad()",
    ),
    "closure": (
        "loss = optimizer.step(closure)  # zero_grad, forward, backward; returns the loss",
    ),
}
_BOUND = (
    "optimizer.bind(model=model, objective=lambda batch: ...)",
    "loss = optimizer.step(batch=batch)",
)


def usage(program: Program, name: str, module: str) -> str:
    """The documentation of a standalone module."""
    doc = program.doc.strip() or f"The rule {program.name}."
    parts = [doc]
    box = algorithm(program)
    if box:
        parts.append("The algorithm:\n\n" + _indented(box))
    if program.options:
        parts.append("Options and their defaults:\n\n" + _indented(_options(program)))
    steps = _STEP.get(program.level, _BOUND)
    code = [
        f"from {module} import {name}",
        "",
        f"optimizer = {name}(model.parameters(){_first_option(program)})",
        *steps,
    ]
    parts.append("Use it as any optimizer of torch:\n\n" + _indented("\n".join(code)))
    parts.append(
        "`functional()` gives the same rule as a pure step over a tensor or a pytree. The file "
        "needs\ntorch and nothing else."
    )
    return "\n\n".join(parts) + "\n"


def algorithm(program: Program) -> str:
    """The canonical text of the rule and of the primitives that its file defines."""
    path, text, rule = program.origin
    if not text:
        return ""
    if path.endswith((".yaml", ".yml")):
        from ..yaml_form import parse_yaml

        tree = parse_yaml(Source(path, text))
    else:
        tree = parse(Source(path, text))
    items = [i for i in tree.items if not isinstance(i, s.Rule) or i.name == rule]
    return to_opt(s.File("", tuple(items)))


def _options(program: Program) -> str:
    rows = [
        (name, "required" if default is None else data(default), program.bounds.get(name, ""))
        for name, default in program.options.items()
    ]
    first = max(len(n) for n, _, _ in rows)
    second = max(len(d) for _, d, _ in rows)
    return "\n".join(f"{n:<{first}} = {d:<{second}}  {b}".rstrip() for n, d, b in rows)


def _first_option(program: Program) -> str:
    """The option that a user gives most often, as an example."""
    name = "lr" if "lr" in program.options else next(iter(program.options), "")
    if not name:
        return ""
    default = program.options[name]
    return f", {name}={'...' if default is None else data(default)}"


def _indented(text: str) -> str:
    return "\n".join(f"    {line}".rstrip() for line in text.rstrip("\n").split("\n"))
