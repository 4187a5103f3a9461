"""A bound objective: losses as functions of a batch, evaluated and differentiated at any point.

The function only runs the model forward; optc puts points under the parameters and calls
torch.autograd.grad, so `.grad` stays as it is. Ranks of a data-parallel model each differentiate
their own part, and what is linear in the loss is averaged after.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree

from .parallel import (
    Answer,
    Guard,
    Loop,
    Params,
    Points,
    as_stored,
    finite_hvp,
    modules_of,
    once_only,
    report,
    unscale,
)

Function = Callable[..., Any]


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
    promises    seed=, stats=, sync=, in_place=: see `parallel.Guard`.

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
        several = dict(objective) if isinstance(objective, Mapping) else {}
        self.default = None if isinstance(objective, Mapping) else objective
        self.functions: dict[str, Function] = {**named, **several, **(objectives or {})}
        self.oracles = {**named, **(oracles or {})}
        self.sources = {"": draw, **(sources or {})}
        self.streams: dict[str, Any] = {}
        self.scaler, self.curvature, self.memory = scaler, curvature, memory
        within = [model] if model is not None else []
        if model is None and self.default is not None:
            within = modules_of(self.default)
        self.guard = Guard(params, [*within, *modules], seed, stats, sync, in_place)
        self.sharded = any(type(p) not in (Tensor, torch.nn.Parameter) for p in self._all())
        self.several = False
        self.name, self.turn, self.begun, self.works = "", 0, False, dict[str, bool]()

    def _all(self) -> list[Tensor]:
        return [p for ps in self.params.values() for p in ps]

    def for_closure(self) -> dict[str, Any]:
        """The options of `Closure` when the user binds a model and passes a closure."""
        kind = "finite" if self.curvature == "finite" else "exact"
        return {"guard": self.guard, "scaler": self.scaler, "curvature": kind}

    def rebound(self, objective: Function | Mapping[str, Function]) -> Objective:
        """The same with another objective, for `step(objective=fn)`."""
        if isinstance(objective, Mapping):
            self.functions.update(objective)
        else:
            self.default, self.name = objective, ""
        return self

    # The function -------------------------------------------------------------------------

    def _function(self, name: str) -> Function:
        if name in self.functions:
            return self.functions[name]
        if self.default is None:
            raise RuntimeError(
                f"the rule evaluates `{name}`: pass optimizer.bind(model=model, "
                f"objective={{{name!r}: lambda batch: ...}})"
            )
        return self.default

    def _answer(self, name: str, data: Any, parts: Mapping[str, Any] | None = None) -> Tensor:
        """One call of the objective."""
        function = self._function(name)
        arguments = () if data is None and not _takes_argument(function) else (data,)
        found = function(*arguments, **(parts or {}))
        if isinstance(found, Mapping):
            if name not in found:
                raise RuntimeError(f"the objective gives no loss {name!r}: {', '.join(found)}")
            return found[name]
        if name not in self.functions:
            self.name = self.name or name
            if self.name != name:
                raise RuntimeError(
                    f"the rule evaluates `{self.name}` and `{name}`: pass a function for each, "
                    f"objective={{{self.name!r}: f, {name!r}: g}}, or return a dict of losses"
                )
        if not isinstance(found, Tensor):
            raise TypeError(f"the objective `{name}` returns {type(found).__name__}, not a tensor")
        return found

    def _begin(self) -> None:
        if not self.begun:
            self.begun, self.first_value, self.found_inf = True, None, None

    # Values and gradients -----------------------------------------------------------------

    def evaluate(
        self,
        objective: str,
        points: Points,
        data: Any,
        *,
        value: bool,
        gradients: tuple[str, ...],
        parts: dict[str, Any] | None = None,
    ) -> tuple[Any, Answer]:
        """The loss at a point, and its gradients: element[axes of the loss] where it has axes.

        `parts` are passed on to the objective by name.
        """
        self._begin()
        held = all(p is None for p in points.values())
        wanted = [p for t in gradients for p in self.params[t]]
        with self.guard.evaluation(points, quiet=not self.sharded):
            f = self._answer(objective, data, parts)
            found = self._gradients(objective, f, wanted) if gradients else []
        f = f.detach()
        if not (self.guard.alone(held) or self.sharded):
            found = self.guard.ranks.mean(found, wanted)
        if self.first_value is None:
            self.first_value = f
        rest = iter(found)
        return f if value else None, {t: [next(rest) for _ in self.params[t]] for t in gradients}

    def _gradients(self, name: str, f: Tensor, params: list[Tensor]) -> list[Any]:
        live = [p for p in params if p.requires_grad]
        if not live:
            return [None] * len(params)
        if not f.requires_grad:
            raise RuntimeError(
                f"the objective `{name}` cannot be differentiated: it must only run the model "
                "forward, without backward(), detach() or no_grad()"
            )
        scale = self._scale()
        f = f if scale is None else f * scale.to(f.dtype)
        if self.sharded:
            found = self._backward(name, f, live)
        elif f.dim() == 0:
            found = list(torch.autograd.grad(f, live, allow_unused=True))
        else:
            found = self._rows(f, live)
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

    def _rows(self, f: Tensor, params: list[Tensor]) -> list[Any]:
        """The gradient of each of several losses; as many at once as memory allows."""
        eye = torch.eye(f.numel(), dtype=f.dtype, device=f.device).reshape(-1, *f.shape)
        size = self._chunk(params, len(eye))

        def together() -> list[Any]:
            return [
                torch.autograd.grad(f, params, rows, True, allow_unused=True, is_grads_batched=True)
                for rows in eye.split(size)
            ]

        def singly() -> list[Any]:
            each = [torch.autograd.grad(f, params, row, True, allow_unused=True) for row in eye]
            return [[None if g is None else g[None] for g in row] for row in each]

        parts = self._first("rows", together, singly)
        return [
            None if gs[0] is None else torch.cat(gs).reshape(*f.shape, *gs[0].shape[1:])
            for gs in zip(*parts, strict=True)
        ]

    def _backward(self, name: str, f: Tensor, params: list[Tensor]) -> list[Any]:
        """Sharded parameters get their gradients from hooks of a real backward pass only."""
        if f.dim():
            raise self.missing(
                f"one gradient a loss of `{name}`, not had of sharded parameters, so"
            )
        every = [(p, p.grad) for p in self.guard.parameters()]
        try:
            for p, _ in every:
                p.grad = None
            f.backward()
            return [p.grad for p in params]
        finally:
            for p, g in every:
                p.grad = g

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
                self.guard.retry()
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
        v = self._like(of, vector)
        # The fused attention kernels have no second derivative.
        with self.guard.evaluation(points, quiet=True), sdpa_kernel(SDPBackend.MATH):
            if self.curvature == "forward" and wrt == of:
                found = self._first(
                    "forward over reverse",
                    lambda: self._forward(objective, data, wrt, v, gradient=True),
                    lambda: self._reverse(objective, data, wrt, of, v),
                )
            else:
                found = self._reverse(objective, data, wrt, of, v)
        return self.guard.ranks.mean(found, self.params[wrt])

    def _reverse(self, name: str, data: Any, wrt: str, of: str, v: list[Tensor]) -> list[Any]:
        f = self._scalar(name, data)
        inner = [(p, a) for p, a in zip(self.params[of], v, strict=True) if p.requires_grad]
        first = torch.autograd.grad(f, [p for p, _ in inner], create_graph=True, allow_unused=True)
        product = sum(
            (g * a.conj()).sum().real
            for g, (_, a) in zip(first, inner, strict=True)
            if g is not None
        )
        used = {id(p) for g, (p, _) in zip(first, inner, strict=True) if g is not None}
        outer = [p for p in self.params[wrt] if p.requires_grad]
        second: Any = [None] * len(outer)
        if isinstance(product, Tensor) and product.requires_grad:
            second = torch.autograd.grad(product, outer, allow_unused=True)
        # Where the gradient is there, but constant, its derivative is zero and not absent.
        full = {
            id(p): torch.zeros_like(p) if h is None and (wrt != of or id(p) in used) else h
            for p, h in zip(outer, second, strict=True)
        }
        return [full.get(id(p)) for p in self.params[wrt]]

    def _scalar(self, name: str, data: Any) -> Tensor:
        f = self._answer(name, data)
        if f.dim():
            raise RuntimeError(f"`{name}` has several values; curvature is of one: take its mean")
        return f

    def _like(self, target: str, vector: list[Any]) -> list[Tensor]:
        return [
            torch.zeros_like(p) if v is None else as_stored(v, p)
            for p, v in zip(self.params[target], vector, strict=True)
        ]

    def jvp(self, objective: str, points: Points, data: Any, wrt: str, vector: list[Any]) -> Tensor:
        """Forward mode; where something has none, the transpose of the transpose."""
        self._begin()
        once_only(self.params[wrt])
        v = self._like(wrt, vector)

        def twice() -> Tensor:
            f = self._answer(objective, data)
            u = torch.zeros_like(f, requires_grad=True)
            live = [(p, a) for p, a in zip(self.params[wrt], v, strict=True) if p.requires_grad]
            g = torch.autograd.grad(
                f, [p for p, _ in live], u, create_graph=True, allow_unused=True
            )
            there = [(a, b) for a, (_, b) in zip(g, live, strict=True) if a is not None]
            if not there:
                return torch.zeros_like(f)
            return torch.autograd.grad([a for a, _ in there], u, [b for _, b in there])[0]

        with self.guard.evaluation(points, quiet=True), sdpa_kernel(SDPBackend.MATH):
            found = self._first(
                "forward", lambda: self._forward(objective, data, wrt, v, gradient=False), twice
            ).detach()
        return self.guard.ranks.mean([found], [found])[0]

    def _forward(self, name: str, data: Any, wrt: str, v: list[Tensor], gradient: bool) -> Any:
        """Forward mode over the loss, or over its gradient."""
        at = self._pure([wrt], lambda batch: self._answer(name, batch))
        x = [p.detach() for p in self.params[wrt]]

        def of(values: list[Tensor]) -> Tensor:
            return at({wrt: values}, data)

        found = torch.func.jvp(torch.func.grad(of) if gradient else of, (x,), (v,))[1]
        return [h.detach() for h in found] if gradient else found

    def vjp(
        self, objective: str, points: Points, data: Any, wrt: str, weights: Tensor
    ) -> list[Any]:
        """The gradient of an objective's values, each times its weight."""
        self._begin()
        once_only(self.params[wrt])
        live = [p for p in self.params[wrt] if p.requires_grad]
        with self.guard.evaluation(points, quiet=True):
            f = self._answer(objective, data)
            u = weights.to(f).reshape(f.shape)
            g = torch.autograd.grad(f, live, u, allow_unused=True)
            found = dict(zip(map(id, live), g, strict=True))
        return self.guard.ranks.mean([found.get(id(p)) for p in self.params[wrt]], self.params[wrt])

    # Along an axis ------------------------------------------------------------------------

    def evaluate_many(
        self,
        objective: str,
        points: Points,
        data: Any,
        *,
        value: bool,
        gradients: tuple[str, ...],
        over: tuple[str, ...] = (),
    ) -> tuple[Any, Answer]:
        """Along an axis of the points in `over`, or of `each(batch)`: by vmap, else one by one.

        vmap gives zeros for a parameter that the loss does not use, where one by one gives None.
        """
        self._begin()
        fits = self.scaler is None and self.guard.ranks.wrapper is None and not self.sharded
        whole = data.whole if isinstance(data, Pieces) else None
        if (
            self.works.get("vmap", True)
            and fits
            and (whole is not None or not isinstance(data, list))
        ):
            wrote = self.guard.wrote
            at = {t: [None] * len(p or ()) if t in over else p for t, p in points.items()}
            done = None
            with self.guard.evaluation(at):
                writes = self._writes_statistics()
                try:
                    batch = data if whole is None else whole
                    done = self._mapped(
                        objective, points, batch, whole is not None, value, gradients, over
                    )
                except torch.OutOfMemoryError:
                    raise
                except Exception:
                    self.guard.retry()
            if done is not None:
                return done
            self.guard.wrote = wrote
            self.works["vmap"] = writes
        return super().evaluate_many(
            objective, points, data, value=value, gradients=gradients, over=over
        )

    def _mapped(
        self,
        name: str,
        points: Points,
        data: Any,
        each: bool,
        value: bool,
        gradients: tuple[str, ...],
        over: tuple[str, ...],
    ) -> tuple[Any, Answer]:
        targets = [*dict.fromkeys((*gradients, *over))]
        at = self._pure(targets, lambda batch: self._answer(name, batch))
        leaves, spec = pytree.tree_flatten(data)
        cut = [each and isinstance(x, Tensor) and x.dim() > 0 for x in leaves]
        x = {t: [p.detach() for p in self.params[t]] for t in targets}
        for t in over:
            given = points[t] or []
            n = next(len(a) for a in given if a is not None)
            x[t] = [
                p.detach().expand(n, *p.shape) if a is None else as_stored(a, p)
                for a, p in zip(given, self.params[t], strict=True)
            ]
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
        stats = {k: b.expand(n, *b.shape) for k, b in self._whole.statistics().items()}
        moving = [p for t in targets for p in self.params[t]]
        g, f = torch.vmap(
            one,
            in_dims=(along, [0 if c else None for c in cut], dict.fromkeys(stats, 0)),
            randomness="same" if self.guard.seed == "same" else "different",
            chunk_size=self._chunk(moving, n),
        )(x, leaves, stats)
        asked = {
            t: [
                h.detach() if p.requires_grad else None
                for h, p in zip(g[t], self.params[t], strict=True)
            ]
            for t in gradients
        }
        if self.first_value is None:
            self.first_value = f.detach().mean(0)
        return f.detach() if value else None, asked

    def _pure(self, targets: list[str], answer: Function) -> Function:
        """The objective as a pure function of the values of targets, by functional_call.

        It writes running statistics into copies; where they are to be kept it is not the way.
        """
        whole = self._whole
        if whole is None or self._writes_statistics():
            raise RuntimeError("a pure function needs a model, and keeps no statistics")
        whole.answer = answer
        names = {id(p): n for n, p in whole.named_parameters()}
        keys = {t: [names[id(p)] for p in self.params[t]] for t in targets}

        def at(values: dict[str, list[Tensor]], data: Any, statistics: Any = None) -> Tensor:
            pairs = {k: v for t, vs in values.items() for k, v in zip(keys[t], vs, strict=True)}
            buffers = whole.statistics() if statistics is None else statistics
            pairs.update({k: b.clone() for k, b in buffers.items()})
            return functional_call(whole, pairs, (data,))

        return at

    def _writes_statistics(self) -> bool:
        """Whether the evaluation that runs is the one that leaves running statistics."""
        return self.guard.writing and self._whole is not None and bool(self._whole.statistics())

    @cached_property
    def _whole(self) -> Any:
        return None if self.model is None else _Whole(self.model)

    # What the user supplies ---------------------------------------------------------------

    def call(self, name: str, arguments: list[Any]) -> Any:
        """A function of the user's, by name."""
        if name not in self.oracles:
            raise RuntimeError(
                f"the rule calls `{name}`: pass optimizer.bind(..., oracles={{{name!r}: function}})"
            )
        return self.oracles[name](*arguments)

    def data(self, op: str, arguments: list[Any], attributes: dict[str, Any]) -> Any:
        """A batch drawn, or made of another one.

        `draw` and `subset` take the rows that step, stream and turns of loops say: all ranks the
        same. The first argument of `draw` is its size if `sized` is set.
        """
        if op in self.oracles:
            return self.oracles[op](*arguments)
        if op == "each":
            return each(arguments[0])
        if op == "split":
            return split(arguments[0], int(arguments[1]))
        if op == "index":
            return index(arguments[0])
        if op not in ("draw", "subset"):
            raise self.missing(f"data of its own (`{op}`)")
        turns = arguments[2:] if op == "subset" else arguments[bool(attributes.get("sized")) :]
        numbers = (self.turn, int(attributes.get("stream", 0)), *(int(x) for x in turns))
        if op == "subset":
            return subset(arguments[0], float(arguments[1]), numbers)
        return self._draw(
            str(attributes.get("source", "")),
            int(arguments[0]) if attributes.get("sized") else None,
            numbers,
        )

    def _draw(self, name: str, size: int | None, numbers: tuple[int, ...]) -> Any:
        source = self.sources.get(name)
        if source is None:
            given = f"sources={{{name!r}: loader}}" if name else "draw=loader"
            raise RuntimeError(f"the rule draws batches: pass optimizer.bind(..., {given})")
        if callable(source):
            return source(size) if _takes_argument(source) else source()
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

    def finish(self) -> None:
        """Nothing of the step stays but its first value."""
        if self.found_inf is not None and self.begun:
            report(self.scaler, self, self.found_inf)
        self.begun, self.turn = False, self.turn + 1
        try:
            self.guard.check()
        finally:
            self.guard.reset()


class _Whole(torch.nn.Module):
    """A model and what is computed with it, as one module: functional_call reaches both."""

    def __init__(self, model: torch.nn.Module):
        super().__init__()
        self.model = model
        self.answer: Any = None

    def forward(self, data: Any) -> Any:
        return self.answer(data)

    def statistics(self) -> dict[str, Tensor]:
        """The running statistics that a forward pass would write."""
        return {
            f"{name}.{key}": buffer
            for name, m in self.named_modules()
            if m.training and getattr(m, "track_running_stats", False)
            for key, buffer in m.named_buffers(recurse=False)
        }


def _takes_argument(function: Any) -> bool:
    """Whether a function can be called with one argument."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return True
    kinds = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD)
    return any(p.kind not in kinds for p in parameters)


# Batches: pytrees whose tensors have the examples first ------------------------------------------


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
