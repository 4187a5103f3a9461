"""Batches: pytrees whose tensors have the examples first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree


class Pieces(list[Any]):
    """Batches along an axis; `whole` is the batch whose examples they are, one each."""

    def __init__(self, batches: Iterable[Any], whole: Any = None):
        super().__init__(batches)
        self.whole = whole

    @property
    def items(self) -> list[Any]:
        return self


def count(batch: Any) -> int:
    """The number of examples."""
    sizes = {len(x) for x in pytree.tree_leaves(batch) if isinstance(x, Tensor) and x.dim()}
    if len(sizes) != 1:
        found = f"sizes {sorted(sizes)}" if sizes else "no tensor with an axis"
        raise ValueError(
            f"the first size of a batch's tensors is its number of examples; this one has {found}"
        )
    return sizes.pop()


def rows(batch: Any, which: Any) -> Any:
    """Some examples of a batch: a slice, or a tensor of places."""

    def take(x: Any) -> Any:
        if not isinstance(x, Tensor) or not x.dim():
            return x
        return x[which.to(x.device) if isinstance(which, Tensor) else which]

    return pytree.tree_map(take, batch)


def each(batch: Any) -> Pieces:
    """Every example as a batch of one."""
    return Pieces((rows(batch, slice(i, i + 1)) for i in range(count(batch))), batch)


def split(batch: Any, k: int) -> Pieces:
    """k batches of neighbours; the first are larger by one where k does not divide."""
    n = count(batch)
    if not 1 <= k <= n:
        raise ValueError(f"{n} examples cannot be split into {k} batches")
    ends = [n // k * i + min(i, n % k) for i in range(k + 1)]
    return Pieces(rows(batch, slice(a, b)) for a, b in zip(ends, ends[1:], strict=False))


def choose(n: int, size: int, numbers: tuple[int, ...]) -> Tensor:
    """Different places, the same wherever and whenever the numbers are."""
    seed = 0
    for x in numbers:
        seed = (seed * 1_000_003 + x + 1) % (1 << 63)
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))[:size]


def subset(batch: Any, fraction: float, numbers: tuple[int, ...]) -> Any:
    """A part of the examples, at least one, drawn without replacement."""
    n = count(batch)
    return rows(batch, choose(n, max(1, round(fraction * n)), numbers))


def index(batch: Any) -> Any:
    """The places of the examples in their data set."""
    if isinstance(batch, Mapping) and "index" in batch:
        return batch["index"]
    raise RuntimeError(
        "index(batch) needs batch['index'], or bind(..., index=function of the batch)"
    )


def joined(a: Any, b: Any) -> Any:
    """The examples of two batches."""
    return pytree.tree_map(
        lambda x, y: torch.cat([x, y]) if isinstance(x, Tensor) and x.dim() else x, a, b
    )


def of_the_text(op: str, arguments: list[Any], attributes: dict[str, Any]) -> list[Any]:
    """What the text gives to a function of data; behind it stand the turns of the loops around."""
    count = {"subset": 2, "draw": int(bool(attributes.get("sized")))}.get(op)
    return arguments[:count]
