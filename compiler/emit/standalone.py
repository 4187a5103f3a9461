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
from ..program import Cells, Compute, Host, Loop, Plan, Program, Rest, Test
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
from .readable_names import host_names, leaf_names, port_names, result_name, slot_names
from .remarks import HOST_DOCS, describe, file_name, origin

MARK = "# Written by optc "
"""How the first line of a standalone module begins."""

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
                program.conditions, "conditions", host_names(program.conditions)
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
        hosts = host_names(plan.host)
        slots = slot_names(plan)
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
            own = [replace(p, phase=self._compute(p.phase, hosts, slots)) for p in phase.parts]
            return replace(phase, parts=own)
        return self._compute(phase, hosts, slots) if isinstance(phase, Compute) else phase

    def _domain(self, domain: Cells) -> Cells:
        if domain.where is None:
            return domain
        host = domain.where.host
        asked = tuple((what, p, re.sub(r".*/", "", at)) for what, p, at in domain.asked)
        where = Test(self._host(host, "belongs", host_names(host)))
        return replace(domain, where=where, asked=asked)

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
        parameters = leaf_names(host)
        body = Printer(graph, parameters, names).body()
        name, fresh = self._named(kind, (*parameters.values(), "->", *body))
        if fresh:
            doc = HOST_DOCS[kind]
            self.phases.append(function(name, parameters.values(), doc, body))
        return replace(host, module=Raw(f"{HOME}.Printed({name})"))  # type: ignore[arg-type]

    def _compute(self, phase: Compute, hosts: Sequence[str], slots: dict[str, str]) -> Compute:
        """Write the functions of a phase: one, or one for each way its conditions come out."""
        sides: dict[tuple[bool, ...], Any] = {
            truth: self._function(replace(phase, module=module), hosts, slots).module
            for truth, module in phase.each_side().items()
        }
        return replace(self._function(phase, hosts, slots), sides=sides)

    def _function(self, phase: Compute, hosts: Sequence[str], slots: dict[str, str]) -> Compute:
        """Write the function of a phase, and its kernels' texts if it is element-wise."""
        assert isinstance(phase.module, fx.GraphModule)
        graph = phase.module.graph
        parameters = port_names(phase, graph, hosts)
        printer = Printer(graph, parameters, [result_name(o, slots) for o in phase.outputs])
        body = printer.body(origin)
        doc = describe(phase, slots)
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


def _title(text: str) -> list[str]:
    return [f"# {text} ".ljust(WIDTH, "-")]


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
            'matrices = _RUNTIME.load("compiler.matrices")',
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
