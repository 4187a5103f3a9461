"""Losses as pure functions of the parameters, which torch.func differentiates and maps."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from .batches import count
from .points import Answer, Params, Points, as_stored

Loss = Callable[[Any], Tensor]


class Pure:
    """What `torch.func` makes of losses that are computed with a model.

    Parameters are handed in by functional_call; running statistics are written into copies. A loss
    that reads a parameter past the model, from a list of its own say, would see the held one: it is
    refused, and evaluated with the point under the parameters.
    """

    def __init__(self, model: torch.nn.Module, params: Params):
        self.whole, self.params = _Whole(model), params

    def statistics(self) -> dict[str, Tensor]:
        """The running statistics that a forward pass would write."""
        return {
            f"{name}.{key}": buffer
            for name, m in self.whole.named_modules()
            if m.training and getattr(m, "track_running_stats", False)
            for key, buffer in m.named_buffers(recurse=False)
        }

    def function(self, targets: list[str], loss: Loss) -> Callable[..., Tensor]:
        """The loss as a function of the values of targets and of the batch."""
        self.whole.loss = loss
        names = self._names()
        keys = {t: [names[id(p)] for p in self.params[t]] for t in targets}
        past = Aside(p for t in targets for p in self.params[t])
        self.whole.aside = past

        def at(values: dict[str, list[Tensor]], data: Any, statistics: Any = None) -> Tensor:
            pairs = {k: v for t, vs in values.items() for k, v in zip(keys[t], vs, strict=True)}
            buffers = self.statistics() if statistics is None else statistics
            past.given = {id(v): k for k, v in pairs.items()}
            pairs.update({k: b.clone() for k, b in buffers.items()})
            return functional_call(self.whole, pairs, (data,))

        return at

    def forward(self, loss: Loss, data: Any, wrt: str, vector: list[Tensor], gradient: bool) -> Any:
        """Forward mode over the loss, or over its gradient."""
        at = self.function([wrt], loss)
        x = [p.detach() for p in self.params[wrt]]

        def of(values: list[Tensor]) -> Tensor:
            return at({wrt: values}, data)

        found = torch.func.jvp(torch.func.grad(of) if gradient else of, (x,), (vector,))[1]
        return self._used(found, wrt) if gradient else found

    def mapped(
        self,
        loss: Loss,
        points: Points,
        data: Any,
        *,
        each: bool,
        gradients: tuple[str, ...],
        over: tuple[str, ...],
        chunk: Callable[[list[Tensor], int], int],
        randomness: str,
    ) -> tuple[Tensor, Answer]:
        """Values and gradients along an axis: of the points in `over`, of a batch if `each`.

        `chunk` says how many places are computed at once, from the parameters and the places.
        """
        targets = [*dict.fromkeys((*gradients, *over))]
        at = self.function(targets, loss)
        leaves, spec = pytree.tree_flatten(data)
        cut = [each and isinstance(x, Tensor) and x.dim() > 0 for x in leaves]
        x = self._expanded(targets, points, over)
        along = {t: 0 if t in over else None for t in targets}

        def one(values: dict[str, list[Tensor]], rows: list[Any], stats: Any) -> Any:
            batch = [r[None] if c else r for r, c in zip(rows, cut, strict=True)]
            both = pytree.tree_unflatten(batch, spec)

            def of(chosen: dict[str, list[Tensor]]) -> tuple[Tensor, Tensor]:
                f = at({**values, **chosen}, both, stats)
                return f, f.detach()

            if not gradients:
                return {}, at(values, both, stats)
            return torch.func.grad(of, has_aux=True)({t: values[t] for t in gradients})

        n = count(data) if each else len(x[over[0]][0])
        stats = {k: b.expand(n, *b.shape) for k, b in self.statistics().items()}
        g, f = torch.vmap(
            one,
            in_dims=(along, [0 if c else None for c in cut], dict.fromkeys(stats, 0)),
            randomness=randomness,
            chunk_size=chunk([p for t in targets for p in self.params[t]], n),
        )(x, leaves, stats)
        asked = {t: self._used(g[t], t) for t in gradients}
        return f.detach(), asked

    def _names(self) -> dict[int, str]:
        return {id(p): n for n, p in self.whole.named_parameters()}

    def _used(self, gradients: list[Tensor], target: str) -> list[Any]:
        """Gradients, where a parameter has one: what the loss never read has zeros here."""
        read = self.whole.aside.read
        names = self._names()
        return [
            g.detach() if p.requires_grad and (names[id(p)] in read or bool(g.any())) else None
            for g, p in zip(gradients, self.params[target], strict=True)
        ]

    def _expanded(
        self, targets: list[str], points: Points, over: tuple[str, ...]
    ) -> dict[str, list[Tensor]]:
        """The parameters of targets; the points along the axis for those in `over`."""
        x = {t: [p.detach() for p in self.params[t]] for t in targets}
        for t in over:
            given = points[t] or []
            n = next(len(a) for a in given if a is not None)
            x[t] = [
                p.expand(n, *p.shape) if a is None else as_stored(a, p)
                for a, p in zip(given, x[t], strict=True)
            ]
        return x


class _Whole(torch.nn.Module):
    """A model and what is computed with it, as one module: functional_call reaches both."""

    def __init__(self, model: torch.nn.Module):
        super().__init__()
        self.model = model
        self.loss: Any = None
        self.aside: Any = None

    def forward(self, data: Any) -> Any:
        with self.aside:
            return self.loss(data)


class Aside(TorchFunctionMode):
    """Refuses what computes with these tensors themselves, and notes what stands for them."""

    def __init__(self, tensors: Iterable[Tensor]):
        super().__init__()
        self.known = {id(x) for x in tensors}
        self.given: dict[int, str] = {}
        self.read: set[str] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor | tuple | list) and not isinstance(result, torch.Size):
            ids = {id(x) for x in pytree.tree_leaves((args, kwargs))}
            if ids & self.known:
                raise RuntimeError("the loss reads a parameter past the model")
            self.read |= {self.given[i] for i in ids & self.given.keys()}
        return result
