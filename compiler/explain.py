"""A rule explained: its algorithm box, its cost sheet, what a loop must offer, what is legal."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

from . import syntax as s
from .analysis import Cost, cost
from .format import to_opt
from .ir import Graph
from .primitive import Declaration, Registry

FORMATS = ("text", "md", "latex")
OFFER = {
    "gradients": "loss.backward(); optimizer.step()",
    "closure": "optimizer.step(closure): zero_grad, forward, backward, return the loss",
    "objective": "optimizer.bind(model=model, objective=...); optimizer.step(batch=batch)",
}


def box(file: s.File, rule: s.Rule, registry: Registry, format: str = "text") -> str:
    """The algorithm box: the rule, and each primitive that it names, once."""
    parts = [_plain(s.File("", (rule,)))]
    for declaration in used(file, rule, registry):
        if isinstance(declaration.tree, s.Primitive):
            tree = s.Primitive(
                declaration.tree.kind,
                declaration.tree.name,
                declaration.tree.inputs,
                declaration.tree.options,
                tuple(x for x in declaration.tree.body if not isinstance(x, s.Paper)),
                _first(declaration.doc),
            )
            parts.append(_plain(s.File("", (tree,))))
    return _FORMAT[format](parts)


def _plain(file: s.File) -> str:
    return to_opt(file).rstrip("\n")


def _first(doc: str) -> str:
    return doc.strip().splitlines()[0] if doc.strip() else ""


def used(file: s.File, rule: s.Rule, registry: Registry) -> list[Declaration]:
    """The primitives that the steps of a rule name, in order."""
    from .check import locals_of

    local = locals_of(file)
    found: dict[str, Declaration] = {}
    for step in _steps(rule.body):
        kind = "stepsize" if step.kind == "step" else step.kind
        call = step.call.function if isinstance(step.call, s.Call) else step.call
        name = call.id if isinstance(call, s.Name) else ""
        declaration = local.get(name) or (registry.find(kind, name) if name else None)
        if declaration is not None:
            found.setdefault(f"{kind} {name}", declaration)
    return list(found.values())


def _steps(body: tuple[s.Statement, ...]) -> list[s.Step]:
    result: list[s.Step] = []
    for statement in body:
        if isinstance(statement, s.Step):
            result.append(statement)
        for part in ("body", "orelse"):
            result += _steps(getattr(statement, part, ()))
    return result


def _text(parts: list[str]) -> str:
    return "\n\n".join(parts) + "\n"


def _markdown(parts: list[str]) -> str:
    return "".join(f"```opt\n{part}\n```\n\n" for part in parts).rstrip("\n") + "\n"


def _latex(parts: list[str]) -> str:
    """An algorithm box in a verbatim environment, which takes every character as it is."""
    body = "\n\n".join(parts).replace(r"\end{verbatim}", "")
    return f"\\begin{{verbatim}}\n{body}\n\\end{{verbatim}}\n"


_FORMAT: dict[str, Callable[[list[str]], str]] = {
    "text": _text,
    "md": _markdown,
    "latex": _latex,
}


def sheet(graph: Graph, moved: int | None = None) -> str:
    """The cost sheet as text; `moved` is what the emitted code moves, in bytes a parameter."""
    rows = rows_of(graph, cost(graph), moved)
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows) + "\n"


def rows_of(graph: Graph, found: Cost, moved: int | None = None) -> list[tuple[str, str]]:
    """The cost sheet as names and values."""
    asked = ", ".join(f"{_count(n)} {what}" for what, n in found.evaluations.items()) or "none"
    state = f"{found.state} bytes a float32 parameter"
    if found.coarse:
        state += "; " + ", ".join(found.coarse)
    moves = f"{found.least} bytes a float32 parameter at least"
    if moved is not None:
        moves += f", {moved} by the emitted code"
    rows = [
        ("the loop offers", OFFER[found.level]),
        ("evaluations a step", asked),
        ("state", state),
        ("moves", moves),
        ("reductions over the model", str(found.reductions)),
        ("locality", found.locality),
        ("guard against non-finite gradients", found.guard or "no gradient is read"),
    ]
    if found.asks:
        rows.append(("the loop supplies", ", ".join(found.asks)))
    rows += [(f"cells {d.name}", _cells(graph, d.name)) for d in graph.domains.values()]
    rows += [(f"legal: {name}", why) for name, why in legal(found)]
    return rows


def _count(n: Fraction) -> str:
    return str(n.numerator) if n.denominator == 1 else f"{n.numerator}/{n.denominator}"


def _cells(graph: Graph, domain: str) -> str:
    """What a group of tensors gets: the slots that are written for it."""
    own = [p for p, x in graph.slots.items() if x.type.domain == domain and x.kind == "state"]
    condition = graph.domains[domain].where
    where = "chosen by the rule" if condition is not None else "all, or what is left"
    return f"{where}; state: {', '.join(own) or 'none'}"


def legal(found: Cost) -> list[tuple[str, str]]:
    """Which schedules the analysis allows."""
    local = found.locality != "model" and found.level == "gradients"
    return [
        ("inside the backward pass", "yes" if local else "no: " + _why_not(found)),
        (
            "sharded without communication",
            "yes" if found.locality == "element" else f"no: it is local to the {found.locality}",
        ),
    ]


def _why_not(found: Cost) -> str:
    if found.level != "gradients":
        return "the loss is evaluated again"
    return "a reduction over the model needs all gradients first"


__all__ = ["box", "legal", "rows_of", "sheet", "used"]
