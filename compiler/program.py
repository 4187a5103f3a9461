"""What the compiler hands to the runtime: phases, and the plan that names the values between them.

A Program is data. Each computing phase holds a small torch.fx graph over the cells of *one* tensor
(or over the values of the model); how it is run over all tensors is the runtime's business. Values
between phases have names: `slot:PATH` is what a slot holds, `v12` what node 12 gives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from typing import Any

from torch import fx

from .formats import Format, sizes_of

UNSCALE = "1 / scale"
"""The input by which gradients are multiplied that a GradScaler has scaled; no rule can name it."""


@dataclass(frozen=True)
class Port:
    """An input of a phase. `how`: cell, tensor, group, model (by reach), host (a scalar of the
    host's row, `source` its place), like (the parameter itself), slice (a tensor's part of a flat
    value), draw (random numbers, `source` is distribution:stream), size (the places of the axis
    `source`). What is `low` may come in bfloat16, and is taken so."""

    name: str
    source: str
    how: str
    low: bool = False


@dataclass(frozen=True)
class Output:
    """An output of a phase: a column (cell), a number a tensor, or a part to `combine` over
    tensors. A `low` column is rounded to bfloat16, and kept between phases in that type. `axes`
    are those of a combined one, (label, size), where all sizes are known without a tensor; where
    the tensors say them, `place` is where the rule combines what may be of different shapes.
    """

    value: str
    how: str
    combine: str = ""
    slot: str = ""
    low: bool = False
    axes: tuple[tuple[str, Any], ...] = ()
    place: str = ""


@dataclass(frozen=True)
class Printed:
    """A phase's graph as the function that was printed from it."""

    forward: Callable[..., Any]


@dataclass
class Compute:
    """A phase that computes. `mode` is `kernel` (element-wise: any printer) or `torch` (matrices,
    axes).

    The inputs `tests` are conditions of the host; by their truth values `sides` gives graphs that
    compute no side which is not taken.
    `space` is the domain whose tensors it runs over, or "" for the model; where `batched`, tensors
    of one shape may be stacked. `coded` are the columns that hold int8 codes; the sizes of their
    blocks are columns too, behind all others.
    """

    name: str
    mode: str
    space: str
    inputs: list[Port]
    outputs: list[Output]
    module: fx.GraphModule | Printed
    batched: bool = False
    tests: tuple[int, ...] = ()
    sides: dict[tuple[bool, ...], fx.GraphModule | Printed] = field(default_factory=dict)
    in_place: set[str] = field(default_factory=set)
    sources: dict[tuple[str, ...], str] = field(default_factory=dict)
    coded: dict[str, Format] = field(default_factory=dict)

    def forward(self, row: Sequence[Any]) -> Callable[..., Any]:
        """The function for the inputs of one tensor."""
        if not self.tests:
            return self.module.forward
        return self.sides[tuple(bool(row[at]) for at in self.tests)].forward

    def each_side(self) -> dict[tuple[bool, ...], fx.GraphModule | Printed]:
        """The graphs for all truth values of its conditions."""
        every = product((False, True), repeat=len(self.tests)) if self.tests else ()
        return {truth: self.sides[truth] for truth in every}

    def columns(self) -> tuple[list[str], list[int]]:
        """The columns of a kernel's table, and the column that each output goes to.

        A slot that is read and written in place is one column; an output with no slot is called by
        its value.
        """
        names = [p.source for p in self.inputs if p.how == "cell"]
        places = []
        for output in self.outputs:
            if output.combine:
                places.append(-1)
                continue
            name = f"slot:{output.slot}" if output.slot else output.value
            if name not in names:
                names.append(name)
            places.append(names.index(name))
        return names + [sizes_of(n) for n in names if n in self.coded], places


@dataclass
class Part:
    """One result of a phase, for a tensor that lacks an input of the others.

    Behind the result come conditions; it counts where they have these truth values.
    """

    phase: Compute
    truth: tuple[bool, ...] = ()


@dataclass
class Rest:
    """What a phase gives for tensors that lack one of its inputs, a gradient say.

    It runs over those that the phase `of` has just passed over; there are seldom any.
    """

    name: str
    of: str
    parts: list[Part]

    @property
    def in_place(self) -> set[str]:
        return {s for part in self.parts for s in part.phase.in_place}


