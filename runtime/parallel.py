"""What an evaluation borrows and must give back, in one process or in many.

A loop evaluates a loss at points that the parameters do not hold, several times a step. Around each
evaluation `Guard` keeps four promises: the parameters are as they were to the bit, the same dropout
masks fall, running statistics are written once, and ranks talk only where they are asked to.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor

from .tensors import local

Params = dict[str, list[Tensor]]
Points = dict[str, list[Any] | None]
Answer = dict[str, list[Any]]

SMALL = 1 << 20
"""Buffers up to this size are always copied: batch norm writes without counting versions."""


# Points ---------------------------------------------------------------------------------------


def modules_of(function: Any, depth: int = 3) -> list[torch.nn.Module]:
    """The modules that a closure reaches by name.

    Looked into are its free variables and globals, the arguments of a partial, the attributes of
    objects among these (`self.model`), and functions that it calls, of its own file.
    """
    given = [*getattr(function, "args", ()), *getattr(function, "keywords", {}).values()]
    function = inspect.unwrap(getattr(function, "func", function))
    owner = getattr(function, "__self__", None)
    named: list[Any] = given if owner is None else [owner, *given]
    try:
        names = inspect.getclosurevars(function)
    except TypeError:
        return [m for m in named if isinstance(m, torch.nn.Module)]
    named += names.nonlocals.values()
    held = [x for v in named if hasattr(v, "__dict__") for x in vars(v).values()]
    found: dict[torch.nn.Module, None] = {}
    for x in (*named, *held, *names.globals.values()):
        if isinstance(x, torch.nn.Module):
            found[x] = None
        elif depth and inspect.isroutine(x) and x.__module__ == function.__module__:
            found.update(dict.fromkeys(modules_of(x, depth - 1)))
    return list(found)


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
    point = local(point.detach())
    if p.is_complex() and not point.is_complex():
        point = torch.view_as_complex(point.contiguous())
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


# Gradients ------------------------------------------------------------------------------------


def unscale(gradients: Iterable[Any], scale: Tensor, found: Tensor) -> None:
    """Divide gradients in place by a GradScaler's scale; note in `found` what is not finite."""
    alike: dict[Any, list[Tensor]] = {}
    group = None
    for g in gradients:
        if g is not None:
            alike.setdefault((g.device, g.dtype), []).append(local(g))
            group = getattr(g, "device_mesh", group)
    inverse = scale.double().reciprocal().float()
    for (device, _), tensors in alike.items():
        here = torch.zeros((), dtype=torch.float32, device=device)
        torch._amp_foreach_non_finite_check_and_unscale_(tensors, here, inverse.to(device))
        found += here.to(found.device)
    if group is not None:
        for axis in range(group.ndim):
            dist.all_reduce(found, dist.ReduceOp.MAX, group.get_group(axis))


def report(scaler: Any, owner: object, found: Tensor) -> None:
    """Tell a scaler what a step found, so that update() follows: one decision a step."""
    scaler._per_optimizer_states[id(owner)]["found_inf_per_device"] = {found.device: found}


# Randomness -----------------------------------------------------------------------------------


class Generators:
    """The default generators of the CPU and of the devices that hold the parameters."""

    def __init__(self, params: Params):
        devices = {p.device for ps in params.values() for p in ps}
        self.devices = sorted((d for d in devices if d.type not in ("cpu", "meta")), key=str)

    def state(self) -> list[Tensor]:
        if self.devices and torch.cuda.is_current_stream_capturing():
            return []
        others = [torch.get_device_module(d).get_rng_state(d) for d in self.devices]
        return [torch.get_rng_state(), *others]

    def restore(self, state: list[Tensor]) -> None:
        if not state:
            return
        torch.set_rng_state(state[0])
        for d, s in zip(self.devices, state[1:], strict=True):
            torch.get_device_module(d).set_rng_state(s, d)


# Statistics -----------------------------------------------------------------------------------

Snapshot = list[tuple[Tensor | None, int, Tensor | None]]


class Statistics:
    """The buffers of modules (running statistics), to leave them unchanged."""

    def __init__(self, modules: Iterable[torch.nn.Module]):
        within = dict.fromkeys(m for root in modules for m in root.modules())
        self.places = [(m._buffers, name) for m in within for name in m._buffers]
        self.cache: dict[int, tuple[Tensor, int, Tensor]] = {}

    @torch.no_grad()
    def snapshot(self) -> Snapshot:
        """Copies; of a large buffer only where it was written since the last one."""
        result: Snapshot = []
        for at, (slots, name) in enumerate(self.places):
            buffer = slots[name]
            if buffer is None:
                result.append((None, 0, None))
                continue
            known = self.cache.get(at)
            version = 0 if buffer.is_inference() else buffer._version
            same = known is not None and known[0] is buffer and known[1] == version
            if known is None or not same or buffer.numel() <= SMALL:
                known = self.cache[at] = (buffer, version, buffer.detach().clone())
            result.append(known)
        return result

    @torch.no_grad()
    def restore(self, snapshot: Snapshot) -> None:
        for (slots, name), (buffer, version, copy) in zip(self.places, snapshot, strict=True):
            if slots[name] is not buffer:
                slots[name] = buffer
            if buffer is None or copy is None:
                continue
            if buffer.numel() <= SMALL or buffer._version != version:
                buffer.copy_(copy)


