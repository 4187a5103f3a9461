"""Primitives are found by path; plugins are imported late, and one that is broken hurts nobody."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from optc import hookimpl
from optc.compiler.primitive import Declaration
from optc.compiler.source import CompileError
from optc.compiler.syntax import KINDS
from optc.plugins import registry as registry_module
from optc.plugins.papers import contributions, papers
from optc.plugins.registry import Library, Plugin

CLIP = 'clip {name}(g):\n    """Half of it."""\n    return g / 2\n'


def folder(at: Path, **files: str) -> Path:
    """A library: `clip_half = text` is written to `clip/half.opt`."""
    for key, text in files.items():
        kind, _, name = key.partition("_")
        (at / kind).mkdir(parents=True, exist_ok=True)
        (at / kind / f"{name}.opt").write_text(text)
    return at


def plugin(name: str, *folders: Any, python: tuple[Any, ...] = ()) -> Plugin:
    return Plugin(name, module(name, *folders, python=python))


def module(name: str, *folders: Any, python: tuple[Any, ...] = ()) -> ModuleType:
    made = ModuleType(name)
    made.optc_libraries = hookimpl(_named("optc_libraries", lambda: folders))  # type: ignore[attr-defined]
    made.optc_primitives = hookimpl(_named("optc_primitives", lambda: python))  # type: ignore[attr-defined]
    return made


def _named(name: str, function: Any) -> Any:
    function.__name__ = name
    return function


def installed(monkeypatch: pytest.MonkeyPatch, **modules: Any) -> list[str]:
    """Pretend that packages are installed; the names of those that were imported."""
    imported: list[str] = []

    def load(name: str) -> Any:
        imported.append(name)
        if isinstance(modules[name], Exception):
            raise modules[name]
        return modules[name]

    points = [SimpleNamespace(name=n, load=lambda n=n: load(n)) for n in modules]
    monkeypatch.setattr(registry_module, "entry_points", lambda group: points)
    return imported


@pytest.fixture
def base(tmp_path: Path) -> Plugin:
    return plugin("optc", folder(tmp_path / "base", clip_own=CLIP.format(name="own")))


def test_a_primitive_is_found_by_its_path(base: Plugin) -> None:
    library = Library([base], strangers=False)
    found = library.find("clip", "own")
    assert found is not None and found.doc == "Half of it." and found.origin == "optc"
    assert library.find("smooth", "own") is None and library.find("clip", "other") is None
    assert list(library.names("clip")) == ["own"] and list(library.kinds_of("own")) == ["clip"]


def test_a_name_is_no_path(base: Plugin) -> None:
    library = Library([base], strangers=False)
    assert library.find("clip", "../clip/own") is None
    assert library.find("../base/clip", "own") is None


def test_nothing_is_read_before_its_use(base: Plugin, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[str] = []
    real = registry_module.parse
    monkeypatch.setattr(registry_module, "parse", lambda src: parsed.append(src.path) or real(src))
    library = Library([base], strangers=False)
    assert [list(library.names(k)) for k in KINDS] and library.kinds_of("own")
    assert parsed == []
    library.find("clip", "own")
    library.find("clip", "own")
    assert len(parsed) == 1


def test_other_packages_are_imported_for_what_is_not_built_in(
    base: Plugin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = folder(tmp_path / "theirs", clip_other=CLIP.format(name="other"))
    imported = installed(monkeypatch, stranger=module("stranger", theirs))
    library = Library([base])
    assert library.find("clip", "own") and library.kinds_of("own") and imported == []
    found = library.find("clip", "other")
    assert found is not None and found.origin == "stranger" and imported == ["stranger"]
    assert list(library.names("clip")) == ["other", "own"] and imported == ["stranger"]


def test_a_package_that_fails_takes_nothing_down(
    base: Plugin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = folder(tmp_path / "theirs", clip_other=CLIP.format(name="other"))
    installed(
        monkeypatch,
        broken=RuntimeError("not today"),
        lost=module("lost", tmp_path / "nowhere"),
        single=module("single", python=(len,)),
        stranger=module("stranger", theirs),
    )
    library = Library([base])
    assert list(library.names("clip")) == ["other", "own"]
    assert library.failures["broken"] == "RuntimeError: not today"
    assert "no folder" in library.failures["lost"]
    assert "@primitive" in library.failures["single"]
    assert set(library.failures) == {"broken", "lost", "single"}


def test_one_folder_for_many_is_said(tmp_path: Path) -> None:
    made = ModuleType("single")
    made.optc_libraries = hookimpl(_named("optc_libraries", lambda: str(tmp_path)))  # type: ignore[attr-defined]
    with pytest.raises(TypeError, match="a tuple of folders"):
        Plugin("single", made)


def test_two_packages_with_one_name_are_an_error(tmp_path: Path) -> None:
    text = CLIP.format(name="same")
    a = plugin("first", folder(tmp_path / "a", clip_same=text))
    b = plugin("second", folder(tmp_path / "b", clip_same=text))
    with pytest.raises(CompileError, match=r"E501.*clip `same`.* by first and second"):
        Library([plugin("optc"), a, b], strangers=False).find("clip", "same")


def test_a_name_twice_in_one_package_is_an_error(tmp_path: Path) -> None:
    theirs = folder(tmp_path / "a", clip_same=CLIP.format(name="same"))
    both = plugin("both", theirs, python=(Declaration("clip", "same", call=abs),))
    with pytest.raises(CompileError, match=r"E501.* by both and both"):
        Library([plugin("optc"), both], strangers=False).find("clip", "same")


def test_no_package_changes_what_is_built_in(
    base: Plugin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it is installed, or imported already, a built-in name means the same."""
    theirs = folder(tmp_path / "theirs", clip_own="clip own(g):\n    return 3 * g\n")
    installed(monkeypatch, twin=module("twin", theirs))
    library = Library([base])
    before = library.find("clip", "own")
    assert list(library.names("clip")) == ["own"]
    assert library.clashes == ["clip `own` is contributed twice, by optc and twin"]
    assert before is library.find("clip", "own") and before is not None and before.doc
    late = Library([base])
    late.names("clip")
    found = late.find("clip", "own")
    assert found is not None and found.tree == before.tree


