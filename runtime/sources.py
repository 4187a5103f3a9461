"""Where `draw()` takes batches from: functions, loaders, tensors whose rows are drawn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree

from .batches import choose, count, joined, rows
from .inspection import takes_argument


class Sources:
    """Sources by name, and how far each loader is read; the one without a name is draw()'s own."""

    def __init__(self, sources: Mapping[str, Any]):
        self.sources = dict(sources)
        self.streams: dict[str, Any] = {}

    def draw(self, name: str, size: int | None, numbers: tuple[int, ...]) -> Any:
        """A batch of a source; the numbers say which rows of tensors."""
        source = self.sources.get(name)
        if source is None:
            given = f"sources={{{name!r}: loader}}" if name else "draw=loader"
            raise RuntimeError(f"the rule draws batches: pass optimizer.bind(..., {given})")
        if callable(source):
            return source(size) if takes_argument(source) else source()
        if isinstance(source, Tensor) or (
            isinstance(source, tuple | dict)
            and all(isinstance(x, Tensor) for x in pytree.tree_leaves(source))
        ):
            n = count(source)
            return rows(source, choose(n, min(n, size or n), numbers))
        found = self._next(name, source)
        while size is not None and count(found) < size:
            found = joined(found, self._next(name, source))
        return found if size is None else rows(found, slice(0, size))

    def _next(self, name: str, source: Iterable[Any]) -> Any:
        for _ in range(2):
            if name not in self.streams:
                self.streams[name] = iter(source)
            for batch in self.streams[name]:
                return batch
            del self.streams[name]
        raise RuntimeError(f"the source {name or 'of draw()'} has no batches")
