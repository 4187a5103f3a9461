"""Patterns of a rule that match no parameter: whoever mistypes one trains nothing of that part."""

from __future__ import annotations

import difflib
import fnmatch
import warnings
from collections.abc import Iterator

from .layout import Layout

SHOWN = 3
"""How many of the names that there are a warning shows."""


def warn(layout: Layout) -> None:
    """One warning for all parts and targets that have no tensor because of their patterns.

    Where tensors match and something else leaves them out (`ndim == 2`, an earlier part), and
    under a `not`, an empty part is what the rule says.
    """
    found = list(_unmatched(layout))
    if found:
        warnings.warn("\n".join(found), stacklevel=2)


def _unmatched(layout: Layout) -> Iterator[str]:
    texts = {"name": layout.names, "module": layout.modules}
    for name, domain in layout.program.domains.items():
        if layout.members[name]:
            continue
        for what, patterns, place in domain.asked:
            known = dict.fromkeys(texts[what])
            if known and not any(fnmatch.fnmatchcase(k, p) for k in known for p in patterns):
                call = "named" if what == "name" else what
                shown = ", ".join(f'"{p}"' for p in patterns)
                near = ", ".join(difflib.get_close_matches(patterns[0], known, SHOWN, 0))
                yield (
                    f"{place}: {call}({shown}) matches no parameter, so nothing is trained there; "
                    f"{what}s that there are: {near}{', ..' * (len(known) > SHOWN)}"
                )
