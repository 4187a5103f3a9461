"""Points that the parameters do not hold, put under them while a loss is evaluated."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from .tensors import local

Params = dict[str, list[Tensor]]
Points = dict[str, list[Any] | None]
Answer = dict[str, list[Any]]


def is_swappable(p: Tensor) -> bool:
    """Whether the module reads this parameter through `p.data` and nothing else.

    Not so for sharded and other wrapped tensors, and for views of one flat buffer that the module
    may read instead: there the point is copied in place.
    """
    if type(p) not in (Tensor, torch.nn.Parameter):
        return False
    return p.untyped_storage().nbytes() == p.numel() * p.element_size()


def as_stored(point: Tensor, p: Tensor) -> Tensor:
    """A point in the form of what this process holds of a parameter."""
    point = local(point.detach() if point.requires_grad else point)
    if p.is_complex() and not point.is_complex():
        point = point.contiguous()
        # a part of a flat point may begin in the middle of a pair
        point = torch.view_as_complex(point.clone() if point.storage_offset() % 2 else point)
    return point


@contextmanager
def standing_at(params: Params, points: Points, in_place: bool | None = None) -> Iterator[None]:
    """Put points under the parameters; at the end they are back to the bit, whatever was raised."""
    swapped: list[tuple[Tensor, Tensor]] = []
    copied: list[tuple[Tensor, Tensor]] = []
    try:
        with torch.no_grad():
            for target, point in points.items():
                for p, x in zip(params[target], point or (), strict=point is not None):
                    if x is None or x is p:
                        continue
                    swap = is_swappable(p) if in_place is None else not in_place
                    if swap:
                        swapped.append((p, p.data))
                        p.data = as_stored(x, p)
                    else:
                        held = local(p.detach())
                        copied.append((held, held.clone()))
                        held.copy_(as_stored(x, p))
        with torch.set_grad_enabled(True):
            yield
    finally:
        with torch.no_grad():
            for p, data in swapped:
                p.data = data
            for held, old in copied:
                held.copy_(old)
