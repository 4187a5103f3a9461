"""A rule as a pure step over a tensor or a pytree of tensors.

    step = optc.functional("adam.opt")
    state = step.init(w)
    w, state, metrics = step(w, state, loss=loss)      # or gradient=g, where that is enough

Nothing is written in place, so the step may be traced by torch.compile and differentiated through:
with respect to the point, the state's tensors and what the loss closes over, but not to options,
which are numbers. It is compiled twice, when clocks and options that move are still constants and
when they are symbols, and once for each further variant of the rule (`every k`).
A tensor that the loss does not use has the gradient zero here: nothing is absent in a pure step.
Patterns of the rule (`named(..)`) match the path to a tensor: `block.0.weight`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.autograd.forward_ad import unpack_dual
from torch.utils import _pytree as pytree

from ..compiler.program import Call, Compute, Evaluate, Loop, Port, Program, SlotSpec, every_phase
from . import execute
from .frame import Frame, took_part
from .given import Given
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
        for plan in self._plans.values():
            _ = plan.last_asked  # a lock guards it where it is reckoned, which cannot be traced
        states = {n: s for n, s in program.slots.items() if s.kind == "state"}
        self._numbers = {n: s for n, s in states.items() if s.begins_as_number}
        self._starts = {n: program.start(n) for n in states if n not in self._numbers}
        for plan in (*self._plans.values(), *self._starts.values()):
            for phase in every_phase(plan.phases):
                if isinstance(phase, Compute):
                    phase.sides = phase.each_side()

    def init(self, w: Any, **options: Any) -> State:
        """The state before the first step; `options` stay until they are given again."""
        leaves, names, _ = _flat(w)
        _refuse_derivatives(options)
        known = with_defaults(self.program, options)
        group = {**known, "params": leaves, "param_names": names}
        layout = Layout(self.program, [group])
        host = HostRows(layout, [group], 1, 1, 1, {})
        slots: dict[str, Any] = {
            n: [leaves[i] for i in layout.members[n]] for n in self.program.targets
        }
        frame = self._frame(layout, host, slots, None, None, 1, 0, self._starts.values())
        early = [n for n, plan in self._starts.items() if not any(map(_waits, plan.phases))]
        for name, slot in self._numbers.items():
            frame.slots[name] = _first(slot, frame)
        self._begin(frame, host, early)
        return {
            "options": known,
            "slots": {n: frame.slots[n] for n in (*self._numbers, *early)},
            "t": 0,
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
        _refuse_derivatives(options)
        leaves, names, spec = _flat(w)
        group = {**state["options"], **options, "params": leaves, "seed": seed}
        group["param_names"] = names
        layout = Layout(self.program, [group])
        t = _later(state["t"])
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
        frame.inputs = inputs or {}
        begun = [n for n in self._starts if n not in frame.slots]
        self._begin(frame, host, begun)
        snapshots = deque(state.get("snapshots", ()), self.program.snapshots)
        clocks = state["t"], state["steps"]
        outcome = execute.step(plan, frame, snapshots, lambda: clocks)
        t, steps = frame.clocks or clocks
        # first values may come from what a step was taken back for
        gone = () if outcome == "commit" else set(begun) - plan.always
        after = {
            "options": state["options"] | options,
            "slots": {
                k: v
                for k, v in frame.slots.items()
                if "@" not in k and k not in self.program.targets and k not in gone
            },
            "t": _later(t, took_part(frame), len(leaves)) if outcome == "commit" else t,
            "calls": call,
            "steps": steps + int(outcome == "commit"),
            **({"snapshots": list(snapshots)} if snapshots else {}),
        }
        moved = list(leaves)
        for target in self.program.targets:
            for i, value in zip(layout.members[target], frame.slots[target], strict=True):
                moved[i] = value
        return pytree.tree_unflatten(moved, spec), after, frame.reported

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


def _later(t: int | list[int], took: list[bool] | None = None, count: int = 0) -> int | list[int]:
    """The clocks of the tensors one step on, or of those that took part: one number until they
    differ, which torch.compile then need not compare."""
    if took is not None and not all(took):
        before = [t] * count if isinstance(t, int) else t
        return [n + int(on) for n, on in zip(before, took, strict=True)]
    return t + 1 if isinstance(t, int) else [n + 1 for n in t]


def _refuse_derivatives(options: dict[str, Any]) -> None:
    """The host computes with the numbers of options: no derivative reaches them."""
    for name, value in options.items():
        for x in value if isinstance(value, list | tuple) else (value,):
            if isinstance(x, Tensor) and (x.requires_grad or unpack_dual(x).tangent is not None):
                raise ValueError(
                    f"Invalid option {name!r}: a tensor that requires grad, and no derivative "
                    f"reaches an option: pass {name}.detach() or a number. A step is "
                    "differentiated by tensors: the point, the state, what the loss closes over"
                )


def _flat(w: Any) -> tuple[list[Any], list[str], Any]:
    """A pytree's tensors, the path to each as patterns match it (`block.0.weight`), its form."""
    pairs, spec = pytree.tree_flatten_with_path(w)
    return [x for _, x in pairs], [".".join(map(_key, path)) for path, _ in pairs], spec


def _key(entry: Any) -> str:
    """A step of a path in a pytree: a key, a place, a field."""
    for name in ("key", "idx", "name"):
        if hasattr(entry, name):
            return str(getattr(entry, name))
    return str(entry)


def _waits(phase: Any) -> bool:
    """Whether a phase needs what only a step has: a loss, data, a seed."""
    if isinstance(phase, Loop):
        return any(map(_waits, phase.body))
    draws = any(p.how == "draw" for p in getattr(phase, "inputs", ()) if isinstance(p, Port))
    return draws or isinstance(phase, Evaluate | Call)


def _first(slot: SlotSpec, frame: Frame) -> Any:
    """The first value of a slot that begins as a number."""
    if slot.reach in ("model", "group"):
        dtype = torch.bool if slot.logical else torch.float64
        values = [torch.tensor(slot.init, dtype=dtype) for _ in frame.group_rows]
        return values if slot.reach == "group" else values[0]
    return [fresh(slot.init, frame.tensors[i], slot) for i in frame.members[slot.domain]]