@dataclass
class Read:
    """What an evaluation is asked for: value, gradient, hvp, jvp or vjp."""

    value: str
    what: str
    wrt: str = ""
    of: str = ""
    vector: str = ""
    axes: tuple[str, ...] = ()


@dataclass
class Evaluate:
    """Ask the loop for an objective at a point. `points` maps targets to values, "" is the held
    point.

    `axes` are mapped one place at a time: (label, places per value name, size source). `when` names
    a condition and the truth value under which the answer is used at all.
    """

    name: str
    objective: str
    points: dict[str, str]
    data: str
    reads: list[Read]
    axes: tuple[str, ...] = ()
    layouts: dict[str, tuple[str, ...]] = field(default_factory=dict)
    sizes: dict[str, Any] = field(default_factory=dict)
    when: tuple[str, bool] | None = None
    again: bool = False
    """Whether a Hessian-vector product at the same point follows: the graph serves it too."""


@dataclass
class Call:
    """An oracle, extern or data operation that the loop answers, or a draw of random numbers."""

    name: str
    op: str
    inputs: list[str]
    output: str
    attributes: dict[str, Any]


@dataclass
class Route:
    """`restrict` to the cells of a domain, or `merge` parts into a whole; `axes` are the result's:
    (label, size)."""

    name: str
    op: str
    inputs: list[str]
    output: str
    source: str
    domains: tuple[str, ...]
    axes: list[tuple[str, Any]] = field(default_factory=list)


@dataclass
class Loop:
    """A bounded loop: the plan of its body, and what is carried from turn to turn."""

    name: str
    count: Any
    carried: list[tuple[str, str]]
    index: str
    body: list[Any]
    outputs: list[str]
    results: list[str]
    until: str = ""
    freeze: list[tuple[tuple[int, ...], int, bool]] = field(default_factory=list)


Phase = Compute | Rest | Evaluate | Call | Route | Loop


def every_phase(phases: Iterable[Phase]) -> Iterator[Phase]:
    """The phases in their order, those in the bodies of loops behind each loop."""
    for phase in phases:
        yield phase
        if isinstance(phase, Loop):
            yield from every_phase(phase.body)


def asks(phase: Phase) -> bool:
    """Whether a phase asks the loop for a loss or a derivative."""
    return isinstance(phase, Evaluate) or isinstance(phase, Loop) and any(map(asks, phase.body))


@dataclass
class Host:
    """The scalars that the host computes in double: leaves in, one row out."""

    leaves: list[tuple[str, Any]]
    module: fx.GraphModule | Printed
    names: list[str]
    counts: tuple[tuple[int, str], ...] = ()
    """The places in a row of what counts something, and what: it must be whole."""


@dataclass
class Test:
    """A condition on a tensor, as a function of its facts."""

    host: Host

    def __call__(self, facts: Callable[[Any], Any]) -> bool:
        return bool(self.host.module.forward(*(facts(leaf) for _, leaf in self.host.leaves))[0])


@dataclass(frozen=True)
class Cells:
    """A domain: its parent, the domains that come first, and the condition on a tensor's facts.

    `asked` is what the condition wants a tensor's name or module to match: which of them, the
    patterns, and where they stand.
    """

    parent: str
    siblings: tuple[str, ...]
    where: Test | None
    asked: tuple[tuple[str, tuple[str, ...], str], ...] = ()


@dataclass
class SlotSpec:
    path: str
    kind: str
    reach: str
    domain: str
    axes: tuple[int | str | None, ...]
    """Places of its axes: a number, `rows` or another side of a matrix, None if the host says."""
    logical: bool
    init: Any = None
    format: Format = Format()
    cells: str = ""
    """The domain of which it has a place for each cell, if it has."""

    @property
    def begins_as_number(self) -> bool:
        """Whether the first value needs no plan of its own: a number, in places that are known."""
        coarse = self.reach in ("model", "group")
        known = not self.axes or not coarse and None not in self.axes
        return known and isinstance(self.init, int | float)


