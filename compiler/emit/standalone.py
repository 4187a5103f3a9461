"""A compiled rule as one Python file that needs torch and nothing of optc.

Above stands what was made of the rule, to be read; below it the runtime, the same text that runs in
process, so the numbers are the same to the bit.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import replace
from importlib import resources
from itertools import product
from typing import Any

from torch import fx

from ... import __version__
from ..program import Cells, Compute, Host, Loop, Plan, Port, Printed, Program, Rest, Test
from . import box
from .carried import carried
from .kernel import PRINTERS, folded
from .python import (
    HOME,
    INDENT,
    WIDTH,
    Printer,
    Raw,
    bracketed,
    data,
    docstring,
    function,
    identifier,
    visible,
)

MARK = "# Written by optc "
"""How the first line of a standalone module begins."""

FREE = frozenset(("cell", "tensor", "group", "model"))
IMPORTS = (
    "hashlib",
    "importlib",
    "importlib.abc",
    "importlib.util",
    "math",
    "sys",
    "types",
    "typing",
)
GLOBALS = ("functional", "signature", "program", HOME, *IMPORTS)
PLACE = {"kernel": "elementwise", "torch": "tensor"}


def standalone(program: Program) -> str:
    """The text of the standalone module of a rule."""
    return _Module(program).text()


def class_name(rule: str) -> str:
    """The name of a rule's class, as `optimizer_class` forms it."""
    return identifier("".join(part.title() for part in rule.split("_")), GLOBALS)


