"""A standalone module: torch alone, the same numbers to the bit, whatever a spec's text holds."""

from __future__ import annotations

import ast
import importlib.util
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from optc.compiler import driver
from optc.compiler.emit.carried import carried
from optc.compiler.emit.python import comment, data, docstring, identifier
from optc.compiler.emit.standalone import standalone
from optc.compiler.primitive import NoLibrary
from optc.compiler.source import Source
from optc.runtime.optimizer import optimizer_class

from ..runtime.rules import ADAMW, NOISY, ROUTED, RULES, SAM, SCHEDULED, VETO
from . import alone as script
from .alone import bowl, made, restore, train

TRAINED = {
    "adamw": ("Adamw", ADAMW),
    "sam": ("SamSgd", SAM),
    "routed": ("Routed", ROUTED),
    "noisy": ("Noisy", NOISY),
    "scheduled": ("Scheduled", SCHEDULED),
    "veto": ("Careful", VETO),
}
"""Module -> (class, rule)."""


def program(text: str, path: str = "rule.opt") -> Any:
    return driver.compile_source(Source(path, text), NoLibrary())


def imported(path: Path, name: str) -> Any:
    """A module from a file, known by its name as an import makes it."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the modules gave in an interpreter without optc, and what optc itself gave."""
    folder = tmp_path_factory.mktemp("alone")
    given: dict[str, Any] = {}
    here: dict[str, Any] = {}
    for name, (_, text) in TRAINED.items():
        made_of = program(text, f"{name}.opt")
        (folder / f"{name}.py").write_text(standalone(made_of), encoding="utf-8")
        opt, params = made(optimizer_class(made_of))
        train(opt, params, 10)
        given[name] = {
            "params": [p.detach().clone() for p in params],
            "state": pickle.loads(pickle.dumps(opt.state_dict())),
        }
        train(opt, params, 10)
        here[name] = (params, opt)
    torch.save(given, folder / "given.pt")
    torch.save({n: c for n, (c, _) in TRAINED.items()}, folder / "names.pt")
    done = subprocess.run(
        [sys.executable, "-I", script.__file__, str(folder)],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    out = torch.load(folder / "out.pt", weights_only=False)
    return {"there": out, "here": here, "folder": folder}


def same(a: Any, b: Any) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("name", TRAINED)
def test_the_numbers_are_the_same_to_the_bit(alone: dict[str, Any], name: str) -> None:
    params, opt = alone["here"][name]
    there = alone["there"][name]
    assert same(params, there["params"])
    state, other = opt.state_dict()["state"], there["state"]["state"]
    assert state.keys() == other.keys()
    for i, entries in state.items():
        assert entries.keys() == other[i].keys()
        assert same(entries.values(), other[i].values())


@pytest.mark.parametrize("name", TRAINED)
def test_state_goes_both_ways(alone: dict[str, Any], name: str) -> None:
    params, opt = alone["here"][name]
    there = alone["there"][name]
    assert same(params, there["resumed"])
    other, others = made(type(opt))
    restore(other, others, {"params": there["params"], "state": there["state"]})
    mine = [p.detach().clone() for p in params]
    twin, twins = made(type(opt))
    restore(twin, twins, {"params": mine, "state": opt.state_dict()})
    train(other, others, 3)
    train(twin, twins, 3)
    assert same(others, twins)


def test_it_is_pickled_as_a_class_of_its_module(
    alone: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in TRAINED:
        assert same(alone["there"][name]["copied"], alone["there"][name]["params"])
    monkeypatch.syspath_prepend(alone["folder"])
    try:
        opt = pickle.loads(alone["there"]["sam"]["pickle"])
        assert type(opt).__module__ == "sam" and type(opt).__name__ == "SamSgd"
        assert type(opt) is sys.modules["sam"].SamSgd
        assert not isinstance(opt, optimizer_class(program(SAM)).__mro__[1])  # a runtime of its own
    finally:
        sys.modules.pop("sam", None)


def test_the_functional_step_is_there(alone: dict[str, Any]) -> None:
    from optc.runtime.functional import Step

    step = Step(program(ADAMW))
    w = {"a": torch.ones(3), "b": torch.zeros(2)}
    w, _, _ = step(w, step.init(w), loss=bowl)
    assert same(w.values(), alone["there"]["functional"].values())


# The text -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RULES)
def test_it_is_formatted(name: str, tmp_path: Path) -> None:
    text = standalone(program(RULES[name], f"{name}.opt"))
    path = tmp_path / "module.py"
    path.write_text(text, encoding="utf-8")
    ruff = [sys.executable, "-m", "ruff"]
    done = subprocess.run(
        [*ruff, "format", "--isolated", "--line-length", "100", "--diff", path],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    done = subprocess.run(
        [*ruff, "check", "--isolated", "--select", "F,I", path], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
    top = text[: text.index("TEXTS = {")]
    assert max(map(len, top.split("\n"))) <= 100


def test_the_same_spec_gives_the_same_bytes(tmp_path: Path) -> None:
    """In another process, where sets have another order."""
    (tmp_path / "a.opt").write_text(ROUTED)
    done = subprocess.run(
        [sys.executable, "-m", "optc", "compile", "a.opt", "-o", "-"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={"PYTHONHASHSEED": "1", "PATH": ""},
    )
    assert done.stdout == standalone(program(ROUTED, "a.opt")), done.stderr


def test_what_is_carried_needs_torch_only() -> None:
    texts = carried()
    assert {"runtime/optimizer.py", "runtime/kernels.py", "runtime/math.h"} <= texts.keys()
    assert not any(path.startswith(("cli/", "plugins/", "compiler/emit")) for path in texts)


def test_where_a_spec_lies_is_not_told() -> None:
    assert "secret" not in standalone(program(ADAMW, "/home/secret/adamw.opt"))


def test_tracebacks_show_the_lines(tmp_path: Path) -> None:
    import traceback

    (tmp_path / "shown.py").write_text(standalone(program(ADAMW)))
    module = imported(tmp_path / "shown.py", "shown")
    try:
        module.Adamw([torch.nn.Parameter(torch.ones(1))], lr=-1.0)
    except ValueError:
        assert 'raise ValueError(f"Invalid {name}' in traceback.format_exc()
    finally:
        sys.modules.pop("shown")


# Hostile text ---------------------------------------------------------------------------------

NASTY = [
    '"""',
    "'''",
    '"',
    "\\",
    'ends with "',
    "ends with \\",
    '\\"""',
    "{braces} {0} {{}} %s %(x)s",
    "\u2028 \u2029 \x0b \x0c \x1c \x85 \x00 \u202e",
    "\nimport os\n",
    '"""\nraise SystemExit(1)\n"""',
    "\ud800",
    "# -*- coding: latin-1 -*-",
]


@pytest.mark.parametrize("text", NASTY)
def test_text_stays_text(text: str) -> None:
    _stays(text)


@settings(max_examples=300, deadline=None)
@given(
    st.text(alphabet=st.one_of(st.characters(), st.sampled_from("\\\"'{}\n\r\u2028#")), max_size=40)
)
@example('\\"')
def test_any_text_stays_text(text: str) -> None:
    _stays(text)


def _stays(text: str) -> None:
    name = identifier(text)
    assert name.isidentifier() and "\n" not in comment(text)
    assert ast.literal_eval(data({"x": [text, (text,)]})) == {"x": [text, (text,)]}
    lines = ["def f():", *docstring(text, "    "), f"    {comment(text)}", f"    {name} = 1"]
    source = "\n".join(lines)
    tree = ast.parse(source.encode("utf-8"))
    assert len(tree.body) == 1 and isinstance(tree.body[0], ast.FunctionDef)
    assert len(tree.body[0].body) == 2
    read = ast.get_docstring(tree.body[0], clean=False)
    assert read is not None
    wanted = [line.strip() for line in text.split("\n")]
    assert [line.strip() for line in read.split("\n")][: len(wanted)] == wanted


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(NASTY), st.sampled_from(NASTY))
def test_hostile_documents_and_paths(doc: str, path: str) -> None:
    rule = driver.compile_source(Source("rule.opt", ADAMW), NoLibrary())
    rule.doc, rule.origin = doc, (path, rule.origin[1], rule.origin[2])
    text = standalone(rule)
    plain = standalone(driver.compile_source(Source("rule.opt", ADAMW), NoLibrary()))
    tree, other = ast.parse(text.encode("utf-8")), ast.parse(plain)
    assert [type(x) for x in tree.body] == [type(x) for x in other.body]


HOSTILE_NAMES = """
rule class_(lambda_: nonnegative = 0.1, torch: nonnegative = 0.5, step: nonnegative = 0.1):
    state cells = zeros(w), def_ = zeros(w), PROGRAM = zeros(w)
    g = grad(w)
    cells <- torch * cells + g
    def_ <- step * def_ + cells
    PROGRAM <- def_ + lambda_ * g
    w <- w - lambda_ * PROGRAM
    metric print = norm(g, over = model)
"""


@pytest.mark.parametrize("rule", ["program", "step", "none", "ir", "typing", "any", "import_"])
def test_names_do_not_meet_the_modules_own(rule: str, tmp_path: Path) -> None:
    text = standalone(program(HOSTILE_NAMES.replace("class_", rule), f"{rule}.opt"))
    (tmp_path / "hostile.py").write_text(text, encoding="utf-8")
    try:
        module = imported(tmp_path / "hostile.py", "hostile")
        cls = getattr(module, module.__all__[0])
        opt, params = made(cls)
        train(opt, params, 2)
        assert type(pickle.loads(pickle.dumps(opt))) is cls
    finally:
        sys.modules.pop("hostile", None)


# Whatever compiles ----------------------------------------------------------------------------

ROOT = Path(__file__).parents[2]
SPECS = sorted([*ROOT.glob("examples/*.opt"), *ROOT.glob("tests/cases/hard/*.opt")])


@pytest.mark.parametrize("spec", SPECS, ids=lambda p: p.stem)
def test_what_compiles_can_be_written_out(spec: Path, tmp_path: Path) -> None:
    from itertools import product

    from optc.compiler.source import CompileError
    from optc.plugins.registry import library

    try:
        made_of = driver.compile_source(Source(str(spec), spec.read_text()), library())
    except CompileError as error:
        pytest.skip(f"it does not compile yet: {error.diagnostics[0].message}")
    (tmp_path / "written.py").write_text(standalone(made_of), encoding="utf-8")
    try:
        rule = imported(tmp_path / "written.py", "written").PROGRAM
    finally:
        sys.modules.pop("written", None)
    for bits in product((False, True), repeat=len(rule.conditions.names)):
        here, there = made_of.plan(bits), rule.plan(bits)
        assert [type(p).__name__ for p in here.phases] == [type(p).__name__ for p in there.phases]
        assert here.deferred == there.deferred and here.in_place == there.in_place
    for name, slot in rule.slots.items():
        if slot.kind == "state" and not slot.begins_as_number:
            assert rule.start(name).metrics
