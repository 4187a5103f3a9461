"""What a pure step may ask: a loss to differentiate, a gradient, or functions by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from .batches import of_the_text
from .layout import Layout
from .loop import Question, along, places


class Given:
    """The oracles of a functional step: a loss to differentiate, a gradient, or named functions."""

    level = "objective"

    def __init__(
        self, spec: Any, loss: Any, gradient: Any, oracles: dict[str, Any], layout: Layout
    ):
        self.spec, self.loss, self.oracles, self.layout = spec, loss, oracles, layout
        self.gradient = None if gradient is None else pytree.tree_flatten(gradient)[0]

    def _function(self, objective: str) -> Callable[..., Tensor]:
        found = self.oracles.get(objective, self.loss)
        if found is None:
            raise RuntimeError(
                f"the rule evaluates `{objective}`: pass loss=, or oracles={{{objective!r}: ...}}"
            )
        return found

    def _at(
        self, objective: str, points: Any, data: Any
    ) -> tuple[Callable[..., Tensor], dict[str, list[Tensor]]]:
        held = self.layout.targets()
        whole = {t: list(held[t]) if p is None else list(p) for t, p in points.items()}
        function = self._function(objective)

        def call(parts: dict[str, list[Tensor]]) -> Tensor:
            leaves: list[Any] = list(self.layout.params)
            for t, values in parts.items():
                for i, v in zip(self.layout.members[t], values, strict=True):
                    leaves[i] = v
            point = pytree.tree_unflatten(leaves, self.spec)
            return function(point) if data is None else function(point, data)

        return call, whole

    def evaluate(self, asked: Question) -> tuple[Any, dict[str, list[Any]]]:
        """The loss at a point, and its gradients, as functions that can be differentiated."""
        if self.gradient is not None and not asked.value and asked.held:
            return None, {
                t: [self.gradient[i] for i in self.layout.members[t]] for t in asked.gradients
            }
        call, at = self._at(asked.objective, asked.points, asked.data)
        if not asked.gradients:
            return call(at), {}
        wanted = {t: at[t] for t in asked.gradients}

        def of(chosen: dict[str, list[Tensor]]) -> tuple[Tensor, Tensor]:
            result = call({**at, **chosen})
            return result, result

        if self._axes(asked.objective):
            g = torch.func.jacrev(lambda c: of(c)[0])(wanted)
            return call(at) if asked.value else None, g
        g, loss = torch.func.grad(of, has_aux=True)(wanted)
        return loss, g

    def evaluate_many(self, asked: Question) -> tuple[Any, dict[str, list[Any]]]:
        """The same along an axis: of `data`, of the points named in `over`."""
        return along(asked, [self.evaluate(one) for one in places(asked)])

    def _axes(self, objective: str) -> int:
        return int(self.layout.program.objectives.get(objective, 0))

    def hvp(
        self, objective: str, points: Any, data: Any, wrt: str, of: str, vector: list[Tensor]
    ) -> list[Tensor]:
        call, at = self._at(objective, points, data)

        def product(chosen: list[Tensor]) -> Tensor:
            g = torch.func.grad(
                lambda o: call({**at, wrt: chosen, of: o} if of != wrt else {**at, of: o})
            )(chosen if of == wrt else at[of])
            return sum((a * b).sum() for a, b in zip(g, vector, strict=True))

        return torch.func.grad(product)(at[wrt])

    def jvp(self, objective: str, points: Any, data: Any, wrt: str, vector: list[Tensor]) -> Tensor:
        call, at = self._at(objective, points, data)
        return torch.func.jvp(lambda c: call({**at, wrt: c}), (at[wrt],), (list(vector),))[1]

    def vjp(
        self, objective: str, points: Any, data: Any, wrt: str, weights: Tensor
    ) -> list[Tensor]:
        call, at = self._at(objective, points, data)
        result, back, *_ = torch.func.vjp(lambda c: call({**at, wrt: c}), at[wrt])
        return back(weights.to(result.dtype))[0]

    def call(self, name: str, arguments: list[Any]) -> Any:
        if name not in self.oracles:
            raise RuntimeError(f"the rule calls `{name}`: pass oracles={{{name!r}: ...}}")
        return self.oracles[name](*arguments)

    def data(self, op: str, arguments: list[Any], attributes: dict[str, Any]) -> Any:
        if op in self.oracles:
            return self.oracles[op](*of_the_text(op, arguments, attributes))
        raise RuntimeError(f"the rule asks for data by `{op}`: pass oracles={{{op!r}: ...}}")

    def finish(self) -> None:
        """Nothing was changed."""