class _Module:
    """One module while it is written: what is printed once and named, and what refers to it."""

    def __init__(self, program: Program):
        self.program = program
        self.file = file_name(program.origin[0])
        self.name = class_name(program.name)
        self.taken: set[str] = {self.name, *GLOBALS}
        self.known: dict[tuple[str, ...], str] = {}
        self.phases: list[list[str]] = []
        self.plans: list[list[str]] = []

    def text(self) -> str:
        digest = hashlib.sha256(self.program.origin[1].encode("utf-8", "surrogatepass"))
        module = identifier(self.program.name)
        whole = self._program()
        options = f"OPTIONS: dict[str, typing.Any] = {data(self.program.options, '', WIDTH - 34)}"
        lines = [line for block in (*self.phases, *self.plans, *whole, [options]) for line in block]
        written = re.sub(r'(?s)r""".*?"""', "", "\n".join(lines))

        def uses(module: str) -> bool:
            return f"{module}." in written

        head = [
            f"{MARK}{__version__} from {visible(self.file)}, sha256 {digest.hexdigest()[:16]}",
            *docstring(box.usage(self.program, self.name, module)),
            "",
            "from __future__ import annotations",
            "",
            *(f"import {name}" for name in IMPORTS if name != "math" or uses("math")),
            "",
            *(("import torch", "") if uses("torch") else ()),
            options,
        ]
        texts = (f'{INDENT}"{path}": {_raw(chr(10) + text)},' for path, text in carried().items())
        blocks = [
            head,
            _title("The phases of a step: functions of one tensor's cells and of scalars"),
            *self.phases,
            _title("The plan as data: what a step does, in order"),
            *self.plans,
            *whole,
            _title("The runtime, the same for all rules"),
            _loader(),
            ["TEXTS = {", *texts, "}"],
            _title("The optimizer"),
            *_ending(self.name),
        ]
        return "\n\n\n".join("\n".join(lines) for lines in blocks) + "\n"

    # Data ---------------------------------------------------------------------------------

    def _program(self) -> list[list[str]]:
        """The function that gives the rule as data; plans are written on the way."""
        program = self.program
        count = len(program.conditions.names)
        variants = {
            bits: self._plan(program.plan(bits), f"step_{n}" if count else "step")
            for n, bits in enumerate(product((False, True), repeat=count), 1)
        }
        starts = {
            name: self._plan(program.start(name), "begin")
            for name, slot in program.slots.items()
            if slot.kind == "state" and not slot.begins_as_number
        }
        parts: dict[str, Any] = {
            "options": Raw("OPTIONS"),
            "domains": {n: self._domain(d) for n, d in program.domains.items()},
            "conditions": self._host(
                program.conditions, "conditions", _host_names(program.conditions)
            ),
            "plan": Raw("lambda bits: PLANS[bits]()"),
            "start": Raw("lambda slot: STARTS[slot]()"),
            "origin": (self.file, "", program.name),
            "rebuild": None,
            "scaled": None,  # a GradScaler unscales before the step
            # the places in it without the folders of this machine
            "not_in_backward": re.sub(r"\S*/([^/\s]+:\d+:\d+)", r"\1", program.not_in_backward),
            "print_kernel": Raw("signature.carried"),
        }
        whole = replace(program, **parts)
        return [
            [
                f"PLANS: dict[tuple[bool, ...], typing.Any] = {data(variants, '', WIDTH - 46)}",
                f"STARTS: dict[str, typing.Any] = {data(starts, '', WIDTH - 34)}",
            ],
            self._returning("program", "typing.Any", "The rule as data.", whole),
        ]

    def _returning(self, name: str, result: str, doc: str, value: Any) -> list[str]:
        body = f"return {data(value, INDENT, WIDTH - len(INDENT) - 7)}".split("\n")
        return function(name, (), doc, [x.removeprefix(INDENT) for x in body], result)

    def _plan(self, plan: Plan, kind: str) -> Raw:
        """Write a plan and the functions of its phases; returns the name of its function."""
        name = identifier(kind, self.taken)
        self.taken.add(name)
        hosts = _host_names(plan.host)
        slots = _slot_names(plan)
        phases = [self._phase(p, hosts, slots) for p in plan.phases]
        host = self._host(plan.host, "host", hosts)
        whole = replace(plan, phases=phases, host=host, reaches={}, took={}, evals={}, module=None)
        doc = "What a step does." if kind.startswith("step") else "How a slot begins."
        self.plans.append(self._returning(name, "typing.Any", doc, whole))
        return Raw(name)

    def _phase(self, phase: Any, hosts: Sequence[str], slots: dict[str, str]) -> Any:
        if isinstance(phase, Loop):
            return replace(phase, body=[self._phase(p, hosts, slots) for p in phase.body])
        if isinstance(phase, Rest):
            return replace(phase, phase=self._compute(phase.phase, hosts, slots))
        return self._compute(phase, hosts, slots) if isinstance(phase, Compute) else phase

    def _domain(self, domain: Cells) -> Cells:
        if domain.where is None:
            return domain
        host = domain.where.host
        return replace(domain, where=Test(self._host(host, "belongs", _host_names(host))))

    # Functions ----------------------------------------------------------------------------

    def _named(self, kind: str, key: tuple[str, ...]) -> tuple[str, bool]:
        """A name for what has this content, and whether it is new."""
        if key in self.known:
            return self.known[key], False
        self.known[key] = name = identifier(kind, self.taken)
        self.taken.add(name)
        return name, True

    def _host(self, host: Host, kind: str, names: Sequence[str]) -> Host:
        """Write the function of the scalars of a step."""
        if not host.names:
            return replace(host, module=Raw(f"{HOME}.Printed(tuple)"))  # type: ignore[arg-type]
        assert isinstance(host.module, fx.GraphModule)
        graph = host.module.graph
        parameters = _leaf_names(host)
        body = Printer(graph, parameters, names).body()
        name, fresh = self._named(kind, (*parameters.values(), "->", *body))
        if fresh:
            doc = _HOST_DOCS[kind]
            self.phases.append(function(name, parameters.values(), doc, body))
        return replace(host, module=Raw(f"{HOME}.Printed({name})"))  # type: ignore[arg-type]

    def _compute(self, phase: Compute, hosts: Sequence[str], slots: dict[str, str]) -> Compute:
        """Write the functions of a phase: one, or one for each way its conditions come out."""
        sides: dict[tuple[bool, ...], Any] = {
            truth: self._function(replace(phase, module=module), hosts, slots).module
            for truth, module in phase.sides.items()
        }
        return replace(self._function(phase, hosts, slots), sides=sides)

    def _function(self, phase: Compute, hosts: Sequence[str], slots: dict[str, str]) -> Compute:
        """Write the function of a phase, and its kernels' texts if it is element-wise."""
        assert isinstance(phase.module, fx.GraphModule)
        graph = phase.module.graph
        parameters = _port_names(phase, graph, hosts)
        printer = Printer(graph, parameters, [_result_name(o, slots) for o in phase.outputs])
        body = printer.body(_origin)
        doc = _describe(phase, slots)
        kernel = phase.mode == "kernel"
        texts = {x: folded(show(phase), x, WIDTH) for x, show in PRINTERS.items()} if kernel else {}
        kind = "model" if not phase.space else PLACE[phase.mode]
        name, fresh = self._named(kind, (*parameters.values(), "->", *body, *texts.values(), doc))
        if fresh:
            self.phases.append(function(name, parameters.values(), doc, body))
        sources: Any = {}
        for language, text in texts.items():
            constant = f"{name.upper()}_{language.upper()}"
            sources[language,] = Raw(constant)
            if fresh:
                self.phases.append([f"{constant} = {_raw(chr(10) + text)}"])
        module: Any = Raw(f"{HOME}.Printed({name})")
        return replace(phase, name=name, module=module, sources=sources)


