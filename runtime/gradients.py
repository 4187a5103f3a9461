"""The loop of `optimizer.step()`: gradients where the parameters stand, and nothing else."""

from __future__ import annotations

from typing import Any

from .loop import Loop, Question
from .points import Answer, Params, Points


class Gradients(Loop):
    """`optimizer.step()`: the gradients that a backward pass left in `.grad`."""

    level = "gradients"

    def __init__(self, params: Params):
        super().__init__(params)
        self.asked: dict[str, str] = {}

    def remedy(self) -> str:
        return (
            "optimizer.step() gives only the gradients in .grad. Pass a closure that runs "
            "zero_grad, forward and backward and returns the loss: optimizer.step(closure); or "
            "optimizer.bind(model=model, objective=lambda batch: ...) and step(batch=batch)"
        )

    def evaluate(self, asked: Question) -> tuple[Any, Answer]:
        """What is in `.grad`."""
        objective = asked.objective
        if asked.value:
            raise self.missing(f"the value of `{objective}`")
        if not asked.held:
            raise self.missing(f"the gradient of `{objective}` at another point")
        for target in asked.gradients:
            before = self.asked.setdefault(target, objective)
            if before != objective:
                raise RuntimeError(
                    f"the rule takes the gradients of `{before}` and `{objective}` apart, and "
                    ".grad holds their sum at best: optimizer.bind(model=model, objective={"
                    f"{before!r}: lambda batch: ..., {objective!r}: ...}}), then "
                    "optimizer.step(batch=batch)"
                )
        return None, {t: [p.grad for p in self.params[t]] for t in asked.gradients}

    def hvp(
        self, objective: str, points: Points, data: Any, wrt: str, of: str, vector: list[Any]
    ) -> list[Any]:
        """Nothing here can be differentiated twice."""
        raise Loop(self.params).missing(f"the curvature of `{objective}`")
