"""Reading specs and writing results; `-` is standard input or output."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from ..compiler.source import Source
from .terminal import UsageError


def read_source(path: str) -> Source:
    """The text of a spec."""
    if path == "-":
        return Source("<stdin>", sys.stdin.read())
    try:
        return Source(path, Path(path).read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: this is no UTF-8 text (byte {error.start})") from error


def write_text(path: str, text: str) -> None:
    """Write all of the text or nothing: a reader sees the old file or the new one."""
    if path == "-":
        sys.stdout.write(text)
        return
    target = Path(path).resolve()
    if not target.parent.is_dir():
        raise UsageError(f"{path}: there is no such folder")
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as stream:
            stream.write(text)
        os.chmod(temporary, _mode(target))
        os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise


def _mode(target: Path) -> int:
    """The permissions that the file has, or that a new file would get."""
    if target.exists():
        return target.stat().st_mode & 0o777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask
