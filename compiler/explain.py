"""A rule explained: its algorithm box, its cost sheet, what a loop must offer, what is legal."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from fractions import Fraction

from . import syntax as s
from .analysis import Cost, cost
from .format import to_opt
from .formats import Format
from .inlined import inlined
from .ir import Graph
from .latex import algorithm
from .least import FLOAT32, leaves
from .primitive import Registry
from .privacy import rows as privacy
from .schedule import DEFAULT, Schedule, convert, formats, said
from .source import Diagnostic

FORMATS = ("text", "md", "latex")
OFFER = {
    "gradients": "loss.backward(); optimizer.step()",
    "closure": "optimizer.step(closure): zero_grad, forward, backward, return the loss",
    "objective": "optimizer.bind(model=model, objective=...); optimizer.step(batch=batch)",
}

Box = s.Rule | s.Primitive
Rows = list[tuple[str, str]]


# The algorithm --------------------------------------------------------------------------------


def box(file: s.File, rule: s.Rule, registry: Registry, format: str = "text") -> str:
    """The algorithm box: the rule with its steps written out, and the functions that it keeps."""
    from .check import locals_of

    made, kept = inlined(rule, registry, locals_of(file))
    made = replace(made, doc=rule.doc or file.doc)
    trees = [d.tree for d in kept if isinstance(d.tree, s.Primitive)]
    return _BOX[format]([made, *map(_definition, trees)])


def _definition(tree: s.Primitive) -> s.Primitive:
    """A primitive as it is read: its lines, without checks and papers."""
    body = tuple(x for x in tree.body if not isinstance(x, s.Paper))
    return replace(tree, body=body, checks=(), doc=_first(tree.doc))


def _first(doc: str) -> str:
    return doc.strip().splitlines()[0] if doc.strip() else ""


def _text(trees: list[Box]) -> str:
    return "\n".join(to_opt(s.File("", (tree,))) for tree in trees)


def _markdown(trees: list[Box]) -> str:
    parts = [f"## {trees[0].name}"]
    parts += [trees[0].doc.strip()] if trees[0].doc else []
    bare = [replace(trees[0], doc=""), *trees[1:]]
    return "\n\n".join([*parts, f"```opt\n{_text(bare)}```"]) + "\n"


def _latex(trees: list[Box]) -> str:
    return "\n".join(algorithm(tree) for tree in trees)


_BOX: dict[str, Callable[[list[Box]], str]] = {"text": _text, "md": _markdown, "latex": _latex}


# The cost sheet -------------------------------------------------------------------------------


def sheet(
    graph: Graph,
    moved: Mapping[str, float] | None = None,
    format: str = "text",
    schedule: Schedule = DEFAULT,
) -> str:
    """The cost sheet; `moved` is what the emitted code moves, in bytes a parameter."""
    rows = rows_of(graph, moved or {}, schedule)
    if format == "md":
        lines = ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]
    else:
        width = max(len(name) for name, _ in rows)
        mark = "% " if format == "latex" else ""
        lines = [f"{mark}{name:<{width}}  {value}" for name, value in rows]
    return "\n".join(lines) + "\n"


def rows_of(graph: Graph, moved: Mapping[str, float], schedule: Schedule = DEFAULT) -> Rows:
    """The cost sheet as names and values, and the schedule; bytes are those of one parameter."""
    whole, kept = convert(graph, schedule), formats(graph, schedule)
    found = cost(whole, {path: format.bytes() for path, format in kept.items()})
    rows = [
        ("the loop offers", OFFER[found.level]),
        ("evaluations a step", _asked(found)),
        *_bytes(whole, found, moved, kept),
        ("reductions over the model", str(found.reductions)),
        ("locality", found.locality),
        ("guard against non-finite gradients", found.guard or "nothing of the loss is read"),
    ]
    if graph.outcomes:
        rows.append(("what takes a step back", _settled(graph)))
    if found.mixed:
        sent = FLOAT32 * found.mixed.count("element")
        rows.append(("sent to each neighbour", f"at most {sent} bytes a float32 parameter"))
    if found.points:
        held = "4 bytes a float32 parameter, until the loss was evaluated there"
        rows.append(("a point beside the parameters", held))
    if found.coarse:
        rows.append(("coarser state, or with axes", ", ".join(found.coarse)))
    if found.asks:
        rows.append(("the loop supplies", ", ".join(found.asks)))
    rows += privacy(graph) + said(whole, schedule)
    return rows + [(f"legal: {name}", why) for name, why in legal(found)]


def _settled(graph: Graph) -> str:
    if all(ending.kind == "veto" for ending in graph.outcomes):
        return "a veto; a GPU withholds the writes by itself, and is not waited for"
    kept = "all" if graph.snapshots is None else f"the last {graph.snapshots}"
    held = f"{kept} snapshots are kept, each a copy of all slots"
    return f"a veto, or older slots; the host decides, and waits for the condition; {held}"


def _asked(found: Cost) -> str:
    parts = [
        ("at most " if what in found.bounded else "") + count(n, what)
        for what, n in found.evaluations.items()
    ]
    return ", ".join(parts) or "none"


def count(n: Fraction, what: str) -> str:
    """`2 gradients`, `1/10 hvp`, `3 gradients of val`."""
    number = str(n.numerator) if n.denominator == 1 else f"{n.numerator}/{n.denominator}"
    noun, of, rest = what.partition(" of ")
    return f"{number} {noun}{'s' if n > 1 else ''}{of}{rest}"


def _bytes(
    graph: Graph, found: Cost, moved: Mapping[str, float], kept: Mapping[str, Format]
) -> Rows:
    """State and traffic for the cells of each part of the model."""
    rows = []
    several = len(leaves(graph)) > 1
    wide = [p for p, slot in graph.slots.items() if slot.kind == "target" and p in kept]
    unit = f"bytes a {kept[wide[0]].type if wide else 'float32'} parameter"
    for leaf in leaves(graph):
        where = f" ({_cells(graph, leaf)})" if several else ""
        moves = f"{found.least[leaf]:g} {unit} at least"
        moves += f", {moved[leaf]:g} by the emitted code" if leaf in moved else ""
        rows += [(f"state{where}", f"{found.state[leaf]:g} {unit}"), (f"moves{where}", moves)]
    return rows


def _cells(graph: Graph, leaf: str) -> str:
    """What a part of the model is called: by its condition, as it stands in the text."""
    where, above = graph.domains[leaf].where, graph.domains[leaf].parent
    if not above:
        return leaf
    if where is None:
        return "other params"
    line = where.span.source.text.splitlines()[where.span.row - 1]
    return f"params where {line[where.span.column - 1 : where.span.end_column - 1]}"


_WIDE = {"tensor": "its tensor", "group": "its group", "model": "the whole model"}


def legal(found: Cost) -> Rows:
    """Which schedules the analysis allows."""
    alone = found.locality == "element"
    return [
        ("inside the backward pass", _allowed(found.bar)),
        ("captured in a CUDA graph", _allowed(found.bar_to_capture)),
        (
            "sharded without communication",
            "yes" if alone else f"no: a cell depends on others of {_WIDE[found.locality]}",
        ),
    ]


def _allowed(bar: Diagnostic | None) -> str:
    """Yes, or the reason why not and where it stands."""
    if bar is None:
        return "yes"
    reason = bar.message.partition(": ")[2]
    return f"no: {reason} ({bar.span.source.path}:{bar.span.row})"