# Names ----------------------------------------------------------------------------------------


def file_name(path: str) -> str:
    """The last part of a path: where a spec lies on a machine is nobody's business."""
    return path.replace("\\", "/").rpartition("/")[2]


def _unique(names: Sequence[str], reserved: Sequence[str] = ()) -> list[str]:
    result: list[str] = []
    for name in names:
        result.append(identifier(name, {*result, *reserved}))
    return result


def _leaf_name(leaf: Any) -> str:
    kind, what = leaf[0], str(leaf[1])
    place = leaf[2] if kind == "option" else leaf[3] if kind == "meta" and what == "shape" else -1
    return f"{what}_{place}" if place >= 0 else what


def _leaf_names(host: Host) -> dict[str, str]:
    """Placeholder -> parameter of a host function."""
    names = _unique([_leaf_name(leaf) for _, leaf in host.leaves])
    return dict(zip((n for n, _ in host.leaves), names, strict=True))


def _host_names(host: Host) -> list[str]:
    """Names of the scalars of a row: the leaf's own where it is one, else h and its place."""
    assert isinstance(host.module, fx.GraphModule)
    leaves = _leaf_names(host)
    returned = next(n for n in host.module.graph.nodes if n.op == "output").args[0]
    return [
        leaves[x.name] if isinstance(x, fx.Node) and x.name in leaves else f"h{k}"
        for k, x in enumerate(returned)
    ]


def _port_names(phase: Compute, graph: fx.Graph, hosts: Sequence[str]) -> dict[str, str]:
    """Placeholder -> parameter of a phase's function."""
    holders = [n for n in graph.nodes if n.op == "placeholder"]
    ports = [phase.inputs[n.meta["port"]] for n in holders]
    assert [id(p) for p in ports] == [id(p) for p in phase.inputs]
    names = _unique([_port_name(p, hosts) for p in ports])
    return dict(zip((n.name for n in holders), names, strict=True))


def _port_name(port: Port, hosts: Sequence[str]) -> str:
    if port.how == "host":
        return hosts[int(port.source)]
    return short(port.source[5:]) if port.source.startswith("slot:") else port.name


def short(slot: str) -> str:
    """What a slot is called where its step and its domain are clear."""
    return slot.rpartition(".")[2].partition("@")[0]


