"""The cache of built libraries: shared by processes, closed to others, healed when harmed."""

from __future__ import annotations

import ctypes
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from optc.runtime import native

pytestmark = pytest.mark.skipif(native.compiler() is None, reason="no C compiler")
SOURCE = "int answer(void) { return 42; }\n"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own for each test, and no library in memory."""
    monkeypatch.setenv("OPTC_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(native, "_loaded", {})
    monkeypatch.setattr(native, "_coming", {})
    return tmp_path / "cache"


def libraries(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.so"))


def test_built_once_then_found(folder: Path):
    before = native.builds
    path = native.build(SOURCE)
    assert native.build(SOURCE) == path and native.builds == before + 1
    assert ctypes.CDLL(str(path)).answer() == 42
    assert native.load(SOURCE) is native.load(SOURCE)
    assert libraries(folder) == [path]


def test_built_ahead_while_the_caller_goes_on(folder: Path):
    before, others = native.builds, [f"int more(void) {{ return {k}; }}\n" for k in range(3)]
    native.build_ahead([SOURCE, *others, SOURCE])
    native.build_ahead(others)
    assert native.load(SOURCE).answer() == 42
    assert [native.load(x).more() for x in others] == [0, 1, 2]
    assert native.builds == before + 4 and not native._coming
    native.build_ahead([SOURCE])
    assert not native._coming


def test_what_fails_ahead_is_told_where_it_is_needed():
    wrong = "int f(void) { return nonsense; }"
    native.build_ahead([wrong])
    with pytest.raises(RuntimeError, match="refused generated code"):
        native.load(wrong)


def test_a_forked_process_waits_for_nobody(folder: Path):
    native.build_ahead([SOURCE])
    child = os.fork()
    if not child:
        os._exit(native.load(SOURCE).answer())
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 42
    assert native.load(SOURCE).answer() == 42


def test_a_thread_that_outlives_the_main_one_builds_by_itself():
    code = (
        "import threading, time\nfrom optc.runtime import native\n"
        "def work():\n    time.sleep(0.5)\n"
        f"    native.build_ahead([{SOURCE!r}])\n    print(native.load({SOURCE!r}).answer())\n"
        "threading.Thread(target=work).start()\n"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert done.stdout == "42\n", done.stderr


def test_only_the_owner_may_write(folder: Path):
    path = native.build(SOURCE)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert not stat.S_IMODE(path.stat().st_mode) & 0o022
    assert [p for p in folder.iterdir() if p.name.startswith("building")] == []


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.setattr(native, "FORMAT", -1),
        lambda m: m.setattr(native, "_identity", lambda *_: "another machine"),
    ],
    ids=["format", "machine or compiler"],
)
def test_the_key_holds_everything(change, monkeypatch: pytest.MonkeyPatch):
    path = native.build(SOURCE)
    change(monkeypatch)
    assert native.build(SOURCE).name.split("-")[0] != path.name.split("-")[0]


def test_flags_and_source_are_in_the_key(folder: Path):
    native.build(SOURCE)
    native.build(SOURCE, flags=(*native.FLAGS, "-DNOTHING"))
    native.build(SOURCE + "\n")
    assert len({path.name.split("-")[0] for path in libraries(folder)}) == 3


def test_the_target_is_resolved():
    """-march=native says nothing by itself; a home may be shared by different machines."""
    command = native.compiler()
    assert command is not None
    assert len(native._ask(command, ["-march=native"])) > len(native._ask(command, []))


def test_the_note_on_the_target_is_read_and_mistrusted(folder: Path):
    command = native.compiler()
    assert command is not None
    native.build(SOURCE)
    answer = native._identity.__wrapped__(command, native.FLAGS, folder)
    for note in folder.glob("target-*.txt"):
        note.write_text(note.read_text() + "harmed")
    assert native._identity.__wrapped__(command, native.FLAGS, folder) == answer


@pytest.mark.parametrize("harm", [b"", b"\x7fELF", None], ids=["empty", "cut", "one byte"])
def test_a_harmed_library_is_built_again(harm: bytes | None, folder: Path):
    path = native.build(SOURCE)
    data = path.read_bytes()
    path.write_bytes(harm if harm is not None else bytes([data[0] ^ 1]) + data[1:])
    before = native.builds
    again = native.build(SOURCE)
    assert native.builds == before + 1 and again.read_bytes() == data
    assert ctypes.CDLL(str(again)).answer() == 42


def test_a_library_that_others_may_write_is_not_loaded():
    path = native.build(SOURCE)
    path.chmod(0o777)
    before = native.builds
    assert native.build(SOURCE) == path and native.builds == before + 1
    assert not path.stat().st_mode & 0o022


def test_a_planted_link_is_not_loaded(tmp_path: Path):
    path = native.build(SOURCE)
    other = tmp_path / "elsewhere.so"
    path.rename(other)
    path.symlink_to(other)
    assert native.build(SOURCE) == path and not path.is_symlink()


def test_a_file_of_somebody_else_is_not_loaded(monkeypatch: pytest.MonkeyPatch):
    path = native.build(SOURCE)
    owner = path.lstat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    assert not native._intact(path)


def unsafe_folders(tmp_path: Path) -> dict[str, Path]:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "file").write_text("")
    return {name: tmp_path / name for name in ("open", "link", "file")}


@pytest.mark.parametrize("name", ["open", "link", "file"])
def test_an_unsafe_folder_is_not_used(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    unsafe = unsafe_folders(tmp_path)[name]
    monkeypatch.setenv("OPTC_CACHE_DIR", str(unsafe))
    used = native.cache()
    assert used not in (unsafe, tmp_path / "real")
    assert stat.S_IMODE(used.stat().st_mode) == 0o700
    assert ctypes.CDLL(str(native.build(SOURCE))).answer() == 42


def test_a_relative_folder_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPTC_CACHE_DIR", "here")
    assert native.cache().is_absolute() and not (tmp_path / "here").exists()


def test_somebody_elses_folder_is_not_used(folder: Path, monkeypatch: pytest.MonkeyPatch):
    folder.mkdir(mode=0o700)
    owner = folder.stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    assert native.cache() != folder


def test_the_users_cache_is_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("OPTC_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert native.cache() == tmp_path / "xdg" / "optc"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert native.cache() == tmp_path / ".cache" / "optc"


def test_six_processes_build_at_once(folder: Path):
    program = (
        "from optc.runtime import native\n"
        f"assert native.load({SOURCE!r}).answer() == 42\n"
        "print(native.builds)"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
        for _ in range(6)
    ]
    answers = [process.communicate(timeout=60)[0].strip() for process in running]
    assert [process.returncode for process in running] == [0] * 6
    assert set(answers) <= {"0", "1"} and "1" in answers
    assert len(libraries(folder)) == 1
    assert [p for p in folder.iterdir() if p.name.startswith("building")] == []


def test_a_refusal_shows_the_compilers_words(folder: Path):
    with pytest.raises(RuntimeError, match="nonsense"):
        native.build("int f(void) { return nonsense; }")
    assert libraries(folder) == []


def test_no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    assert native.compiler() is None
    with pytest.raises(RuntimeError, match="no C compiler"):
        native.build(SOURCE)


def test_cc_may_hold_a_wrapper_and_options(monkeypatch: pytest.MonkeyPatch):
    found = native.compiler()
    assert found is not None
    monkeypatch.setenv("CC", f"env {found[0]} -DX")
    command = native.compiler()
    assert command is not None and command[1:] == (found[0], "-DX")
    assert ctypes.CDLL(str(native.build(SOURCE))).answer() == 42
