"""The one file that knows every stage, in order: text to Program."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any

from . import syntax as s
from .check import check
from .ir import Graph, Node, postorder
from .parse import parse
from .primitive import Registry
from .schedule import DEFAULT, Schedule
from .source import Source
from .types import Axis

if TYPE_CHECKING:
    from .program import Lowerings, Plan

ANSWERS = ("value", "gradient", "hvp", "jvp", "vjp")


def tree(source: Source) -> s.File:
    """The syntax tree of a text; YAML by its ending."""
    if source.path.endswith((".yaml", ".yml")):
        from .yaml_form import parse_yaml

        return parse_yaml(source)
    return parse(source)


def graph(
    source: Source, registry: Registry | None = None, rule: str = "", after: str = ""
) -> Graph:
    """The graph of a rule after a pass (all of them, unless one is named)."""
    from .pipeline import run

    return run(check(tree(source), registry, rule), after=after)


def compile_source(
    source: Source,
    registry: Registry | None = None,
    rule: str = "",
    guard: bool = False,
    private: bool = False,
    schedule: Source | None = None,
) -> Any:
    """The Program of a rule; with `guard`, non-finite gradients change nothing.

    With `private`, a rule that is not differentially private is an error. `schedule` is a
    file that says how the rule runs, instead of its own.
    """
    made = graph(source, registry, rule)
    if private:
        from .privacy import require

        require(made)
    if guard:
        from .passes.guard import guard as guarded

        made = guarded(made)
    return program(made, source, scheduled(made, source, schedule))


def scheduled(made: Graph, source: Source, other: Source | None = None) -> Schedule:
    """How a rule runs, by its own file or by another one."""
    from .schedule import find, read

    return read(find(tree(other or source), made.name, needed=other is not None), made)


def program(graph: Graph, source: Source | None = None, schedule: Schedule = DEFAULT) -> Any:
    """Lower a graph to a Program; its variants are lowered when they are first needed."""
    from .analysis import bar_to_backward, loop_level
    from .emit.host import host_module
    from .emit.kernel import print_kernel
    from .passes.specialise import conditions
    from .passes.unscale import unscale
    from .program import Program
    from .schedule import convert, formats

    bar = bar_to_backward(graph)
    graph, kept = convert(graph, schedule), formats(graph, schedule)
    lowered, start = _lowerings(graph, kept)
    return Program(
        name=graph.name,
        doc=graph.doc,
        options={o.name: o.default for o in graph.options.values()},
        domains={d.name: _domain(d) for d in graph.domains.values()},
        slots=_slots(graph, kept),
        targets=[p for p, x in graph.slots.items() if x.kind == "target"],
        objectives={k: len(t.axes) for k, t in graph.objectives.items()},
        level=loop_level(graph),
        functions=(*graph.oracles, *graph.externs),
        inputs=tuple(graph.inputs),
        conditions=host_module(conditions(graph)),
        plan=lowered,
        start=start,
        scaled=cache(lambda: _lowerings(unscale(graph), kept)),
        print_kernel=print_kernel,
        rebuild=recompile,
        bounds={o.name: o.bound for o in graph.options.values()},
        workers=graph.workers,
        always=graph.always,
        snapshots=graph.snapshots,
        evals={t: _slot_of(graph, n) for t, n in graph.evals.items()},
        origin=(source.path, source.text, graph.name) if source else ("<string>", "", ""),
        backend=schedule.backend,
        in_backward=schedule.in_backward,
        bucket_mb=schedule.bucket_mb or 0.0,
        captured=schedule.captured,
        not_in_backward=str(bar) if bar is not None else "",
    )


def _slots(graph: Graph, kept: dict[str, Any]) -> dict[str, Any]:
    """What is held between steps; a slot kept in blocks has the sizes of its blocks beside it."""
    from .formats import Format, sizes_of
    from .program import SlotSpec

    slots: dict[str, Any] = {}
    for p, x in graph.slots.items():
        slots[p] = SlotSpec(
            p,
            x.kind,
            x.type.reach,
            x.type.domain,
            tuple(_places(a) for a in x.type.axes),
            x.type.logical,
            _constant(x.init),
            kept.get(p, Format()),
            next(filter(None, map(_all_of, x.type.axes)), ""),
        )
    for p, x in list(slots.items()):
        if x.format.block:
            size = sizes_of(p)
            slots[size] = SlotSpec(size, "state", "block", x.domain, (), False, 0.0)
    return slots


def _all_of(axis: Axis) -> str:
    """The domain for each cell of which an axis has a place, or ""."""
    size = axis.size
    return str(size["cells"]) if isinstance(size, Node) and size.op == "meta" else ""


def _places(axis: Axis) -> int | str | None:
    """How many places an axis of a slot has: a number, the side of a matrix that says it, or what
    is known to the host alone."""
    if isinstance(axis.size, int):
        return axis.size
    return axis.side or None


def _lowerings(graph: Graph, kept: dict[str, Any]) -> Lowerings:
    """What lowers a variant of the step, and what lowers the first value of a slot."""
    from .emit.plan import plan
    from .passes.reciprocal import reciprocal
    from .passes.specialise import conditions, specialise
    from .schedule import coded

    bits = conditions(graph)

    @cache
    def start(slot: str) -> Plan:
        init = graph.slots[slot].init
        assert init is not None
        alone = Graph(
            **{
                **graph.__dict__,
                "writes": {},
                "outcomes": [],
                "evals": {},
                "metrics": {"value": init, **_lengths(graph, init)},
            }
        )
        return plan(reciprocal(alone))

    @cache  # the optimizers of a rule share its plans, and a checkpoint that is loaded makes none
    def lowered(values: tuple[bool, ...]) -> Plan:
        known = dict(zip(bits, values, strict=True))
        variant = specialise(graph, known) if bits else graph
        return coded(plan(reciprocal(variant)), kept)

    return lowered, start


def _lengths(graph: Graph, init: Node) -> dict[str, Node]:
    """The answers of the loop that say how long the axes of a slot's first value are."""
    known = {a.name for n in postorder([init]) if n.op in ANSWERS for a in n.type.axes}
    wanted = {a.name for n in postorder([init]) for a in n.type.axes if a.size is None} - known
    found: dict[str, Node] = {}
    for n in postorder(graph.roots()) if wanted else ():
        if n.op in ANSWERS:
            found |= {a.name: n for a in n.type.axes if a.name in wanted and a.name not in found}
    return found