def _slot_names(plan: Plan) -> dict[str, str]:
    """Value -> the slot or metric that it becomes."""
    names = {value: metric for metric, value in plan.metrics.items()}
    names |= {value: f"{short(slot)}_new" for slot, value in plan.deferred.items()}
    return names


def _result_name(output: Any, slots: dict[str, str]) -> str:
    if output.slot:
        return f"{short(output.slot)}_new"
    return slots.get(output.value, output.combine or output.value)


# Words ----------------------------------------------------------------------------------------

_HOST_DOCS = {
    "host": "Scalars of a step, in double: one row for each group of parameters.",
    "conditions": "What decides which variant of the step is run.",
    "belongs": "Whether a parameter belongs to a domain.",
}


def _describe(phase: Compute, slots: dict[str, str]) -> str:
    reads = [
        p.source[5:] if p.source.startswith("slot:") else p.name
        for p in phase.inputs
        if p.how in FREE
    ]
    writes = sorted({o.slot for o in phase.outputs if o.slot})
    gives = [
        f"{o.combine or 'value'} over the {o.how}" if o.combine else slots.get(o.value, o.value)
        for o in phase.outputs
        if not o.slot
    ]
    where = f"Each tensor of {phase.space}" if phase.space else "The model"
    parts = [f"reads {', '.join(reads)}"] if reads else []
    parts += [f"writes {', '.join(writes)}"] if writes else []
    parts += [f"gives {', '.join(gives)}"] if gives else []
    return _filled(visible(f"{where}: {'; '.join(parts)}."))


def _filled(text: str) -> str:
    lines = [""]
    for word in text.split(" "):
        if len(lines[-1]) + len(word) > WIDTH - 12:
            lines.append("")
        lines[-1] += f" {word}" if lines[-1] else word
    return "\n".join(lines)


def _origin(node: fx.Node) -> str:
    """The line of the spec that a value comes from."""
    made = node.meta.get("node")
    if made is None:
        return ""
    line = made.span.source.line(made.span.row).strip()
    return f"{file_name(made.span.source.path)}:{made.span.row}: {line}" if line else ""


def _title(text: str) -> list[str]:
    return [f"# {text} ".ljust(WIDTH, "-")]


# Texts ----------------------------------------------------------------------------------------


def _raw(text: str) -> str:
    """A text as a raw string that reads as it is."""
    for quotes in ('"""', "'''"):
        if quotes not in text and not text.endswith((quotes[0], "\\")) and "\r" not in text:
            return f"r{quotes}{text}{quotes}"
    return repr(text)


def _loader() -> list[str]:
    """The text of embedded.py from its first class on."""
    text = resources.files(__package__).joinpath("embedded.py").read_text(encoding="utf-8")
    return text[text.index("class _Text") :].rstrip("\n").split("\n")


def _ending(name: str) -> list[list[str]]:
    return [
        [
            "_RUNTIME = _Embedded(TEXTS)",
            f'{HOME} = _RUNTIME.load("compiler.program")',
            'cells = _RUNTIME.load("compiler.cells")',
            'scalars = _RUNTIME.load("compiler.scalars")',
            'signature = _RUNTIME.load("compiler.signature")',
            "PROGRAM = program()",
        ],
        [
            "def functional() -> typing.Any:",
            f'{INDENT}"""The rule as a pure step: `init(w)` gives the state, the call steps."""',
            f'{INDENT}return _RUNTIME.load("runtime.functional").Step(PROGRAM)',
        ],
        [
            f'__all__ = ["{name}", "functional"]',
            bracketed(
                f'{name} = _RUNTIME.load("runtime.optimizer").optimizer_class(',
                [lambda _, __, x=x: x for x in ("PROGRAM", f'"{name}"', "__name__")],  # type: ignore[misc]
                ")",
                "",
            ),
        ],
    ]


__all__ = ["MARK", "Printed", "class_name", "standalone"]
