"""Builds C text into a library and keeps it on disk under a name made of its content."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import stat
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from importlib import resources
from pathlib import Path

FORMAT = 1
FLAGS = (
    *("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off"),
    *("-fPIC", "-shared", "-pthread", "-std=c11"),
)

builds = 0
"""Compiler runs of this process; a test reads it."""

_counting = threading.Lock()
_loaded: dict[tuple[str, tuple[str, ...], type], ctypes.CDLL] = {}
_coming: dict[str, Future[Path]] = {}
"""What is built ahead, by its source."""


def _in_a_child() -> None:
    """A forked process has not the threads that build."""
    global _counting
    _counting = threading.Lock()
    _coming.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_a_child)


def text(name: str) -> str:
    """The C file `name` of this package."""
    return (resources.files(__package__) / name).read_text(encoding="utf-8")


def header() -> str:
    """What stands before an emitted phase: its arguments and what it computes with."""
    return "".join(map(text, ("args.h", "math.h", "formats.h", "random.h")))


def compiler() -> tuple[str, ...] | None:
    """The command of the C compiler, or None."""
    return _compiler(os.environ.get("CC", ""), os.environ.get("PATH", ""))


@functools.cache
def _compiler(cc: str, path: str) -> tuple[str, ...] | None:
    if os.name == "nt":
        return None
    for command in ([*shlex.split(cc)], ["cc"], ["gcc"], ["clang"]):
        if command and (found := shutil.which(command[0], path=path)):
            return (found, *command[1:])
    return None


def load(
    source: str,
    *,
    flags: tuple[str, ...] = FLAGS,
    kind: type[ctypes.CDLL] = ctypes.CDLL,
) -> ctypes.CDLL:
    """The library of `source`; `kind` is ctypes.PyDLL where the C code calls Python."""
    key = (source, flags, kind)
    if key not in _loaded:
        if (coming := _coming.pop(source, None)) is not None:
            coming.exception()  # waits; what went wrong is told by the build that is asked for
        _loaded[key] = kind(str(build(source, flags=flags)))
    return _loaded[key]


def build_ahead(sources: Sequence[str]) -> None:
    """Begin to build what will be loaded, in this order, while the caller goes on.

    Half of the cores build: the others have the step that is going on.
    """
    loaded = {source for source, _, _ in list(_loaded)}
    new = [s for s in dict.fromkeys(sources) if s not in loaded and s not in _coming]
    if not new:
        return
    pool = ThreadPoolExecutor(max(1, (os.cpu_count() or 1) // 2))
    with contextlib.suppress(RuntimeError):  # no threads where the interpreter shuts down
        for source in new:
            _coming[source] = pool.submit(build, source)
    pool.shutdown(wait=False)


def build(source: str, *, flags: tuple[str, ...] = FLAGS) -> Path:
    """The path of the built library, from the cache where it is there and unharmed."""
    command = compiler()
    if command is None:
        raise RuntimeError("no C compiler: set CC, or install cc, gcc or clang")
    folder = cache()
    parts = (str(FORMAT), *command, _identity(command, flags, folder), *flags, source)
    key = _digest("\0".join(parts).encode())[:32]
    for path in sorted(folder.glob(f"{key}-*.so")):
        if _intact(path):
            return path
        path.unlink(missing_ok=True)
    return _compile(command, flags, source, folder, key)


def _compile(
    command: tuple[str, ...], flags: tuple[str, ...], source: str, folder: Path, key: str
) -> Path:
    """The name holds the hash of the library: the loader keeps a name's first content for good."""
    global builds
    with _counting:
        builds += 1
    handle, name = tempfile.mkstemp(prefix="building-", dir=folder)
    os.close(handle)
    try:
        done = subprocess.run(
            [*command, *flags, "-x", "c", "-", "-o", name, "-lm"],
            input=source,
            capture_output=True,
            text=True,
        )
        if done.returncode != 0:
            raise RuntimeError(f"{shlex.join(command)} refused generated code:\n{done.stderr}")
        os.chmod(name, 0o700)
        path = folder / f"{key}-{_digest(Path(name).read_bytes())[:32]}.so"
        os.replace(name, path)
        return path
    finally:
        Path(name).unlink(missing_ok=True)


