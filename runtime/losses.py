"""The losses of a rule as functions of a batch, by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from .inspection import modules_of, takes

Function = Callable[..., Any]


def unused(name: str, more: str = "") -> RuntimeError:
    """The error of a loss by which no parameter of a step has a gradient."""
    return RuntimeError(
        f"the loss `{name}` uses none of the parameters that this step is of, or only frozen ones: "
        f"compute it of the model whose parameters the optimizer holds, some of them unfrozen{more}"
    )


def refuse_unused(name: str, f: Tensor, params: Iterable[Tensor]) -> None:
    """A loss that cannot be differentiated, though parameters wait for it."""
    if not f.requires_grad and any(p.requires_grad for p in params):
        raise unused(
            name,
            ", and only run the model forward, without backward(), detach(), no_grad() or "
            "inference_mode()",
        )


class Losses:
    """One function for the rule's loss, or one for each of several; each may give a dict of them.

    `name` is the loss that a single function without a name stands for.
    """

    def __init__(
        self,
        objective: Function | Mapping[str, Function] | None,
        functions: Mapping[str, Function],
    ):
        self.functions = dict(functions)
        self.default: Function | None = None
        self.name = ""
        self.bind(objective)

    def bind(
        self, objective: Function | Mapping[str, Function] | None, instead_of: Iterable[str] = ()
    ) -> None:
        """Take this objective from now on, also for losses that had a function by name."""
        if isinstance(objective, Mapping):
            self.functions.update(objective)
        else:
            self.default, self.name = objective, ""
            for name in instead_of:
                self.functions.pop(name, None)

    def modules(self) -> list[torch.nn.Module]:
        """The modules that the losses reach."""
        functions = [*self.functions.values(), *([self.default] if self.default else [])]
        return list(dict.fromkeys(m for f in functions for m in modules_of(f)))

    def answer(self, name: str, data: Any) -> Tensor:
        """One call of the objective."""
        function = self._function(name)
        arguments = () if data is None and takes(function) else (data,)
        try:
            found = function(*arguments)
        except (TypeError, AttributeError) as error:
            if takes(function, *arguments):
                if arguments == (None,):
                    error.add_note(
                        f"the loss `{name}` was called with None, since no batch is given: "
                        "optimizer.step(batch=...)"
                    )
                raise
            if isinstance(error, AttributeError):
                raise
            how = "with the batch" if arguments else "without an argument"
            raise TypeError(f"the loss `{name}` is called {how}: {error}") from None
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

    def scalar(self, name: str, data: Any) -> Tensor:
        """The same of an objective that has one value."""
        f = self.answer(name, data)
        if f.dim():
            raise RuntimeError(f"`{name}` has several values; curvature is of one: take its mean")
        return f

    def _function(self, name: str) -> Function:
        if name in self.functions:
            return self.functions[name]
        if self.default is None:
            raise RuntimeError(
                f"the rule evaluates `{name}`: pass optimizer.bind(model=model, "
                f"objective={{{name!r}: lambda batch: ...}})"
            )
        return self.default