@pytest.mark.parametrize(
    "text",
    [
        CLIP.format(name="other"),
        CLIP.format(name="own").replace("clip", "smooth"),
        CLIP.format(name="own") + "\n" + CLIP.format(name="more"),
        "",
    ],
    ids=["name", "kind", "two", "empty"],
)
def test_the_file_holds_what_its_path_says(tmp_path: Path, text: str) -> None:
    library = Library([plugin("optc", folder(tmp_path, clip_own=text))], strangers=False)
    with pytest.raises(CompileError, match=r"own\.opt:\d+:1: error\[E503\].*`clip own`"):
        library.find("clip", "own")


def test_an_error_in_a_library_points_there(tmp_path: Path) -> None:
    library = Library([plugin("optc", folder(tmp_path, clip_own="clip own(g:\n"))], strangers=False)
    with pytest.raises(CompileError, match=r"own\.opt:\d"):
        library.find("clip", "own")
    (tmp_path / "clip" / "bytes.opt").write_bytes(b"\xff\xfe")
    with pytest.raises(CompileError, match="no UTF-8"):
        library.find("clip", "bytes")


def test_finding_needs_no_torch() -> None:
    code = (
        "import sys; from optc.plugins.registry import library; "
        "assert library().find('precondition', 'adam'); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_every_paper_has_a_row() -> None:
    rows = papers()
    assert [row["id"] for row in rows] == list(range(1, 189))
    assert {row["status"] for row in rows} <= {"working", "partial", "missing"}


def test_a_paper_works_when_all_of_it_is_there(tmp_path: Path) -> None:
    rows = {row["id"]: row for row in papers((tmp_path,))}
    assert {row["status"] for row in rows.values()} == {"missing"}
    gam, flat = "perturb gam(grad, w):\n    paper 1\n", "regularize first_order_flatness(loss):\n"
    folder(tmp_path, perturb_gam=gam)
    assert papers((tmp_path,))[0]["status"] == "partial"
    folder(tmp_path, regularize_first_order_flatness=flat + '    paper 1, "arXiv:2303.03108"\n')
    assert papers((tmp_path,))[0]["status"] == "working"
    assert contributions((tmp_path,))[1] == {
        "gam": "perturb",
        "first_order_flatness": "regularize",
    }


def test_examples_count_for_their_paper(tmp_path: Path) -> None:
    rule = "rule matrix_sensing_gd(lr = 0.1):\n    paper 4\n    step lr\n"
    (tmp_path / "matrix_sensing_gd.opt").write_text(rule)
    row = papers((tmp_path,))[3]
    assert row["primitives"] == ["example matrix_sensing_gd"] and row["status"] == "partial"


def test_a_paper_in_a_docstring_is_no_claim(tmp_path: Path) -> None:
    folder(tmp_path, clip_own='clip own(g):\n    """As in\n    paper 1 of that year."""\n')
    assert contributions((tmp_path,)) == {}