def _write(path: Path, data: bytes) -> None:
    """A whole file or none."""
    handle, name = tempfile.mkstemp(prefix="building-", dir=path.parent)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
    os.replace(name, path)


def cache() -> Path:
    """A folder that nobody else can write to."""
    return _cache(
        os.environ.get("OPTC_CACHE_DIR", ""),
        os.environ.get("XDG_CACHE_HOME", ""),
        os.environ.get("HOME", ""),
    )


def _cache(own: str, shared: str, home: str) -> Path:
    """A relative path is not used: it would load code out of whatever folder we happen to be in."""
    wanted = Path(own) if own else Path(shared or os.path.join(home, ".cache"), "optc")
    try:
        if not wanted.is_absolute():
            return _private()
        wanted.mkdir(mode=0o700, parents=True, exist_ok=True)
        if _ours(wanted, stat.S_ISDIR) and os.access(wanted, os.W_OK | os.X_OK):
            return wanted
    except OSError:
        pass
    return _private()


@functools.cache
def _private() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="optc-"))
    owner = os.getpid()

    def remove() -> None:
        if os.getpid() == owner:
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    return folder


def _ours(path: Path, is_kind) -> bool:
    """Whether we own it, nobody else may write it, and it is no link."""
    found = path.lstat()
    mode = found.st_mode
    return is_kind(mode) and found.st_uid == os.geteuid() and not mode & 0o022


def _intact(path: Path) -> bool:
    """The hash in the name catches truncation, the owner a planted file."""
    try:
        if not _ours(path, stat.S_ISREG):
            return False
        return path.stem.endswith(_digest(path.read_bytes())[:32])
    except OSError:
        return False


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@functools.cache
def _identity(command: tuple[str, ...], flags: tuple[str, ...], folder: Path) -> str:
    """What compiles, and for which machine: a shared home serves different ones.

    The compiler's answers are kept on disk under what they depend on: two runs of it take 10 ms.
    """
    machine = [flag for flag in flags if flag.startswith(("-march", "-mcpu", "-mtune"))]
    try:
        found = os.stat(command[0])
        cpu = Path("/proc/cpuinfo").read_text()
        cpu = "\n".join(line for line in cpu.splitlines() if "MHz" not in line)
        facts = (*command, *machine, found.st_mtime_ns, found.st_size, _digest(cpu.encode()))
    except OSError:
        return _ask(command, machine)
    note = folder / f"target-{_digest(repr(facts).encode())[:32]}.txt"
    try:
        if _ours(note, stat.S_ISREG):
            digest, _, answer = note.read_text().partition("\n")
            if digest == _digest(answer.encode()):
                return answer
    except (OSError, UnicodeDecodeError):
        pass
    answer = _ask(command, machine)
    _write(note, f"{_digest(answer.encode())}\n{answer}".encode())
    return answer


def _ask(command: tuple[str, ...], machine: list[str]) -> str:
    """Version and resolved target options; gcc knows the first way to ask, clang the second."""
    answers = [_output(command, "--version")]
    if machine:
        resolved = _output(command, *machine, "-Q", "--help=target")
        answers.append(resolved or _output(command, *machine, "-E", "-###", "-x", "c", os.devnull))
    return "\n".join([platform.machine(), *answers])


def _output(command: tuple[str, ...], *arguments: str) -> str:
    """What the compiler says; empty where it does not know the question."""
    done = subprocess.run(
        [*command, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env={**os.environ, "LC_ALL": "C"},
    )
    return done.stdout + done.stderr if done.returncode == 0 else ""
