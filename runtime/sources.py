"""Where `draw()` takes batches from: functions, loaders, tensors whose rows are drawn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree

from .batches import choose, count, each, index, joined, of_the_text, rows, split, subset
from .inspection import takes_argument

OPERATIONS = ("draw", "each", "index", "split", "subset")
"""What makes a batch."""


class Sources:
    """Sources by name, and how far each loader is read; the one without a name is draw()'s own."""

    def __init__(self, sources: Mapping[str, Any]):
        self.sources = dict(sources)
        self.streams: dict[str, Any] = {}

    def made(self, op: str, arguments: list[Any], attributes: dict[str, Any], turn: int) -> Any:
        """A batch drawn, or made of another one: an operation of `OPERATIONS`.

        `draw` and `subset` take the rows that step, stream and turns of loops say: all ranks the
        same. The first argument of `draw` is its size if `sized` is set.
        """
        if op == "each":
            return each(arguments[0])
        if op == "split":
            return split(arguments[0], int(arguments[1]))
        if op == "index":
            return index(arguments[0])
        turns = (int(x) for x in arguments[len(of_the_text(op, arguments, attributes)) :])
        numbers = (turn, int(attributes.get("stream", 0)), *turns)
        if op == "subset":
            return subset(arguments[0], float(arguments[1]), numbers)
        size = int(arguments[0]) if attributes.get("sized") else None
        return self.draw(str(attributes.get("source", "")), size, numbers)

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