@dataclass
class Plan:
    """One variant of a step: phases in order, and what becomes of the slots."""

    phases: list[Any]
    host: Host
    deferred: dict[str, str]
    in_place: set[str]
    outcomes: list[tuple[str, str, str]]
    metrics: dict[str, str]
    evals: dict[str, str]
    always: frozenset[str]
    reaches: dict[str, str]
    took: dict[str, str] = field(default_factory=dict)
    module: fx.GraphModule | None = None
    last_read: list[tuple[str, ...]] = field(default_factory=list)
    """For each phase the values that nothing reads after it."""
    reported: dict[str, tuple[str, bool]] = field(default_factory=dict)
    """For each metric its reach, and whether it is a truth value."""
    lent: frozenset[str] = frozenset()
    """The slots whose new value may lie in the memory of an old one, but for what stays there."""
    idle: frozenset[int] = frozenset()
    """The phases that write what a step that is taken back does not, or read what these give."""
    late: bool = False
    """Whether such a step needs what these give all the same."""

    @cached_property
    def last_asked(self) -> int:
        """The place of the last phase that asks the loop for a loss or a derivative, or -1."""
        return max([-1, *(k for k, p in enumerate(self.phases) if asks(p))])

    @cached_property
    def whole(self) -> Compute | None:
        """The kernel that is all of the step: it reads slots, scalars of the host and one gradient
        at the held point, and writes slots. None where there is more to a step."""
        more = self.deferred or self.outcomes or self.metrics or self.always
        kernels = [p for p in self.phases if isinstance(p, Compute)]
        asked = [p for p in self.phases if isinstance(p, Evaluate)]
        others = [p for p in self.phases if not isinstance(p, Compute | Evaluate)]
        data = all(isinstance(p, Call) and p.op == "batch" for p in others)
        if more or len(kernels) != 1 or len(asked) != 1 or not data:
            return None
        kernel, question = kernels[0], asked[0]
        points = any(question.points.values()) or question.axes or question.when
        answers = {r.value for r in question.reads if r.what == "gradient"}
        cells = {p.source for p in kernel.inputs if p.how == "cell"}
        fresh = {c for c in cells if not c.startswith("slot:")}
        simple = (
            kernel.mode == "kernel"
            and not points
            and len(question.reads) == 1
            and fresh == answers
            and all(p.how in ("cell", "host", "like") for p in kernel.inputs)
            and all(o.slot and not o.combine for o in kernel.outputs)
        )
        return kernel if simple else None

    @cached_property
    def evaluates_once(self) -> bool:
        return sum(isinstance(p, Evaluate) for p in self.phases) < 2


Lowerings = tuple[Callable[[tuple[bool, ...]], Plan], Callable[[str], Plan]]


@dataclass
class Program:
    """A compiled rule. `plan(bits)` gives the variant for the host conditions' truth values."""

    name: str
    doc: str
    options: dict[str, Any]
    domains: dict[str, Any]
    slots: dict[str, SlotSpec]
    targets: list[str]
    objectives: dict[str, Any]
    level: str
    functions: tuple[str, ...]
    """Oracles and externs, which the training loop supplies by name."""
    inputs: tuple[str, ...]
    conditions: Host
    plan: Callable[[tuple[bool, ...]], Plan]
    start: Callable[[str], Plan]
    scaled: Callable[[], Lowerings] | None = None
    """`plan` and `start` for gradients that a GradScaler has scaled, made when one is met."""
    bounds: dict[str, str] = field(default_factory=dict)
    evals: dict[str, str] = field(default_factory=dict)
    always: frozenset[str] = frozenset()
    """The slots that are written even where a step is taken back."""
    snapshots: int | None = None
    """How many snapshots are kept; None for all."""
    workers: bool = False
    origin: tuple[str, str, str] = ("<string>", "", "")
    rebuild: Callable[..., Any] | None = None
    backend: str = "auto"
    in_backward: bool = False
    bucket_mb: float = 0.0
    captured: bool = False
    private: bool = False
    """Whether it was proven to be differentially private."""
    not_in_backward: str = ""
    print_kernel: Callable[[Compute, tuple[str, ...], str], str] | None = None
    """Prints an element-wise phase for a signature of types, in a language: c or triton."""

    def kernel_text(self, phase: Compute, signature: tuple[str, ...], language: str) -> str:
        """The text of a phase's kernel, printed once."""
        key = (language, *signature)
        if key not in phase.sources:
            assert self.print_kernel is not None
            phase.sources[key] = self.print_kernel(phase, signature, language)
        return phase.sources[key]
