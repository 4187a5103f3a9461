"""A compiled rule as a torch.optim.Optimizer: drop it into any training loop."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..compiler.bounds import INPUTS, complaint
from ..compiler.program import Plan, Program
from ..compiler.source import nearest
from . import unmatched
from .capture import Captures
from .checkpoint import add_snapshots, keep_types, restore_types, settled
from .closure import Closure
from .evaluation import refuse_swapped, swap
from .gradients import Gradients
from .in_backward import InBackward
from .inspection import parameters_of
from .kernels import Kernels
from .layout import Layout
from .loop import Loop
from .objective import Objective
from .options import lacking, of_call, refuse_misspelt, signature
from .replay import Replays
from .running import run_once
from .state import Slots, refuse_others
from .withheld import Withheld, decides, waited_for
from .workers import alone, seated

WITH_SCALER = (
    "scaler.step(optimizer) takes the gradients in .grad, and no closure: bind the scaler, and "
    "call optimizer.bind(..., scaler=scaler), optimizer.step(closure), scaler.update()"
)
SCALED_IN_BACKWARD = (
    "a GradScaler with in_backward: the rule's step has run within backward, on gradients that "
    "were still scaled: train in bfloat16 without a scaler, or pass in_backward=False"
)
PARTS = ("outputs", "criterion", "residual")
"""Functions that every rule may name without declaring them."""
BACKENDS = ("auto", "eager", "c", "triton", "inductor")


class Optimizer(torch.optim.Optimizer):
    """What all compiled rules share. `optimizer_class(program)` makes the class of one rule.

    Every option of the rule is a hyper-parameter of the groups, read anew at each step. Slots are
    kept in `state[p]` under `step name.slot name`; what belongs to no single tensor is kept with
    the first.
    """

    program: Program
    _looked = False  # whether the patterns of the rule were held against the names

    def __init__(
        self,
        params: Any,
        *args: Any,
        maximize: bool = False,
        seed: int = 0,
        backend: str = "auto",
        workers: Any = None,
        in_backward: bool | None = None,
        **options: Any,
    ):
        program = self.program
        if isinstance(params, torch.nn.Module):
            raise TypeError("Invalid params: a module; give optc.parameters(model)")
        defaults = of_call(program, args, options)
        if backend not in BACKENDS:
            raise ValueError(f"Invalid backend: {backend!r}; one of {', '.join(BACKENDS)}")
        defaults.update(maximize=maximize, seed=seed, calls=0, steps=0)
        self._bound: Objective | None = None
        self._binding: dict[str, Any] = {}
        self._inputs: dict[str, Any] = {}
        if in_backward and program.not_in_backward:
            raise ValueError(f"Invalid in_backward:\n{program.not_in_backward}")
        self.backend = program.backend if backend == "auto" else backend
        self.in_backward = program.in_backward if in_backward is None else in_backward
        self.workers = seated(program, workers)
        self.metrics: dict[str, Any] = {}
        self._snapshots: deque[Any] = deque(maxlen=program.snapshots)
        self._fresh()
        super().__init__(params, defaults)
        self.register_state_dict_pre_hook(settled)
        self.register_state_dict_post_hook(add_snapshots)
        self.register_load_state_dict_pre_hook(keep_types)
        self.register_load_state_dict_post_hook(restore_types)

    def _fresh(self) -> None:
        self._added: bool | None = None
        self._layout: Layout | None = None
        self._slots: Slots | None = None
        self._plans: dict[tuple[bool, tuple[bool, ...]], Plan] = {}
        self._kernels: Any = None
        self.captures = Captures()
        self.replays = Replays()
        self._withheld: Any = None
        self._open: tuple[list[bool] | None, Plan | None] | None = None
        self._backward: InBackward | None = self.__dict__.get("_backward")
        if self._backward is not None:
            self._backward.forget()
        elif self.in_backward:
            self._backward = InBackward(self)

    def __repr__(self) -> str:
        return super().__repr__().replace(type(self).__name__, self.program.name, 1)

    def __getstate__(self) -> dict[str, Any]:
        self.settle()
        state = super().__getstate__()
        hidden = {"_layout", "_slots", "_plans", "_kernels", "_bound", "_binding", "workers"}
        hidden |= {"captures", "replays", "_backward", "_withheld", "_open"}
        hidden.add("step")  # a scheduler puts one there that steps this optimizer
        own = {k: v for k, v in self.__dict__.items() if k not in hidden}
        return {**own, **state}

    def __deepcopy__(self, memo: dict[int, Any]) -> Optimizer:
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        twin.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        return twin

    def __setstate__(self, state: dict[str, Any]) -> None:
        # load_state_dict comes here too, and what is bound stays; a copy has nothing yet
        self._bound, self._binding = (
            self.__dict__.get("_bound"),
            self.__dict__.get("_binding", {}),
        )
        self.workers = getattr(self, "workers", None)
        self.in_backward = state.get("in_backward", self.__dict__.get("in_backward", False))
        self._fresh()
        super().__setstate__(state)
        if self._backward is not None:
            self._backward.watch(p for group in self.param_groups for p in group["params"])

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; its options are checked, what it leaves out has its default."""
        self.settle()
        refuse_misspelt(self.program, param_group)
        if missing := lacking(self.program, self.defaults, param_group):
            raise TypeError(
                f"{self.program.name} needs the option {missing!r}, from its call or every group"
            )
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        for name, bound in self.program.bounds.items():
            value = group[name]
            if isinstance(value, list):
                value = group[name] = tuple(value)
            wrong = "" if isinstance(value, Tensor) else complaint(bound, value)
            if wrong:
                self.param_groups.pop()
                raise ValueError(f"Invalid {name}: it {wrong}")
        for p in group["params"]:
            if p.is_sparse:
                raise ValueError("Invalid parameter: sparse tensors are not supported")
        if self.param_groups[0] is not group:
            group["calls"], group["steps"] = (
                self.param_groups[0]["calls"],
                self.param_groups[0]["steps"],
            )
        self._layout = None
        if self._backward is not None:
            self._backward.watch(group["params"])

    # Loops that give more than gradients --------------------------------------------------

    def bind(
        self, model: torch.nn.Module | None = None, objective: Any = None, **more: Any
    ) -> Optimizer:
        """Tell the rule how to evaluate its losses at any point: see `objective.Objective`."""
        program = self.program
        known = (*parameters_of(Objective), *PARTS, *program.objectives, *program.functions)
        self._known("bind", more, known)
        layout = self._arrange()
        self._binding = {"model": model, "objective": objective, **more}
        self._bound = self._objective(layout, self._binding)
        return self

    def supply(self, **inputs: Any) -> None:
        """Give the rule its inputs (`steps_per_epoch`, `epoch`, and those that it declares)."""
        self._known("supply", inputs, (*INPUTS, *self.program.inputs))
        self._inputs.update(inputs)

    def _known(self, method: str, given: dict[str, Any], known: tuple[str, ...]) -> None:
        for name in given:
            if name not in known:
                raise TypeError(
                    f"{method}() of {self.program.name} has no {name!r}; {nearest(name, known)}"
                )

    # The step -----------------------------------------------------------------------------

    @torch.compiler.disable
    def step(
        self, closure: Callable[[], Any] | None = None, *, objective: Any = None, batch: Any = None
    ) -> Any:
        """Run the rule once; returns the loss of the first evaluation, where the loop gives one.

        With `in_backward` the backward pass has run it, and the step is counted.
        """
        if self._backward is not None:
            with torch.no_grad():
                loss = self._backward.step(closure)
            self._count(True)
            return loss
        self.settle()
        if (found := self.__dict__.get("found_inf")) is not None:
            if closure is not None or objective is not None:
                raise RuntimeError(WITH_SCALER)
            waits = waited_for(found.device) or self.program.always
            if not waits and float(found) > 0:
                self._count(False)
                return None
        plain = closure is None and objective is None
        captured = plain and self.program.captured
        if plain and not captured and self.replays.step(self):
            return None
        with torch.no_grad():
            if captured and (self.captures.step(self) or self.replays.step(self)):
                return None
            return self._step(closure, objective, batch)

    def _step(self, closure: Callable[[], Any] | None, objective: Any, batch: Any) -> Any:
        """A step the long way, phase by phase."""
        layout = self._arrange()
        refuse_swapped(self)
        if self.program.workers and self.workers is None:
            raise RuntimeError(alone(self.program, type(self).__name__))
        loop = self._loop(layout, closure, objective)
        try:
            self._run(layout, loop, batch)
        finally:
            loop.finish()
            self._added = getattr(loop, "added", None)
        return getattr(loop, "first_value", None)

    @property
    def _step_supports_amp_scaling(self) -> bool:
        """Whether a GradScaler may leave what is in `.grad` scaled, and `grad_scale` here."""
        if self._backward is not None:  # only a scaler's step asks
            raise RuntimeError(SCALED_IN_BACKWARD)
        own = self.program.scaled is not None and self.program.level == "gradients"
        return own and self._bound is None

    def _loop(self, layout: Layout, closure: Any, objective: Any) -> Loop:
        """What this step may ask: the richest that the caller offers."""
        bound = self._bound
        if objective is not None:
            losses = [name for name in self.program.objectives if name not in PARTS]
            return (bound or self._objective(layout, {})).rebound(objective, losses)
        if closure is not None:
            more = bound.for_closure() if bound is not None else {}
            return Closure(layout.targets(), closure, added=self._added, **more)
        return bound if bound is not None else Gradients(layout.targets())

    def _objective(self, layout: Layout, binding: dict[str, Any]) -> Objective:
        made = Objective(layout.targets(), **binding)
        made.several = len(self.program.objectives) > 1
        return made

    def _arrange(self) -> Layout:
        quick = self._kernels if isinstance(self._kernels, Kernels) else self._layout
        if self._layout is None or quick is None or not quick.current(self.param_groups):
            made = Layout(self.program, self.param_groups, parameters=True)
            refuse_others(self.program, self._layout, made, self.state)
            self._layout = made
            if not self._looked:
                unmatched.warn(made)
                self._looked = True
            if self._bound is not None:
                self._bound = self._objective(self._layout, self._binding)
            self._restart()
        elif self._slots is not None and not self._slots.found_in(self.state):
            self._restart()
        return self._layout

    def _restart(self) -> None:
        """Take the slots from the state at the next step, which is no replay."""
        self._slots = self._kernels = None
        self.captures, self.replays = Captures(), Replays()

    def _run(self, layout: Layout, loop: Loop, batch: Any) -> None:
        if self._slots is None:
            self._slots = Slots(self.program, layout, self.state)
        outcome = run_once(self, layout, self._slots, self._printer(layout), loop, batch)
        if outcome != "recorded":
            self._count(outcome == "commit")

    def _count(self, committed: bool) -> None:
        """One call more, and one step more where it was not vetoed."""
        first = self.param_groups[0]
        self._counted(int(first["calls"]) + 1, int(first["steps"]) + committed)

    def _counted(self, calls: int, steps: int) -> None:
        for group in self.param_groups:
            group["calls"], group["steps"] = calls, steps

    def settle(self) -> None:
        """Learn whether the device took the last step back, and uncount it then.

        It is asked before each step and whenever state is saved; until then `steps` in the groups
        may be one too high, on a device that is waited for.
        """
        left, self._open = self._open, None
        if left is None:
            return
        took, plan = left
        if self._withheld.read(replayed=plan is None):
            first = self.param_groups[0]
            self._counted(int(first["calls"]), int(first["steps"]) - 1)
            if self._slots is not None:
                self._slots.retreat(took)
                if plan is not None:
                    self._slots.forget(plan.always)

    def left_open(self, took: list[bool] | None, asked: bool, plan: Plan | None = None) -> None:
        """A step was counted that the device may take back, if it was asked.

        `plan` is that of a step that was run, not replayed: state may have begun in it.
        """
        self._open = (took, plan) if asked else None
        if asked and plan is not None:
            self._withheld.mark()

    def _host(self, layout: Layout, slots: Slots) -> tuple[Any, int]:
        """The scalars of the step that comes, and the number of its call."""
        first = self.param_groups[0]
        call, steps = int(first["calls"]) + 1, int(first["steps"]) + 1
        return layout.host(self.param_groups, slots.steps(), call, steps, self._inputs), call

    def coming(self) -> tuple[Any, int, Plan]:
        """The step that comes over all tensors: its scalars, the number of its call, its plan."""
        assert self._layout is not None and self._slots is not None
        host, call = self._host(self._layout, self._slots)
        return host, call, self._plan(host.conditions())

    def go_on(self, took: list[bool] | None) -> None:
        """Count a step whose kernels were launched again."""
        assert self._slots is not None
        self._slots.advance(took)
        self._count(True)

    def record(self) -> None:
        """A step for a CUDA graph."""
        layout = self._arrange()
        self._run(layout, Gradients(layout.targets()), None)

    def advance(self) -> None:
        """Count a step and write its scalars, before a CUDA graph replays it: see `capture.py`."""
        self.captures.advance(self)

    def _withholding(self, plan: Plan, layout: Layout) -> Withheld | None:
        """The flag by which the device takes this step back alone; None where the host decides."""
        if self._backward is not None or not decides(plan, layout.device):
            return None
        if self._withheld is None or self._withheld.flag.device != layout.device:
            self._withheld = Withheld(layout.device)
        self._withheld.asked = False
        return self._withheld

    def _plan(self, bits: tuple[bool, ...], scaled: bool = False) -> Plan:
        key = scaled, bits
        if key not in self._plans:
            program = self.program
            lower = program.scaled()[0] if scaled and program.scaled else program.plan
            self._plans[key] = lower(bits)
        return self._plans[key]

    def _printer(self, layout: Layout) -> Any:
        """What runs the element-wise phases: compiled kernels where they can be had."""
        if self._kernels is None:
            self._kernels = self.made_kernels(layout)
        return self._kernels

    def made_kernels(self, layout: Layout) -> Any:
        """Kernels for the tensors of a layout, or None where phases run as torch operations."""
        if self.backend == "eager":
            return None
        from .backends import kernels

        return kernels(self.backend, layout)

    # Evaluation ---------------------------------------------------------------------------

    def eval(self) -> None:
        """Put the point of evaluation (an average, say) into the parameters, unless it is there."""
        swap(self, True)

    def train(self, mode: bool = True) -> None:
        """Put the held point back into the parameters."""
        swap(self, not mode)


def optimizer_class(program: Program, name: str = "", module: str = "") -> type[Optimizer]:
    """The optimizer class of a compiled rule; `module` is the one that holds it, if any does."""
    words = name or "".join(part.title() for part in program.name.split("_"))
    options = "\n".join(f"    {k} = {v}" for k, v in program.options.items())
    doc = f"{program.doc or program.name}\n\nOptions and their defaults:\n{options}"
    members: dict[str, Any] = {"program": program, "__doc__": doc}
    members["__signature__"] = signature(program, Optimizer.__init__)
    members |= {"__module__": module} if module else {"__reduce_ex__": _reduce}
    return type(words, (Optimizer,), members)


def _reduce(self: Optimizer, protocol: int) -> Any:
    """Classes of compiled rules are rebuilt from their text, since no module holds them."""
    program = self.program
    return _rebuilt, (program.rebuild, *program.origin), self.__getstate__()


def _rebuilt(
    compile: Callable[[str, str, str], Program], path: str, text: str, rule: str
) -> Optimizer:
    made = optimizer_class(compile(path, text, rule))
    return made.__new__(made)
