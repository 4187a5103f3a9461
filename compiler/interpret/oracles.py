"""What a training loop offers to the interpreter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch

from ..types import Axis

Points = dict[str, list[torch.Tensor]]


class Oracles(Protocol):
    """What a training loop supplies, one point and one batch at a time; results are float64."""

    def value(self, objective: str, points: Points, data: Any) -> torch.Tensor: ...

    def gradient(self, objective: str, points: Points, data: Any, wrt: str) -> list[Any]: ...

    def hvp(
        self, objective: str, points: Points, data: Any, wrt: str, of: str, v: list[Any]
    ) -> list[Any]: ...

    def jvp(
        self, objective: str, points: Points, data: Any, wrt: str, v: list[Any]
    ) -> torch.Tensor: ...

    def vjp(
        self, objective: str, points: Points, data: Any, wrt: str, u: torch.Tensor
    ) -> list[Any]: ...

    def call(self, name: str, arguments: list[Any]) -> Any: ...

    def data(self, op: str, arguments: list[Any], attributes: dict[str, Any]) -> Any: ...


@dataclass
class Mapped:
    """Data with axes: one batch for each place."""

    axes: tuple[Axis, ...]
    items: list[Any]
