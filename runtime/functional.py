"""A rule as a pure step over a tensor or a pytree of tensors.

    step = optc.functional("adam.opt")
    state = step.init(w)
    w, state, metrics = step(w, state, loss=loss)      # or gradient=g, where that is enough

Nothing is written in place, so the step may be traced by torch.compile and differentiated through.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ..compiler.program import Evaluate, Program, SlotSpec
from . import execute
from .frame import Frame, took_part
from .layout import HostRows, Layout
from .options import with_defaults
from .state import fresh

State = dict[str, Any]


class Step:
    """`init(w)` gives the state, the call gives the next point, the next state and the metrics."""

    def __init__(self, program: Program):
        if program.workers:
            raise TypeError(f"{program.name} is over workers: run it by optc.simulate")
        self.program = program
        # all variants now: under torch.compile nothing may be lowered while the step is traced
        self._plans = {
            bits: program.plan(bits)
            for bits in product((False, True), repeat=len(program.conditions.names))
        }
        states = {n: s for n, s in program.slots.items() if s.kind == "state"}
        self._numbers = {n: s for n, s in states.items() if s.begins_as_number}
        self._starts = {n: program.start(n) for n in states if n not in self._numbers}

    def init(self, w: Any, **options: Any) -> State:
        """The state before the first step; `options` stay until they are given again."""
        leaves, _ = pytree.tree_flatten(w)
        known = with_defaults(self.program, options)
        group = {**known, "params": leaves}
        layout = Layout(self.program, [group])
        host = HostRows(layout, [group], 1, 1, 1, {})
        slots: dict[str, Any] = {
            n: [leaves[i] for i in layout.members[n]] for n in self.program.targets
        }
        frame = self._frame(layout, host, slots, None, None, 1, 0, self._starts.values())
        early = [
            n
            for n, plan in self._starts.items()
            if not any(isinstance(p, Evaluate) for p in plan.phases)
        ]
        for name, slot in self._numbers.items():
            frame.slots[name] = _first(slot, frame)
        self._begin(frame, host, early)
        return {
            "options": known,
            "slots": {n: frame.slots[n] for n in (*self._numbers, *early)},
            "t": [0] * len(leaves),
            "calls": 0,
            "steps": 0,
        }

    def _frame(
        self,
        layout: Layout,
        host: HostRows,
        slots: dict[str, Any],
        loop: Any,
        batch: Any,
        call: int,
        seed: int,
        plans: Any,
    ) -> Frame:
        plan = next(iter(plans), None)
        rows, group_rows = (
            (host.rows(plan.host), host.group_rows(plan.host)) if plan else (None, [()])
        )
        return Frame(
            self.program,
            list(layout.params),
            layout.members,
            layout.groups,
            slots,
            rows,
            group_rows,
            loop,
            batch,
            call,
            seed,
            functional=True,
        )

    def __call__(
        self,
        w: Any,
        state: State,
        *,
        loss: Callable[[Any], Tensor] | None = None,
        gradient: Any = None,
        batch: Any = None,
        seed: int = 0,
        inputs: dict[str, Any] | None = None,
        oracles: dict[str, Callable[..., Any]] | None = None,
        **options: Any,
    ) -> tuple[Any, State, dict[str, Any]]:
        """One step. `loss` is a function of the point (and of the batch, if one is given)."""
        leaves, spec = pytree.tree_flatten(w)
        group = {**state["options"], **options, "params": leaves}
        layout = Layout(self.program, [group])
        t = [n + 1 for n in state["t"]]
        call, steps = state["calls"] + 1, state["steps"] + 1
        host = HostRows(layout, [group], t, call, steps, inputs or {})
        bits = host.conditions()
        plan = self._plans[bits]
        slots: dict[str, Any] = {
            n: [leaves[i] for i in layout.members[n]] for n in self.program.targets
        }
        slots.update(state["slots"])
        given = Given(spec, loss, gradient, oracles or {}, layout)
        frame = self._frame(layout, host, slots, given, batch, call, seed, [plan])
        begun = [n for n in self._starts if n not in frame.slots]
        self._begin(frame, host, begun)
        outcome = execute.step(plan, frame, [])
        # first values may come from what a step was taken back for
        gone = () if outcome == "commit" else set(begun) - plan.always
        took = took_part(frame) or [True] * len(leaves)
        after = {
            "options": state["options"] | options,
            "slots": {
                k: v
                for k, v in frame.slots.items()
                if "@" not in k and k not in self.program.targets and k not in gone
            },
            "t": [
                n + int(on and outcome == "commit") for n, on in zip(state["t"], took, strict=True)
            ],
            "calls": call,
            "steps": steps if outcome == "commit" else steps - 1,
        }
        moved = list(leaves)
        for target in self.program.targets:
            for i, value in zip(layout.members[target], frame.slots[target], strict=True):
                moved[i] = value
        return pytree.tree_unflatten(moved, spec), after, execute.metrics(plan, frame)

    def _begin(self, frame: Frame, host: HostRows, names: list[str]) -> None:
        for name in names:
            plan, spec = self._starts[name], self.program.slots[name]
            inner = replace(
                frame, rows=host.rows(plan.host), group_rows=host.group_rows(plan.host), values={}
            )
            execute.run(plan, inner)
            value = inner.get(plan.metrics["value"])
            if isinstance(value, list) and spec.reach not in ("model", "group"):
                members = frame.members[spec.domain]
                value = [
                    fresh(v, frame.tensors[i], spec) for v, i in zip(value, members, strict=True)
                ]
            frame.slots[name] = value


def _first(slot: SlotSpec, frame: Frame) -> Any:
    """The first value of a slot that begins as a number."""
    if slot.reach in ("model", "group"):
        dtype = torch.bool if slot.logical else torch.float64
        values = [torch.tensor(slot.init, dtype=dtype) for _ in frame.group_rows]
        return values if slot.reach == "group" else values[0]
    return [fresh(slot.init, frame.tensors[i], slot) for i in frame.members[slot.domain]]


class Given:
    """The oracles of a functional step: a loss to differentiate, a gradient, or named functions."""

    level = "objective"

    def __init__(
        self, spec: Any, loss: Any, gradient: Any, oracles: dict[str, Any], layout: Layout
    ):
        self.spec, self.loss, self.oracles, self.layout = spec, loss, oracles, layout
        self.gradient = None if gradient is None else pytree.tree_flatten(gradient)[0]
        self.losses = {k: v for k, v in oracles.items()}

    def _function(self, objective: str) -> Callable[..., Tensor]:
        found = self.losses.get(objective, self.loss)
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

    def evaluate(
        self,
        objective: str,
        points: Any,
        data: Any,
        *,
        value: bool,
        gradients: tuple[str, ...],
        parts: Any = None,
    ) -> tuple[Any, dict[str, list[Any]]]:
        if self.gradient is not None and not value and all(p is None for p in points.values()):
            return None, {t: [self.gradient[i] for i in self.layout.members[t]] for t in gradients}
        call, at = self._at(objective, points, data)
        if not gradients:
            return call(at), {}
        wanted = {t: at[t] for t in gradients}

        def of(chosen: dict[str, list[Tensor]]) -> tuple[Tensor, Tensor]:
            result = call({**at, **chosen})
            return result, result

        if self._axes(objective):
            g = torch.func.jacrev(lambda c: of(c)[0])(wanted)
            return call(at) if value else None, g
        g, loss = torch.func.grad(of, has_aux=True)(wanted)
        return loss, g

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
            return self.oracles[op](*arguments)
        raise RuntimeError(f"the rule asks for data by `{op}`: pass oracles={{{op!r}: ...}}")

    def finish(self) -> None:
        """Nothing was changed."""
