"""Derivatives of losses: through the graph that autograd kept, or by differences of gradients."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .loop import Loop, Question
from .points import Points
from .tensors import local


def each_gradient(f: Tensor, params: Sequence[Tensor], size: int) -> list[Any]:
    """The gradient of each of several losses, `size` of them at once."""
    parts = [
        torch.autograd.grad(f, params, rows, True, allow_unused=True, is_grads_batched=True)
        for rows in _units(f).split(size)
    ]
    return [
        None if gs[0] is None else torch.cat(gs).reshape(*f.shape, *gs[0].shape[1:])
        for gs in zip(*parts, strict=True)
    ]


def each_gradient_singly(f: Tensor, params: Sequence[Tensor]) -> list[Any]:
    """The same, one by one."""
    parts = [torch.autograd.grad(f, params, row, True, allow_unused=True) for row in _units(f)]
    return [
        None if gs[0] is None else torch.stack(gs).reshape(*f.shape, *gs[0].shape)
        for gs in zip(*parts, strict=True)
    ]


def _units(f: Tensor) -> Tensor:
    return torch.eye(f.numel(), dtype=f.dtype, device=f.device).reshape(-1, *f.shape)


def hooked_gradient(f: Tensor, params: Sequence[Tensor], every: Iterable[Tensor]) -> list[Any]:
    """Sharded parameters get their gradients from hooks of a real backward pass only.

    `every` are all whose `.grad` that pass writes; it is as before afterwards.
    """
    before = [(p, p.grad) for p in every]
    try:
        for p, _ in before:
            p.grad = None
        f.backward()
        return [p.grad for p in params]
    finally:
        for p, g in before:
            p.grad = g


@dataclass(frozen=True)
class Place:
    """What an evaluation depends on, told apart by being the same objects, not written since."""

    objective: str
    points: Points
    data: Any
    versions: list[int]

    def same(self, other: Place) -> bool:
        """Whether an evaluation at both is one."""
        named = self.objective == other.objective and self.versions == other.versions
        return named and self.data is other.data and _objects(self) == _objects(other)


def _objects(place: Place) -> list[tuple[str, list[int] | None]]:
    """The points by identity; a place keeps its tensors, so that no other one is taken for them."""
    return [(t, None if p is None else [*map(id, p)]) for t, p in place.points.items()]


@dataclass
class Graph:
    """A loss at a place, and the graph of its gradients as far as they were asked for."""

    loss: Tensor
    place: Place
    gradients: dict[int, Tensor | None] = field(default_factory=dict)
    """By the parameter's id; None where the loss does not use it."""

    def gradient(self, params: Sequence[Tensor]) -> list[Tensor | None]:
        """The gradient by parameters that are trained, still in the graph."""
        new = [p for p in params if id(p) not in self.gradients]
        self.gradients |= zip(map(id, new), _grad(self.loss, new, again=True), strict=True)
        return [self.gradients[id(p)] for p in params]


def reverse_over_reverse(
    graph: Graph,
    of: Sequence[Tensor],
    vector: Sequence[Tensor],
    wrt: Sequence[Tensor],
    again: bool = False,
) -> list[Any]:
    """The derivative by `wrt` of the product of the gradient by `of` with a vector.

    The graph is freed unless it serves `again`.
    """
    inner = [(p, a) for p, a in zip(of, vector, strict=True) if p.requires_grad]
    first = graph.gradient([p for p, _ in inner])
    there = [(g, p, a) for g, (p, a) in zip(first, inner, strict=True) if g is not None]
    used = {id(p) for _, p, _ in there}
    outer = [p for p in wrt if p.requires_grad]
    second: Any = [None] * len(outer)
    if curved := [(g, a) for g, _, a in there if g.requires_grad]:
        second = _grad([g for g, _ in curved], outer, [a for _, a in curved], keep=again)
    # Where the gradient is there, but constant, its derivative is zero and not absent.
    full = {
        id(p): torch.zeros_like(p) if h is None and (wrt is not of or id(p) in used) else h
        for p, h in zip(outer, second, strict=True)
    }
    return [full.get(id(p)) for p in wrt]


def _grad(
    f: Tensor | Sequence[Tensor],
    params: Sequence[Tensor],
    weights: Tensor | Sequence[Tensor] | None = None,
    again: bool = False,
    keep: bool = False,
) -> Sequence[Any]:
    """torch.autograd.grad, of no parameters too; None where one is not used."""
    if not params:
        return ()
    return torch.autograd.grad(
        f, params, weights, retain_graph=again or keep, create_graph=again, allow_unused=True
    )


def along(f: Tensor, params: Sequence[Tensor], vector: Sequence[Tensor]) -> Tensor:
    """The derivative along a vector, as the transpose of the transpose."""
    u = torch.zeros_like(f, requires_grad=True)
    live = [(p, a) for p, a in zip(params, vector, strict=True) if p.requires_grad]
    g = _grad(f, [p for p, _ in live], u, again=True)
    there = [(a, b) for a, (_, b) in zip(g, live, strict=True) if a is not None]
    if not there:
        return torch.zeros_like(f)
    return torch.autograd.grad([a for a, _ in there], u, [b for _, b in there])[0]


def weighted(f: Tensor, params: Sequence[Tensor], weights: Tensor) -> list[Any]:
    """The gradient of several values, each times its weight."""
    live = [p for p in params if p.requires_grad]
    g = _grad(f, live, weights.to(f).reshape(f.shape))
    found = dict(zip(map(id, live), g, strict=True))
    return [found.get(id(p)) for p in params]


def once_only(params: Iterable[Tensor], complex: bool = True) -> None:
    """Refuse what has only gradients."""
    for p in params:
        if type(p) not in (Tensor, torch.nn.Parameter):
            raise RuntimeError("sharded parameters give gradients, and no other derivatives")
        if p.is_complex() and not complex:
            raise RuntimeError("differences of gradients are not offered for complex parameters")


def finite_hvp(
    loop: Loop, objective: str, points: Points, data: Any, wrt: str, of: str, vector: list[Any]
) -> list[Any]:
    """(g(x + h v) - g(x - h v)) / 2h with h = eps^(1/3) max(1, |x|) / |v|; error O(h^2 |v|^3).

    eps is that of the parameters' type (of float32 for narrower ones).
    """
    once_only(loop.params[of], complex=False)
    base = points[of]
    x = [p.detach() for p in loop.params[of]] if base is None else base
    v = [torch.zeros_like(a) if b is None else b for a, b in zip(x, vector, strict=True)]
    size, length = _norm(x), _norm(v)
    eps = max(torch.finfo(a.dtype).eps if a.element_size() > 2 else 1.2e-7 for a in x)
    h = eps ** (1 / 3) * max(1.0, size) / (length or 1.0)
    sides = []
    for sign in (1.0, -1.0):
        there = [a + (sign * h) * b for a, b in zip(x, v, strict=True)]
        asked = Question(objective, {**points, of: there}, data, gradients=(wrt,))
        _, g = loop.evaluate(asked)
        sides.append([None if a is None else a.clone() for a in g[wrt]])
    return [
        None if a is None or b is None else (a - b) / (2 * h) for a, b in zip(*sides, strict=True)
    ]


def _norm(tensors: list[Tensor]) -> float:
    parts = [torch.linalg.vector_norm(local(t), dtype=torch.float64) for t in tensors]
    return float(torch.stack(parts).norm()) if parts else 0.0
