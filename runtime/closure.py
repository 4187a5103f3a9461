"""The loop of `optimizer.step(closure)`: values and gradients at any point."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from .derivatives import finite_hvp, once_only
from .inspection import modules_of
from .isolation import Isolation
from .loop import Loop, Question
from .points import Answer, Params, Points
from .scaler import report, unscale
from .tensors import local

NO_GRAPH = (
    "the closure calls backward() on what has no gradient: leave torch.inference_mode(), in the "
    "closure no_grad() and detach() too, and let the loss depend on parameters that are not frozen"
)


def _unspent(loss: Any) -> bool:
    """Whether a loss depends on something that is trained."""
    return isinstance(loss, Tensor) and loss.requires_grad


class Closure(Loop):
    """`optimizer.step(closure)`: the closure runs zero_grad, forward, backward; returns the loss.

    Several objectives are a dict of closures. The parameters are swapped under the closure, so it
    is called as it is. When the step ends, `.grad` holds what the first evaluation at the held
    point left (of a target: the first that asked for it), as the loop expects that logs it. If an
    evaluation raises, `.grad` is again what it was before the step; what it was is kept until the
    step ends, so `zero_grad()` before the step saves its memory.

    A closure that does not call zero_grad adds to the gradients that were there, at each evaluation
    anew. `modules` are those whose running statistics to protect; by default those that the closure
    names. `curvature="finite"` allows Hessian-vector products by central differences. With `scaler`
    the closure calls scaler.scale(loss).backward(); gradients are unscaled as they are read, and
    `found_inf` is noted for scaler.update(): the loop calls optimizer.bind(scaler=scaler) once, and
    then optimizer.step(closure), scaler.update(), never scaler.step. `once` says that the step
    has one evaluation, which saves a copy of the gradients under DDP(gradient_as_bucket_view=True).
    `added` says whether the closure of the step before added to them (None: unknown), which saves
    another.
    """

    level = "closure"

    def __init__(
        self,
        params: Params,
        closure: Callable[[], Any] | Mapping[str, Callable[[], Any]],
        *,
        modules: Iterable[torch.nn.Module] | None = None,
        scaler: Any = None,
        curvature: Literal["exact", "finite"] = "exact",
        once: bool = False,
        added: bool | None = None,
        isolation: Isolation | None = None,
        **promises: Any,
    ):
        super().__init__(params)
        self.closures = dict(closure) if isinstance(closure, Mapping) else {"": closure}
        if modules is None and isolation is None:
            modules = [m for c in self.closures.values() for m in modules_of(c)]
        self.isolation = isolation or Isolation(params, modules or (), **promises)
        self.scaler, self.curvature, self.once = scaler, curvature, once
        self.added = added
        self.name = ""
        self.all = self.isolation.parameters()
        self._reset()

    def _reset(self) -> None:
        self.before: list[Any] | None = None
        self.given: list[Any] = []
        self.adds = False
        self.kept: list[tuple[Any, int]] = []
        self.shown: list[Any] | None = None
        self.shown_held = False
        self.settled: set[str] = set()
        self.last = False
        self.isolation.reset()

    def evaluate(self, asked: Question) -> tuple[Any, Answer]:
        """Call the closure with the point under the parameters, and take its gradients."""
        closure = self._closure(asked.objective)
        self._lay_out()
        try:
            with self.isolation.evaluation(asked.points):
                loss = closure()
            taken = self._take(asked.gradients)
        except BaseException as error:
            self._give_back()
            if isinstance(error, RuntimeError) and "does not require grad" in str(error):
                raise RuntimeError(NO_GRAPH) from error
            raise
        if asked.value and loss is None:
            self._give_back()
            raise RuntimeError("the rule reads the loss, and the closure returns None: return it")
        if asked.gradients and _unspent(loss) and all(g is None for g in taken):
            warnings.warn("the closure left no gradient: it calls loss.backward()", stacklevel=2)
        loss = loss if loss is None or isinstance(loss, Tensor) else torch.tensor(float(loss))
        loss = None if loss is None else loss.detach()
        if self.first_value is None:
            self.first_value = loss
        by_id = {id(p): g for p, g in zip(self.all, taken, strict=True)}
        self._show(taken, asked.held, asked.gradients)
        if asked.value and loss is not None:
            loss = self.isolation.ranks.of_all(loss, self.all)
        return loss if asked.value else None, {
            t: [by_id[id(p)] for p in self.params[t]] for t in asked.gradients
        }

    def _closure(self, objective: str) -> Callable[[], Any]:
        if "" not in self.closures:
            if objective not in self.closures:
                raise RuntimeError(
                    f"the rule evaluates `{objective}`: pass step({{{objective!r}: closure}})"
                )
            return self.closures[objective]
        self.name = self.name or objective
        if self.name != objective:
            both = f"{{{self.name!r}: closure, {objective!r}: another}}"
            raise RuntimeError(f"the rule evaluates two objectives: pass step({both})")
        return self.closures[""]

    # Gradients ----------------------------------------------------------------------------

    def _lay_out(self) -> None:
        """What the closure finds in `.grad`: what the user left there, never what we hold.

        zero_grad(set_to_none=False) would zero a gradient that is still to be read.
        """
        first = self.before is None
        if first:
            self.first_value = self.found_inf = None
            self.before = [p.grad for p in self.all]
        assert self.before is not None
        if first and self.added is False:
            self.given = list(self.before)  # the last step's closure let them go: no copy is needed
        elif first or self.adds:
            self.given = [None if g is None else g.detach().clone() for g in self.before]
        else:
            self.given = [None] * len(self.all)
        _set(self.all, self.given)

    def _take(self, asked: tuple[str, ...]) -> list[Any]:
        """The gradients of the evaluation, unscaled, and safe from the next one."""
        taken = [p.grad for p in self.all]
        if self.shown is None:
            self.adds = any(
                g is not None and g is h for g, h in zip(taken, self.given, strict=True)
            )
            if self.adds and self.added is False and not self.once:
                raise RuntimeError(
                    "the closure added to the gradients that it found, which it did not do in the "
                    "step before: call zero_grad() in each, or in none"
                )
        # what is kept for another evaluation is known by an alias of its own, which dies with it
        alone = self.once or self.last
        taken = [
            None if g is None else g if alone and not g.requires_grad else g.detach() for g in taken
        ]
        if self.scaler is not None and self.scaler.is_enabled():
            scale = self.scaler._get_scale_async()
            if scale is None:
                raise RuntimeError("with a scaler, the closure calls scaler.scale(loss).backward()")
            if self.found_inf is None:
                self.found_inf = torch.zeros((), dtype=torch.float32, device=self.all[0].device)
            mine = {id(p) for t in asked for p in self.params[t]}
            for wanted, found in ((True, self.found_inf), (False, self.found_inf.clone())):
                pairs = zip(self.all, taken, strict=True)  # what is not asked for vetoes nothing
                unscale((g for p, g in pairs if (id(p) in mine) is wanted), scale, found)
        if self.once:
            return taken
        lies, shared = addresses(taken)
        self._refuse_reuse(lies)
        if self.last:
            return taken
        if self.isolation.ranks.reuses_gradients or shared:
            taken = [None if g is None else g.clone() for g in taken]
            lies, _ = addresses(taken)
        self.kept += [(weakref.ref(g), at) for g, at in zip(taken, lies, strict=True) if at]
        return taken

    def _refuse_reuse(self, lies: list[int]) -> None:
        """A gradient that is still to be read must not have been written over."""
        self.kept = [(g, at) for g, at in self.kept if g() is not None]
        if {at for _, at in self.kept} & {at for at in lies if at}:
            raise RuntimeError(
                "an evaluation wrote its gradients over those of the one before: bind the model "
                "(optimizer.bind(model=model)), or let backward() make new ones"
            )

    def _show(self, taken: list[Any], held: bool, asked: tuple[str, ...]) -> None:
        """Note what `.grad` is to hold after the step."""
        if self.shown is None or (held and not self.shown_held):
            self.shown, self.shown_held = list(taken), held
            self.settled = set(asked) if held else set()
        elif held:
            at = {id(p): i for i, p in enumerate(self.all)}
            for t in set(asked) - self.settled:
                for p in self.params[t]:
                    self.shown[at[id(p)]] = taken[at[id(p)]]
                self.settled.add(t)

    def _give_back(self) -> None:
        """After an error: the step was not."""
        if self.before is not None:
            _set(self.all, self.before)
        self.isolation.rewind()
        self.before, self.shown = None, None

    def finish(self) -> None:
        """Leave the first gradients in `.grad`, and tell the scaler what was found."""
        if self.shown is not None:
            _set(self.all, self.shown)
        if self.found_inf is not None:
            report(self.scaler, self, self.found_inf)
        failed, isolation = self.before is None, self.isolation
        self.added = None if failed else self.adds
        try:
            if not failed:
                isolation.check()
        finally:
            self._reset()

    # Derivatives --------------------------------------------------------------------------

    def hvp(
        self, objective: str, points: Points, data: Any, wrt: str, of: str, vector: list[Any]
    ) -> list[Any]:
        """By central differences of gradients, where that is allowed."""
        if self.curvature != "finite":
            wrong = self.missing(f"Hessian-vector products of `{objective}`")
            raise RuntimeError(f"{wrong} (or allow differences: curvature='finite')")
        return finite_hvp(self, objective, points, data, wrt, of, vector)

    def jvp(self, objective: str, points: Points, data: Any, wrt: str, vector: list[Any]) -> Tensor:
        """Of a scalar loss: its gradient times the vector, which is exact."""
        once_only(self.params[wrt], complex=False)
        _, g = self.evaluate(Question(objective, points, data, gradients=(wrt,)))
        pairs = zip(g[wrt], vector, strict=True)
        products = [(a * b).sum() for a, b in pairs if a is not None and b is not None]
        return torch.stack(products).sum() if products else torch.zeros(())

    def vjp(
        self, objective: str, points: Points, data: Any, wrt: str, weights: Tensor
    ) -> list[Any]:
        """Of a scalar loss: its gradient times the weight."""
        if weights.numel() != 1:
            raise self.missing(f"the transposed derivative of `{objective}`")
        _, g = self.evaluate(Question(objective, points, data, gradients=(wrt,)))
        return [None if x is None else x * weights.to(x.dtype).reshape(()) for x in g[wrt]]


def _set(params: list[Tensor], gradients: list[Any]) -> None:
    for p, g in zip(params, gradients, strict=True):
        p.grad = g


def addresses(gradients: Iterable[Any]) -> tuple[list[int], bool]:
    """Where the storages of gradients lie, and whether one holds anything besides its gradient.

    0 for a gradient that is absent, sparse or empty.
    """
    found, shared = [], False
    for g in gradients:
        if g is None or g.is_sparse or not (size := g.nbytes):
            found.append(0)
            continue
        storage = (g if type(g) is Tensor else local(g)).untyped_storage()
        found.append(storage.data_ptr())
        shared = shared or storage.nbytes() > size
    held = [at for at in found if at]
    return found, shared or len({*held}) < len(held)
