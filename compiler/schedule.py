"""How a rule runs: its schedule read, checked against the graph, and made part of it.

Nothing here changes what is computed beyond the rounding that a format names. What is kept in fewer
bits is a conversion where a slot is read or written, in the same pass; the update inside of the
backward pass is legal where no cell needs a gradient of another tensor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from . import syntax as s
from .analysis import bar_to_backward, bar_to_capture
from .expression_text import text
from .formats import Format, rest_of
from .ir import Graph, Node, Slot, postorder, substitute
from .source import CompileError, Diagnostic, Span, nearest
from .types import FINE

FORMATS = {
    "f32": ("nearest",),
    "bf16": ("nearest", "stochastic", "kahan"),
    "f16": ("nearest", "stochastic", "kahan"),
    "int8": ("nearest",),
}
"""What a slot can be kept as, and how it may be rounded."""

BACKENDS = ("auto", "eager", "c", "triton", "inductor")
RUNS = {
    "in_backward": "write `run in_backward` or `run in_backward(bucket_mb = 25)`",
    "captured": "write `run captured`",
    "backend": "write `run backend(c)`",
}
CHUNK = 16384
"""Cells of a kernel's chunk: blocks of int8 do not cross its ends."""

STREAM = 2**31
"""Streams from here on are for rounding by chance; those of draws in the text count from 1."""


@dataclass(frozen=True)
class Schedule:
    """What is said of how a rule runs; what is not said is the compiler's choice."""

    stores: dict[str, Format] = field(default_factory=dict)
    backend: str = "auto"
    in_backward: bool = False
    bucket_mb: float = 0.0
    captured: bool = False


DEFAULT = Schedule()


# Reading --------------------------------------------------------------------------------------


def schedules(file: s.File) -> dict[str, s.Schedule]:
    """The schedules of a file by the rule that they are for."""
    return {item.rule: item for item in file.items if isinstance(item, s.Schedule)}


def find(file: s.File, rule: str, needed: bool = False) -> s.Schedule | None:
    """The schedule of a rule; a file that is given for it must have one (`needed`)."""
    known = schedules(file)
    if rule not in known and needed:
        message = f"no schedule for the rule `{rule}` in this file"
        raise CompileError([Diagnostic("E201", message, file.span, nearest(rule, known))])
    return known.get(rule)


def illegal(file: s.File, graphs: Sequence[Graph]) -> list[Diagnostic]:
    """What is wrong in the schedules of a file; of one that holds no rule, what any rule shows."""
    from .pipeline import run

    rules = {g.name: g for g in graphs}
    wrong = []
    for name, tree in schedules(file).items():
        if not rules:
            alone = _Reader(Graph())
            for line in tree.body:
                alone.format(line.format) if isinstance(line, s.Store) else alone.run(line)
            wrong += alone.wrong
            continue
        if name not in rules:
            help = nearest(name, rules)
            wrong.append(Diagnostic("E201", f"unknown rule `{name}`", tree.span, help))
            continue
        try:
            read(tree, run(rules[name]))
        except CompileError as error:
            wrong += error.diagnostics
    return wrong


def read(tree: s.Schedule | None, graph: Graph) -> Schedule:
    """A schedule as it is meant for a graph; raises a CompileError with everything illegal."""
    made = _Reader(graph)
    for line in tree.body if tree else ():
        made.store(line) if isinstance(line, s.Store) else made.run(line)
    if tree and made.in_backward and made.captured:
        made.error("E402", "a graph cannot hold the hooks of `run in_backward`", tree.span)
    if made.wrong:
        raise CompileError(made.wrong)
    return Schedule(made.stores, made.backend, made.in_backward, made.bucket_mb, made.captured)