# Ranks ----------------------------------------------------------------------------------------


class Ranks:
    """The data-parallel wrapper among the modules, if there is one."""

    def __init__(self, modules: Iterable[torch.nn.Module]):
        kind = torch.nn.parallel.DistributedDataParallel
        inside = list(dict.fromkeys(m for root in modules for m in root.modules()))
        self.wrapper: Any = next((m for m in inside if isinstance(m, kind)), None)
        self.silent: Any = next((m for m in inside if hasattr(m, "no_sync")), None)

    def quiet(self) -> AbstractContextManager[Any]:
        """No exchange of gradients within, where the model knows `no_sync`."""
        return nullcontext() if self.silent is None else self.silent.no_sync()

    @property
    def reuses_gradients(self) -> bool:
        """Whether the next backward pass writes where the last gradients lie."""
        return bool(getattr(self.wrapper, "gradient_as_bucket_view", False))

    def mean(self, tensors: Sequence[Any], like: Sequence[Tensor]) -> list[Any]:
        """The mean over ranks; what is absent on some ranks only counts as zero there."""
        if self.wrapper is None:
            return list(tensors)
        group = self.wrapper.process_group
        present = torch.tensor([t is not None for t in tensors], device=like[0].device).int()
        dist.all_reduce(present, dist.ReduceOp.MAX, group)
        result: list[Any] = []
        pending = []
        for t, p, on in zip(tensors, like, present.tolist(), strict=True):
            t = (torch.zeros_like(p) if t is None else t.contiguous()) if on else None
            result.append(t)
            if t is not None:
                pending.append(dist.all_reduce(t, group=group, async_op=True))
        for work in pending:
            work.wait()
        size = dist.get_world_size(group)
        return [None if t is None else t.div_(size) for t in result]


# All of it ------------------------------------------------------------------------------------


class Guard:
    """The promises around the evaluations of one step.

    seed   `same`: every evaluation of a step sees the numbers that the first one saw, so dropout
           masks are equal; `fresh`: generators run on.
    stats  `held`: the first evaluation at the held point writes running statistics; `first`: the
           first one wherever it is; `none`: no evaluation does.
    sync   `all`: ranks exchange every gradient; `perturbed`: not those at the held point, so that
           each rank climbs by its own part of the batch (m-sharpness).
    """

    def __init__(
        self,
        params: Params,
        modules: Iterable[torch.nn.Module] = (),
        seed: Literal["same", "fresh"] = "same",
        stats: Literal["held", "first", "none"] = "held",
        sync: Literal["all", "perturbed"] = "all",
        in_place: bool | None = None,
    ):
        for name, value, known in (
            ("seed", seed, ("same", "fresh")),
            ("stats", stats, ("held", "first", "none")),
            ("sync", sync, ("all", "perturbed")),
        ):
            if value not in known:
                raise ValueError(f"Invalid {name}: {value!r}; one of {', '.join(known)}")
        self.params, self.seed, self.stats, self.sync = params, seed, stats, sync
        self.in_place = in_place
        modules = tuple(modules)
        self.generators, self.statistics = Generators(params), Statistics(modules)
        self.ranks = Ranks(modules)
        self.reset()

    def reset(self) -> None:
        """A new step begins."""
        self.start: tuple[list[Tensor], Snapshot] | None = None
        self.mark: tuple[list[Tensor], Snapshot] = ([], [])
        self.wrote = self.writing = self.perturbed = self.skipped_sync = False

    @contextmanager
    def evaluation(self, points: Points, quiet: bool = False) -> Iterator[None]:
        """Parameters at the points, grad on. What was raised leaves all as before the step."""
        held = all(p is None for p in points.values())
        before = self.generators.state(), self.statistics.snapshot()
        again = self.start is not None
        self.start = self.start or before
        self.mark = (self.start[0] if self.seed == "same" else before[0]), before[1]
        writes = not self.wrote and (self.stats == "first" or (self.stats == "held" and held))
        silent = self.alone(held) or quiet
        self.writing = writes
        self.perturbed = self.perturbed or not held
        try:
            if again and self.seed == "same":
                self.generators.restore(self.start[0])
            with self.ranks.quiet() if silent else nullcontext():
                with standing_at(self.params, points, self.in_place):
                    yield
        except BaseException:
            self.rewind()
            raise
        if again and self.seed == "same":
            self.generators.restore(before[0])
        if writes:
            self.wrote = True
        else:
            self.statistics.restore(before[1])

    def parameters(self) -> list[Tensor]:
        """The parameters of all targets, once each."""
        return list({id(p): p for ps in self.params.values() for p in ps}.values())

    def alone(self, held: bool) -> bool:
        """Whether an evaluation keeps its gradients to this rank."""
        alone = self.sync == "perturbed" and held
        self.skipped_sync = self.skipped_sync or alone
        return alone

    def retry(self) -> None:
        """Within an evaluation: once more from its beginning."""
        self.generators.restore(self.mark[0])
        self.statistics.restore(self.mark[1])

    def rewind(self) -> None:
        """As before the step."""
        if self.start is not None:
            self.generators.restore(self.start[0])
            self.statistics.restore(self.start[1])

    def check(self) -> None:
        """At the end of a step: no rank may have gone its own way."""
        if self.skipped_sync and not self.perturbed:
            raise RuntimeError(
                "sync='perturbed' is for rules that evaluate a gradient at a perturbed point in "
                "every step; this step had only the held point, whose gradient was not exchanged"
            )