def _domain(domain: Any) -> Any:
    from .emit.host import host_module
    from .program import Cells, Test

    where = None if domain.where is None else Test(host_module([domain.where]))
    return Cells(domain.parent, domain.siblings, where, tuple(_asked(domain.where)))


def _asked(condition: Node | None, wanted: bool = True) -> Iterator[Any]:
    """The names and modules that a tensor must have by a condition, not those it must not have."""
    if condition is None:
        return
    if condition.op == "meta" and wanted and condition["what"] in ("name", "module"):
        span = condition.span.caller or condition.span
        place = f"{span.source.path}:{span.row}:{span.column}"
        yield condition["what"], condition["patterns"], place
    if condition.op in ("and", "or", "not"):
        for part in condition.inputs:
            yield from _asked(part, wanted is not (condition.op == "not"))


def _constant(node: Node | None) -> Any:
    """A slot's first value where it is a plain number."""
    while node is not None and node.op == "expand":
        node = node.inputs[0]
    return node["value"] if node is not None and node.op == "const" else None


def _slot_of(graph: Graph, node: Node) -> str:
    """The slot that holds what is evaluated at, after the step."""
    for slot, value in graph.writes.items():
        if value is node and graph.slots[slot].kind == "state":
            return slot
    raise AssertionError("an eval without a slot")


def recompile(path: str, text: str, rule: str) -> Any:
    """The Program of an unpickled optimizer that names no library."""
    return compile_source(Source(path, text), rule=rule)
