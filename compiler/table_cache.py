"""Where the grammar's table is kept between runs: it takes longer to build than a rule to read."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def table_file() -> str | None:
    """A file in a folder of ours that nobody else can write to; None where there is no such folder.

    The table is loaded by pickle, so a folder that others may write to would let them run code.
    """
    own = os.environ.get("OPTC_CACHE_DIR", "")
    shared = os.environ.get("XDG_CACHE_HOME", "") or os.path.join(
        os.environ.get("HOME", ""), ".cache"
    )
    folder = Path(own) if own else Path(shared, "optc")
    if not folder.is_absolute() or not hasattr(os, "geteuid"):
        return None
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat()
        path = folder / "grammar.table"
        safe = _ours(found, stat.S_ISDIR) and (
            not path.exists() or _ours(path.lstat(), stat.S_ISREG)
        )
        return str(path) if safe and os.access(folder, os.W_OK) else None
    except OSError:
        return None


def _ours(found: os.stat_result, is_kind) -> bool:  # type: ignore[no-untyped-def]
    mode = found.st_mode
    return bool(is_kind(mode)) and found.st_uid == os.geteuid() and not mode & 0o022
