"""A bound objective: losses as functions of a batch, evaluated and differentiated at any point.

The function only runs the model forward; optc puts points under the parameters and calls
torch.autograd.grad, so `.grad` stays as it is. Ranks of a data-parallel model each differentiate
their own part, and what is linear in the loss is averaged after.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from functools import cached_property, partial
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from .batches import Pieces, of_the_text
from .derivatives import (
    Graph,
    Place,
    along,
    each_gradient,
    each_gradient_singly,
    finite_hvp,
    hooked_gradient,
    once_only,
    reverse_over_reverse,
    weighted,
)
from .isolation import Isolation
from .loop import Loop, Question
from .losses import Function, Losses, refuse_unused
from .points import Answer, Params, Points, as_stored
from .pure import Pure
from .scaler import report, unscale
from .sources import OPERATIONS, Sources


class Objective(Loop):
    """`optimizer.bind(model=model, objective=fn)`: everything that a rule may ask.

    objective   fn(batch) -> scalar, one number a loss, or a dict of named losses; a dict of
                functions where a rule has several. Called without an argument if it takes none.
    named       further objectives and functions of the rule: outputs=, residual=, criterion=, ...
    oracles     functions that the rule declares as `oracle` or `extern`, by name.
    draw        where draw() takes batches from: a function (of the size, if it takes one), a
                loader, or tensors whose rows are drawn; `sources` are those with a name.
    curvature   how Hessian-vector products are made: `reverse` over reverse, `forward` over
                reverse, or `finite` differences of gradients.
    memory      bytes that the gradients of one chunk of examples may take.
    promises    seed=, stats=, sync=, in_place=: see `isolation.Isolation`.

    A gradient and the Hessian-vector products at its point share one call of the objective.
    Of several losses each has the gradient zero by a tensor that it does not use; where there is
    one loss, such a tensor has none, and the rule passes it over.
    """

    level = "objective"

    def __init__(
        self,
        params: Params,
        model: torch.nn.Module | None = None,
        objective: Function | Mapping[str, Function] | None = None,
        *,
        objectives: Mapping[str, Function] | None = None,
        oracles: Mapping[str, Function] | None = None,
        draw: Any = None,
        sources: Mapping[str, Any] | None = None,
        modules: Iterable[torch.nn.Module] = (),
        scaler: Any = None,
        curvature: Literal["reverse", "forward", "finite"] = "reverse",
        memory: int = 1 << 28,
        seed: Literal["same", "fresh"] = "same",
        stats: Literal["held", "first", "none"] = "held",
        sync: Literal["all", "perturbed"] = "all",
        in_place: bool | None = None,
        **named: Function,
    ):
        super().__init__(params)
        if curvature not in ("reverse", "forward", "finite"):
            raise ValueError(f"Invalid curvature: {curvature!r}; one of reverse, forward, finite")
        self.model = model
        several = objective if isinstance(objective, Mapping) else {}
        alone = None if isinstance(objective, Mapping) else objective
        self.losses = Losses(alone, {**named, **several, **(objectives or {})})
        self.oracles = {**named, **(oracles or {})}
        self.sources = Sources({"": draw, **(sources or {})})
        self.scaler, self.curvature, self.memory = scaler, curvature, memory
        self.modules = tuple(modules)
        self.promises: dict[str, Any] = dict(seed=seed, stats=stats, sync=sync, in_place=in_place)
        self.isolation = self._isolation()
        self.sharded = any(type(p) not in (Tensor, torch.nn.Parameter) for p in self._all())
        self.several = False
        self.turn, self.begun, self.works = 0, False, dict[str, bool]()
        self.graph: Graph | None = None

    def _all(self) -> list[Tensor]:
        return [p for ps in self.params.values() for p in ps]

    def for_closure(self) -> dict[str, Any]:
        """The options of `Closure` when the user binds a model and passes a closure.

        Where no model was bound, the closure names its own.
        """
        kind = "finite" if self.curvature == "finite" else "exact"
        found = {"scaler": self.scaler, "curvature": kind}
        if self.model is None and not self.modules:
            return found | self.promises
        return found | {"isolation": self.isolation}

    def rebound(
        self, objective: Function | Mapping[str, Function], losses: Iterable[str] = ()
    ) -> Objective:
        """The same with another objective, for `step(objective=fn)` of a rule with these losses."""
        self.losses.bind(objective, losses)
        if self.model is None:
            self.isolation = self._isolation()
        return self

    def _isolation(self) -> Isolation:
        """Around the evaluations of the model, or else of the modules that the losses reach."""
        within = [self.model] if self.model is not None else self.losses.modules()
        return Isolation(self.params, [*within, *self.modules], **self.promises)

    def _begin(self) -> None:
        if not self.begun:
            self.begun, self.first_value, self.found_inf, self.graph = True, None, None, None

    # Values and gradients -----------------------------------------------------------------

    def evaluate(self, asked: Question) -> tuple[Any, Answer]:
        """The loss at a point, and its gradients: element[axes of the loss] where it has axes."""
        self._begin()
        name, wanted = asked.objective, [p for t in asked.gradients for p in self.params[t]]
        again = bool(asked.gradients) and self._shares()
        # The fused attention kernels have no second derivative.
        kernels = sdpa_kernel(SDPBackend.MATH) if again else nullcontext()
        with self.isolation.evaluation(asked.points, quiet=not self.sharded), kernels:
            f = self.losses.answer(name, asked.data)
            if again and not f.dim():
                self.graph = Graph(f, self._place(name, asked.points, asked.data))
            found = self._gradients(name, f, wanted) if asked.gradients else []
        f = f.detach()
        if not (self.isolation.alone(asked.held) or self.sharded):
            found = self.isolation.ranks.mean(found, wanted)
        if self.first_value is None:
            self.first_value = f
        rest = iter(found)
        answer = {t: [next(rest) for _ in self.params[t]] for t in asked.gradients}
        return self.isolation.ranks.of_all(f, self._all()) if asked.value else None, answer

    def _gradients(self, name: str, f: Tensor, params: list[Tensor]) -> list[Any]:
        live = [p for p in params if p.requires_grad]
        if not live:
            return [None] * len(params)
        refuse_unused(name, f, live)
        scale = self._scale()
        f = f if scale is None else f * scale.to(f.dtype)
        if self.sharded:
            found = self._hooked(name, f, live)
        elif self.graph is not None and self.graph.loss is f:
            found = [None if g is None else g.detach() for g in self.graph.gradient(live)]
            if self.isolation.ranks.several:  # which take their mean in place
                found = [None if g is None else g.clone() for g in found]
        elif f.dim() == 0:
            found = list(torch.autograd.grad(f, live, allow_unused=True))
        else:
            found = self._each(f, live)
        if scale is not None:
            if self.found_inf is None:
                self.found_inf = torch.zeros((), dtype=torch.float32, device=scale.device)
            unscale(found, scale, self.found_inf)
        if self.several:
            found = [
                p.new_zeros((*f.shape, *p.shape)) if g is None else g
                for g, p in zip(found, live, strict=True)
            ]
        rest = iter(found)
        return [next(rest) if p.requires_grad else None for p in params]

    def _scale(self) -> Tensor | None:
        if self.scaler is None or not self.scaler.is_enabled():
            return None
        self.scaler.scale(torch.zeros((), device=self._all()[0].device))  # makes the tensor
        return self.scaler._get_scale_async()

    def _each(self, f: Tensor, params: list[Tensor]) -> list[Any]:
        """The gradient of each of several losses; as many at once as memory allows."""
        return self._first(
            "rows",
            lambda: each_gradient(f, params, self._chunk(params, f.numel())),
            lambda: each_gradient_singly(f, params),
        )

    def _hooked(self, name: str, f: Tensor, params: list[Tensor]) -> list[Any]:
        if f.dim():
            raise self.missing(
                f"one gradient a loss of `{name}`, not had of sharded parameters, so"
            )
        return hooked_gradient(f, params, self.isolation.parameters())

    def _chunk(self, params: Iterable[Tensor], most: int) -> int:
        bytes_each = sum(p.numel() * p.element_size() for p in params)
        return max(1, min(most, self.memory // max(1, bytes_each)))

    def _first(self, what: str, fast: Callable[[], Any], slow: Callable[[], Any]) -> Any:
        """The fast way where it works, which is found out once."""
        if self.works.get(what, True):
            try:
                return fast()
            except torch.OutOfMemoryError:
                raise
            except Exception:
                self.isolation.retry()
        result = slow()
        self.works[what] = what != "rows" and self._writes_statistics()
        return result

    # Curvature ----------------------------------------------------------------------------

    def hvp(
        self, objective: str, points: Points, data: Any, wrt: str, of: str, vector: list[Any]
    ) -> list[Any]:
        """The derivative by `wrt` of the product of the gradient by `of` with a vector."""
        self._begin()
        once_only((*self.params[of], *self.params[wrt]))
        if self.curvature == "finite":
            return finite_hvp(self, objective, points, data, wrt, of, vector)
        loss, v = partial(self.losses.answer, objective), self._like(of, vector)

        def reverse() -> list[Any]:
            f = self.losses.scalar(objective, data)
            refuse_unused(objective, f, self.params[of])
            graph = Graph(f, self._place(objective, points, data))
            self.graph = graph if self._shares() else None
            return product(graph)

        def product(graph: Graph) -> list[Any]:
            return reverse_over_reverse(graph, self.params[of], v, self.params[wrt], self.again)

        def forward() -> list[Any]:
            return self._purely().forward(loss, data, wrt, v, gradient=True)

        known = self._known(objective, points, data)
        if known is not None:
            with self.isolation.standing(points):
                found = product(known)
            return self.isolation.ranks.mean(found, self.params[wrt])
        with self.isolation.evaluation(points, quiet=True), sdpa_kernel(SDPBackend.MATH):
            if self.curvature == "forward" and wrt == of:
                found = self._first("forward over reverse", forward, reverse)
            else:
                found = reverse()
        return self.isolation.ranks.mean(found, self.params[wrt])

    def _shares(self) -> bool:
        """Whether the graph of an evaluation serves the next one: they fall alike, and as losses,
        not scaled."""
        alike = self.curvature == "reverse" and self.isolation.seed == "same"
        return self.again and alike and self._scale() is None and not self.sharded

    def _place(self, objective: str, points: Points, data: Any) -> Place:
        return Place(objective, points, data, self.isolation.versions())

    def _known(self, objective: str, points: Points, data: Any) -> Graph | None:
        """The graph of the evaluation before this one, if it is the same one."""
        graph, place = self.graph, self._place(objective, points, data)
        known = graph if graph is not None and graph.place.same(place) else None
        self.graph = known if self.again else None
        return known

    def _like(self, target: str, vector: list[Any]) -> list[Tensor]:
        return [
            torch.zeros_like(p) if v is None else as_stored(v, p)
            for p, v in zip(self.params[target], vector, strict=True)
        ]

    def jvp(self, objective: str, points: Points, data: Any, wrt: str, vector: list[Any]) -> Tensor:
        """Forward mode; where something has none, the transpose of the transpose."""
        self._begin()
        once_only(self.params[wrt])
        loss, v = partial(self.losses.answer, objective), self._like(wrt, vector)

        def forward() -> Tensor:
            return self._purely().forward(loss, data, wrt, v, gradient=False)

        def transposed() -> Tensor:
            f = loss(data)
            refuse_unused(objective, f, self.params[wrt])
            return along(f, self.params[wrt], v)

        with self.isolation.evaluation(points, quiet=True), sdpa_kernel(SDPBackend.MATH):
            found = self._first("forward", forward, transposed).detach()
        return self.isolation.ranks.mean([found], [found])[0]

    def vjp(
        self, objective: str, points: Points, data: Any, wrt: str, weights: Tensor
    ) -> list[Any]:
        """The gradient of an objective's values, each times its weight."""
        self._begin()
        once_only(self.params[wrt])
        with self.isolation.evaluation(points, quiet=True):
            f = self.losses.answer(objective, data)
            refuse_unused(objective, f, self.params[wrt])
            found = weighted(f, self.params[wrt], weights)
        return self.isolation.ranks.mean(found, self.params[wrt])

    # Along an axis ------------------------------------------------------------------------

    def evaluate_many(self, asked: Question) -> tuple[Any, Answer]:
        """Along an axis of the points in `over`, or of `each(batch)`: by vmap, else one by one."""
        self._begin()
        single = isinstance(asked.data, Pieces) and asked.data.whole is not None
        if single and self.isolation.ranks.several:
            raise RuntimeError(
                "the rule takes the gradient of each example, and DistributedDataParallel would "
                "average those of different ranks: train on one process"
            )
        found = self._mapped(asked)
        if found is None:
            return super().evaluate_many(asked)
        return found[0] if asked.value else None, found[1]

    def _mapped(self, asked: Question) -> tuple[Tensor, Answer] | None:
        """By vmap; None where that is not the way, which is found out once."""
        points, data = asked.points, asked.data
        alone = self.scaler is None and self.isolation.ranks.wrapper is None and not self.sharded
        whole = data.whole if isinstance(data, Pieces) else None
        batches = isinstance(data, list) and whole is None
        if batches or not alone or not self.works.get("vmap", True):
            return None
        before = self.isolation.wrote, self.isolation.start
        at = {t: [None] * len(p or ()) if t in asked.over else p for t, p in points.items()}
        with self.isolation.evaluation(at):
            writes = self._writes_statistics()
            try:
                values, answer = self._purely().mapped(
                    partial(self.losses.answer, asked.objective),
                    points,
                    data if whole is None else whole,
                    each=whole is not None,
                    gradients=asked.gradients,
                    over=asked.over,
                    chunk=self._chunk,
                    randomness="same" if self.isolation.seed == "same" else "different",
                )
                if self.first_value is None:
                    self.first_value = values.mean(0)
                return values, answer
            except torch.OutOfMemoryError:
                raise
            except Exception:
                self.isolation.retry()
        self.isolation.wrote, self.isolation.start = before
        self.works["vmap"] = writes
        return None

    def _purely(self) -> Pure:
        """The way through pure functions; they keep no running statistics."""
        hooked = any(p._backward_hooks for p in self._all())
        if self._pure is None or self._writes_statistics() or hooked:
            raise RuntimeError(
                "a pure function needs a model, keeps no statistics and calls no hooks of gradients"
            )
        return self._pure

    def _writes_statistics(self) -> bool:
        """Whether the evaluation that runs is the one that leaves running statistics."""
        return self.isolation.writing and self._pure is not None and bool(self._pure.statistics())

    @cached_property
    def _pure(self) -> Pure | None:
        return None if self.model is None else Pure(self.model, self.params)

    # What the user supplies ---------------------------------------------------------------

    def call(self, name: str, arguments: list[Any]) -> Any:
        """A function of the user's, by name."""
        if name not in self.oracles:
            raise RuntimeError(
                f"the rule calls `{name}`: pass optimizer.bind(..., oracles={{{name!r}: function}})"
            )
        return self.oracles[name](*arguments)

    def data(self, op: str, arguments: list[Any], attributes: dict[str, Any]) -> Any:
        """A batch drawn, or made of another one."""
        if op in self.oracles:
            return self.oracles[op](*of_the_text(op, arguments, attributes))
        if op not in OPERATIONS:
            raise self.missing(f"data of its own (`{op}`)")
        return self.sources.made(op, arguments, attributes, self.turn)

    def finish(self) -> None:
        """Nothing of the step stays but its first value."""
        if self._scale() is not None:
            found = self.found_inf if self.begun else None
            none = torch.zeros((), dtype=torch.float32, device=self._all()[0].device)
            report(self.scaler, self, none if found is None else found)
        self.begun, self.turn, self.graph = False, self.turn + 1, None
        try:
            self.isolation.check()
        finally:
            self.isolation.reset()