class _Reader:
    def __init__(self, graph: Graph):
        self.graph = graph
        self.evals = list(graph.evals.values())
        self.wrong: list[Diagnostic] = []
        self.stores: dict[str, Format] = {}
        self.backend, self.in_backward, self.bucket_mb = "auto", False, 0.0
        self.captured = False

    def error(self, code: str, message: str, span: Span, help: str = "") -> None:
        self.wrong.append(Diagnostic(code, message, span, help))

    def store(self, line: s.Store) -> None:
        slot, format = self._slot(line.slot), self.format(line.format)
        if slot is None or format is None:
            return
        if slot.path in self.stores:
            self.error("E204", f"`{slot.path}` is stored twice", line.span)
        reason = unfit(slot, format)
        shown = slot.kind == "state" and self.graph.writes.get(slot.path) in self.evals
        if shown and (format.block or format.rounding == "kahan"):
            reason = "evaluation takes it as it is kept"
        if reason:
            message = f"`{slot.path}` cannot be stored as {text(line.format)}: {reason}"
            self.error("E403", message, line.span)
        if format.block and {f.block for f in self.stores.values()} - {0, format.block}:
            message = "the int8 slots of a rule have one size of block"
            self.error("E403", message, line.format.span)
        self.stores[slot.path] = format

    def _slot(self, at: s.Expr) -> Slot | None:
        """A slot by its path, or by the end of it where that is one slot's."""
        name, slots = text(at), self.graph.slots
        found = [p for p in slots if p == name] or [p for p in slots if p.endswith(f".{name}")]
        if len(found) == 1:
            return slots[found[0]]
        if found:
            message = f"`{name}` is the end of several slots' names"
            self.error("E201", message, at.span, f"one of {', '.join(found)}")
        else:
            gone = [p for p in self.graph.unread if p == name or p.endswith(f".{name}")]
            help = f"nothing reads what `{name}` held before: it is not kept"
            help = help if gone else nearest(name, slots)
            self.error("E201", f"unknown slot `{name}`", at.span, help)
        return None

    def format(self, at: s.Expr) -> Format | None:
        name, words, numbers = _call(at)
        if name not in FORMATS:
            self.error("E201", f"unknown format `{name}`", at.span, nearest(name, FORMATS))
            return None
        for word in words:
            if word not in FORMATS[name] or word == "nearest":
                help = nearest(word, FORMATS[name][1:])
                self.error("E203", f"`{name}` is not rounded `{word}`", at.span, help)
        allowed = {"block": 256, "power": 4} if name == "int8" else {}
        for key in numbers:
            if key not in allowed:
                self.error("E203", f"`{name}` has no `{key}`", at.span, nearest(key, allowed))
        given = {**allowed, **{k: v for k, v in numbers.items() if k in allowed}}
        block, power = given.get("block", 0), given.get("power", 1)
        if name == "int8" and (block not in _powers_of_two(16, CHUNK) or power not in (1, 2, 4)):
            message = f"a block is a power of 2 from 16 to {CHUNK}, the power is 1, 2 or 4"
            self.error("E208", message, at.span)
            return None
        rounding = next((w for w in words if w in FORMATS[name]), "nearest")
        return Format(name, rounding, int(block), int(power))

    def run(self, line: s.Run) -> None:
        name, words, numbers = _call(line.how)
        if name == "in_backward" and not words and numbers.keys() <= {"bucket_mb"}:
            self.in_backward, self.bucket_mb = True, numbers.get("bucket_mb", 0.0)
            if self.bucket_mb is None or self.bucket_mb < 0:
                self.error("E208", "`bucket_mb` is a number of megabytes", line.how.span)
            bar = bar_to_backward(self.graph)
            if bar is not None:
                help = f"line {line.span.row} asks for `in_backward`; {bar.help}".rstrip("; ")
                self.wrong.append(replace(bar, help=help))
        elif name == "captured" and not words and not numbers:
            self.captured = True
            bar = bar_to_capture(self.graph)
            if bar is not None:
                help = f"line {line.span.row} asks for `captured`"
                self.wrong.append(replace(bar, help=help))
        elif name == "backend" and len(words) == 1:
            if words[0] not in BACKENDS:
                help = nearest(words[0], BACKENDS)
                self.error("E201", f"unknown backend `{words[0]}`", line.how.span, help)
            self.backend = words[0]
        else:
            help = RUNS.get(name) or nearest(name, RUNS)
            self.error("E201", f"nothing runs as `{text(line.how)}`", line.how.span, help)


def _call(at: s.Expr) -> tuple[str, list[str], dict[str, Any]]:
    """`int8(block = 256)` as its name, its words and its numbers."""
    if not isinstance(at, s.Call):
        return text(at), [], {}
    words = [text(a.value) for a in at.arguments if not a.name]
    numbers = {
        a.name: a.value.value if isinstance(a.value, s.Number) else None
        for a in at.arguments
        if a.name
    }
    return text(at.function), words, numbers


def _powers_of_two(least: int, most: int) -> list[int]:
    return [2**k for k in range(15) if least <= 2**k <= most]


# What is legal --------------------------------------------------------------------------------


def unfit(slot: Slot, format: Format) -> str:
    """Why a slot cannot be kept in a format; "" where it can."""
    type = slot.type
    if type.logical:
        return "it is a truth value"
    if type.reach not in FINE and not type.axes:
        return f"it is one number a {type.reach}, which costs nothing"
    if type.reach not in FINE:
        return f"it is {type}, and only what has the cells of tensors, or of rows, is converted"
    if format.type == "int8" and slot.kind == "target":
        return "the model computes with it"
    plain = type.reach == "element" and not type.axes
    if not plain and (format.rounding != "nearest" or format.type == "int8"):
        return f"it is {type}, and only one number a cell is converted inside of the pass"
    return ""


# Conversions ----------------------------------------------------------------------------------


def convert(graph: Graph, schedule: Schedule) -> Graph:
    """The graph with the conversions of stochastic and compensated slots at their writes.

    A compensated slot is a pair, what its format holds and the rest: `read` is their sum, and what
    a sum rounds away goes into the rest. Rounding to the nearest is the store's own.
    """
    by_chance = 0
    for path, format in schedule.stores.items():
        if format.rounding == "kahan":
            graph = _compensated(graph, path, format)
        elif format.rounding == "stochastic" and path in graph.writes:
            dither = partial(_dither, graph, f"dither_{format.type}", by_chance)
            old = graph.writes[path]
            new = _parts(graph, old, dither)
            evals = {t: new if n is old else n for t, n in graph.evals.items()}
            graph = replace(graph, writes={**graph.writes, path: new}, evals=evals)
            by_chance += 1
    return graph


