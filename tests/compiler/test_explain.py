"""The algorithm box: a rule with its steps written out means the same; LaTeX is well formed."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from optc.compiler import syntax as s
from optc.compiler.check import check, locals_of
from optc.compiler.explain import FORMATS, box
from optc.compiler.format import to_opt
from optc.compiler.inlined import inlined
from optc.compiler.interpret import together
from optc.compiler.ir import Graph
from optc.compiler.latex import algorithm, formula
from optc.compiler.parse import parse, parse_expression
from optc.compiler.source import NOWHERE, Source
from optc.compiler.types import Type
from optc.plugins.registry import library

from .loops import Autograd, Objective, largest_gap, machine, wavy

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.opt"))
RULES = [*EXAMPLES, *sorted((ROOT / "tests" / "cases" / "hard").glob("*.opt"))]


def rule_of(path: Path) -> tuple[s.File, s.Rule]:
    file = parse(Source(path.name, path.read_text(encoding="utf-8")))
    return file, [x for x in file.items if isinstance(x, s.Rule)][-1]


def written_out(file: s.File, rule: s.Rule) -> str:
    made, _ = inlined(rule, library(), locals_of(file))
    others = tuple(x for x in file.items if not isinstance(x, s.Rule))
    return to_opt(s.File("", (*others, made)))


def losses(graph: Graph) -> dict[str, Objective]:
    """A function for each loss of a rule, no two alike; three numbers for one with an axis."""

    def one(scale: int, type: Type) -> Objective:
        def value(points: Any, data: Any = None) -> torch.Tensor:
            found = scale * wavy(points)
            return torch.stack([found, found**2, found.sin()]) if type.axes else found

        return value

    return {name: one(k, type) for k, (name, type) in enumerate(graph.objectives.items(), 1)}


def ran(text: str, steps: int = 3) -> Any:
    graph = check(parse(Source("rule.opt", text)), library())
    own = graph.oracles or graph.externs or graph.inputs
    if own or any(len(t.axes) > 1 for t in graph.objectives.values()):
        pytest.skip("it asks for what only its own loop supplies")
    if sum(slot.kind == "target" for slot in graph.slots.values()) > 1:
        pytest.skip("its targets have names of their own")
    needed = {o.name: 2 for o in graph.options.values() if o.default is None}
    run = machine(text, Autograd(**losses(graph)), options=[needed])
    for _ in range(steps):
        if run.graph.workers:
            together([run], [torch.arange(3.0)])
        else:
            run.step(torch.arange(3.0))
    return run


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_steps_written_out_mean_the_same(path: Path) -> None:
    file, rule = rule_of(path)
    named, plain = ran(path.read_text(encoding="utf-8")), ran(written_out(file, rule))
    assert largest_gap(named.tensors(), plain.tensors()) == 0


STEPS = {
    "twice": "smooth momentum(0.9)\nprecondition adam()\nprecondition adam(eps = 1e-3)\nstep lr",
    "metrics and averages": "monitor gradient_norm() as size\nstep lr\n"
    "average ema_of_weights(0.5)\nmonitor update_norm()",
    "conditions": "clip global_norm() when call > 1\nstep lr when call != 2\n"
    "project ball() when call > 1",
    "names that clash": "n = 3\nm = 2\nclip global_norm()\nstep lr * n * m\nproject ball()",
    "blocks": "clip global_norm()\nfor params where ndim == 2:\n    smooth momentum()\n"
    "    step lr\nfor other params:\n    step lr / 2",
    "loops": "repeat 3:\n    precondition adam()\n    step lr\nrepeat 40:\n    step lr / 10",
    "a schedule": "every 2:\n    project ball()\nelse:\n    project box(-1, 1)\nstep cosine(lr)",
    "a field": "perturb sam(0.1)\nprecondition adam()\nstep lr",
}


@pytest.mark.parametrize("name", STEPS)
def test_every_form_of_a_step_is_written_out(name: str) -> None:
    text = "rule r(lr = 0.1):\n" + "".join(f"    {line}\n" for line in STEPS[name].splitlines())
    file = parse(Source("r.opt", text))
    rule = file.items[-1]
    assert isinstance(rule, s.Rule)
    plain = written_out(file, rule)
    one, two = ran(text), ran(plain)
    assert largest_gap(one.tensors(), two.tensors()) == 0, plain
    assert {k: float(v) for k, v in one.metrics.items()} == {
        k: float(v) for k, v in two.metrics.items()
    }
    assert all(largest_gap(one.evals[k], two.evals[k]) == 0 for k in one.evals)


@pytest.mark.parametrize("path", RULES, ids=lambda p: p.stem)
def test_latex_is_balanced(path: Path) -> None:
    file = parse(Source(path.name, path.read_text(encoding="utf-8")))
    for item in file.items:
        if isinstance(item, s.Rule | s.Primitive):
            text = algorithm(item)
            assert text.count(r"\left") - text.count(r"\leftarrow") == text.count(r"\right")
            bare = text.replace(r"\{", "").replace(r"\}", "")
            assert bare.count("{") == bare.count("}") and bare.count("$") % 2 == 0
            opened = Counter(re.findall(r"\\begin\{(\w+)", text))
            assert opened == Counter(re.findall(r"\\end\{(\w+)", text))
            assert text.count(r"\For{") == text.count(r"\EndFor")


FORMULAS = {
    "(1 - betas[0]) * g^2": r"\left(1 - \beta_{0}\right) \, g^{2}",
    "a / (b + eps)": r"\frac{a}{b + \epsilon}",
    "(a / b)^2": r"\left(\frac{a}{b}\right)^{2}",
    "norm(exp_avg, over = model)": r"\left\|\mathit{exp\_avg}\right\|_{\mathit{model}}",
    "1e-8": "10^{-8}",
    "3e-4": r"3 \cdot 10^{-4}",
    "grad[w](val, w1)": r"\nabla_{w} \mathit{val}\left(\mathit{w1}\right)",
    "-(a + b)": r"-\left(a + b\right)",
}


@pytest.mark.parametrize("text", FORMULAS)
def test_formulas(text: str) -> None:
    expr = parse_expression(text, NOWHERE.source, NOWHERE)
    assert formula(expr) == FORMULAS[text]


@pytest.mark.parametrize("format", FORMATS)
def test_a_box_has_every_line(format: str) -> None:
    file, rule = rule_of(ROOT / "examples" / "sam_adamw.opt")
    text = box(file, rule, library(), format)
    assert "sam" in text and "exp" in text and "AdamW at a sharpness-aware point" in text