# What a loop is -------------------------------------------------------------------------------


class Loop:
    """What a training loop can be asked for in a step; each level answers more than the one before.

    Values are detached and in the type that the loss has. A point is a list of tensors like the
    parameters of its target, or None where the parameters stand; gradients are None where absent.
    """

    level = ""
    first_value: Any = None
    """The value of the step's first evaluation, where there was one."""
    found_inf: Tensor | None = None
    """With a GradScaler: 1 where a gradient of this step was not finite."""
    turn: int = 0
    """The call that the step is: draws depend on it, so that a resumed run draws the same."""
    once: bool = False
    """Whether the step has one evaluation: its gradients need no copy."""

    def __init__(self, params: Params):
        self.params = params

    def missing(self, what: str) -> RuntimeError:
        """The error that says what to pass."""
        return RuntimeError(f"the rule needs {what}: {self.remedy()}")

    def remedy(self) -> str:
        return (
            "give the loss as a function of the batch, which only runs the model forward: "
            "optimizer.bind(model=model, objective=lambda batch: ...), then "
            "optimizer.step(batch=batch)"
        )

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
        """The value of an objective at a point, and its gradients by the targets asked for."""
        raise NotImplementedError

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
        """The same along an axis: of `data` (a list of batches), of the points named in `over`."""
        answers = [
            self.evaluate(objective, at, batch, value=value, gradients=gradients)
            for at, batch in places(points, data, over)
        ]
        values = torch.stack([a[0] for a in answers]) if value else None
        columns = {t: zip(*(a[1][t] for a in answers), strict=True) for t in gradients}
        return values, {t: [_stack(g) for g in gs] for t, gs in columns.items()}

    def hvp(
        self, objective: str, points: Points, data: Any, wrt: str, of: str, vector: list[Any]
    ) -> list[Any]:
        """The derivative by `wrt` of the product of the gradient by `of` with a vector."""
        raise self.missing(f"Hessian-vector products of `{objective}`")

    def jvp(self, objective: str, points: Points, data: Any, wrt: str, vector: list[Any]) -> Tensor:
        """The derivative of an objective along a vector."""
        raise self.missing(f"the derivative of `{objective}` along a vector")

    def vjp(
        self, objective: str, points: Points, data: Any, wrt: str, weights: Tensor
    ) -> list[Any]:
        """The gradient of an objective's values, each times its weight."""
        raise self.missing(f"the transposed derivative of `{objective}`")

    def call(self, name: str, arguments: list[Any]) -> Any:
        """A function that the user supplies under this name."""
        raise self.missing(f"the function `{name}`")

    def data(self, op: str, arguments: list[Any], attributes: dict[str, Any]) -> Any:
        """A batch drawn, or made of another one."""
        raise self.missing(f"data of its own (`{op}`)")

    def finish(self) -> None:
        """The step ends: nothing of it stays."""


def places(points: Points, data: Any, over: tuple[str, ...]) -> list[tuple[Points, Any]]:
    """The point and the batch at each place of an axis."""
    mapped: list[list[Any]] = [points[t] for t in over]  # type: ignore[misc]
    sizes = [len(x) for p in mapped for x in p if x is not None][:1]
    count = sizes[0] if sizes else len(data)
    batches = data if isinstance(data, list) else [data] * count
    return [
        (
            {
                t: [None if x is None else x[k] for x in p] if t in over and p is not None else p
                for t, p in points.items()
            },
            batches[k],
        )
        for k in range(count)
    ]


def _stack(tensors: Sequence[Any]) -> Any:
    return None if any(t is None for t in tensors) else torch.stack(list(tensors))


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
        _, g = loop.evaluate(objective, {**points, of: there}, data, value=False, gradients=(wrt,))
        sides.append([None if a is None else a.clone() for a in g[wrt]])
    return [
        None if a is None or b is None else (a - b) / (2 * h) for a, b in zip(*sides, strict=True)
    ]


def _norm(tensors: list[Tensor]) -> float:
    parts = [torch.linalg.vector_norm(local(t), dtype=torch.float64) for t in tensors]
    return float(torch.stack(parts).norm()) if parts else 0.0