def _parts(graph: Graph, node: Node, change: Any) -> Node:
    """A conversion of what is written: of each part that a `for` block routes by itself."""
    if node.op != "merge":
        return change(node)
    return graph.rebuild(node, (node.inputs[0], *(change(p) for p in node.inputs[1:])))


def _dither(graph: Graph, op: str, at: int, node: Node) -> Node:
    """Rounding by chance; eight slots share the words of one draw of a cell."""
    how, stream = f"chance{at % 8}", STREAM + at // 8
    chance = graph.add("random", type=node.type, span=node.span, how=how, stream=stream)
    return graph.add(op, node, chance, type=node.type, span=node.span)


def _compensated(graph: Graph, path: str, format: Format) -> Graph:
    slot, rest = graph.slots[path], rest_of(path)
    zero = graph.add("expand", graph.const(0.0), type=slot.type, span=slot.span)
    held = graph.add("read", type=slot.type, known=2, slot=path)
    kept = graph.add("read", type=slot.type, known=2, slot=rest)
    roots = [*graph.roots(), *(x.init for x in graph.slots.values() if x.init is not None)]
    table = {held: graph.add("add", held, kept, type=slot.type)}
    for node in list(postorder(roots)):
        if node.op == "restrict" and node.inputs[0] is held:
            lost = graph.rebuild(node, (kept,))
            table[node] = graph.add("add", node, lost, type=node.type, span=node.span)
        elif node.op == "evaluate" and all(i.op in ("read", "batch") for i in node.inputs):
            table[node] = node  # the loss is taken where the model stands
    done = substitute(graph, roots, table)
    made = graph.with_roots(lambda n: done[n])
    new = made.writes.get(path)
    slots = {p: replace(x, init=done.get(x.init)) if x.init else x for p, x in made.slots.items()}
    slots[rest] = Slot(rest, "state", slot.type, zero, slot.span)
    if new is None:
        return replace(made, slots=slots)
    round = lambda n: graph.add(format.type, n, type=n.type, span=n.span)  # noqa: E731
    rest_node = _parts(graph, new, lambda n: graph.add("sub", n, round(n), type=n.type))
    if new.op == "merge":
        new = graph.rebuild(new, (held, *new.inputs[1:]))
        rest_node = graph.rebuild(rest_node, (kept, *rest_node.inputs[1:]))
    writes = {**made.writes, path: _parts(graph, new, round), rest: rest_node}
    always = made.always | ({rest} if path in made.always else set())
    return replace(made, slots=slots, writes=writes, always=always)


def formats(graph: Graph, schedule: Schedule) -> dict[str, Format]:
    """How every slot of the graph is kept, those that the conversions added too."""
    kept = dict(schedule.stores)
    for path, format in schedule.stores.items():
        if format.rounding == "kahan":
            kept[rest_of(path)] = Format(format.type)
    return kept


def coded(made: Any, formats: Mapping[str, Format]) -> Any:
    """A plan, its phases told which of their columns hold int8 codes."""
    waiting = list(made.phases)
    while waiting:
        phase = waiting.pop()
        waiting += getattr(phase, "body", ())
        for name in phase.columns()[0] if hasattr(phase, "coded") else ():
            path = name.removeprefix("slot:").partition("@")[0]
            if name.startswith("slot:") and path in formats and formats[path].block:
                phase.coded[name] = formats[path]
    return made


# Words ----------------------------------------------------------------------------------------


def said(graph: Graph, schedule: Schedule) -> list[tuple[str, str]]:
    """What is chosen for a rule, and whether the schedule or the compiler chose it."""
    backend = f"{schedule.backend} (the schedule)"
    if schedule.backend == "auto":
        backend = "compiled kernels where the device has them, torch operations elsewhere (default)"
    bucket = f", {schedule.bucket_mb:g} MB of gradients at once" if schedule.bucket_mb else ""
    when = f"inside the backward pass{bucket} (the schedule)"
    if not schedule.in_backward:
        when = "after the backward pass, all tensors in one launch (default)"
    rows, kept = [("runs on", backend), ("updates", when)], formats(graph, schedule)
    if schedule.captured:
        rows.append(("launched", "by a CUDA graph, recorded when gradients stay (the schedule)"))
    for path, slot in graph.slots.items():
        if path in kept:
            rows.append((f"stores {path}", f"{in_words(kept[path])} (the schedule)"))
        elif slot.kind == "state" and slot.type.reach == "element" and not slot.type.logical:
            rows.append((f"stores {path}", "as computed: float32, float64 of float64 (default)"))
    return rows


def in_words(format: Format) -> str:
    """`bf16, rounded by chance`."""
    if format.block:
        return f"int8, blocks of {format.block}, power {format.power}"
    how = {"nearest": "", "stochastic": ", rounded by chance", "kahan": ", the rest kept too"}
    return format.type + how[format.rounding]
