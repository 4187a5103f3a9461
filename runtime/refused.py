"""A matrix that torch refuses to decompose or to solve with: what a step says of it."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from ..compiler.program import Compute
from .frame import Frame

Row = tuple[int | None, Sequence[Any]]
"""A tensor's number, or None for the model, and what a phase takes for it."""

OPERATIONS = ("cholesky", "eigh", "inverse", "lstsq", "polar", "solve", "sqrtm", "svd")
NOT_FINITE = "a value of its matrix is not finite: lower the step, or leave out such gradients"
SINGULAR = "help: add a small multiple of `eye` to the matrix, or take `lstsq` in place of `solve`"


class Watched(fx.Interpreter):
    """Runs a phase's graph and remembers the call that torch refused."""

    refused: fx.Node | None = None
    given: tuple[Any, ...] = ()

    def run_node(self, n: fx.Node) -> Any:
        try:
            return super().run_node(n)
        except RuntimeError:
            if self.refused is None:
                self.refused, self.given = n, self.fetch_args_kwargs_from_env(n)[0]
            raise


@dataclass
class Found:
    """The operation that failed, where the rule says it, what it was given and what torch said."""

    operation: str
    place: str
    given: Sequence[Any]
    error: RuntimeError


def refused(
    error: RuntimeError, phase: Compute, frame: Frame, rows: Iterable[Row]
) -> RuntimeError | None:
    """What to raise where a matrix of a phase was refused; None where something else is wrong.

    The phase runs again, tensor by tensor, to find the one that it fails for.
    """
    if "linalg" not in str(error):
        return None
    for i, row in rows:
        found = _found(phase.forward(row), row)
        if found is not None:
            where = f" for {_called(frame, i)}" if i is not None else ""
            head = f"{frame.program.name}: `{found.operation}` failed{where}{found.place}"
            finite = all(bool(x.isfinite().all()) for x in found.given if isinstance(x, Tensor))
            reason = [_reason(found.error), SINGULAR] if finite else [NOT_FINITE]
            return torch.linalg.LinAlgError("\n  ".join([head, *reason]))
    return None


def _found(forward: Callable[..., Any], row: Sequence[Any]) -> Found | None:
    module = getattr(forward, "__self__", None)
    if not isinstance(module, fx.GraphModule):
        return _printed(forward, row)
    run = Watched(module)
    try:
        run.run(*row)
    except RuntimeError as error:
        assert run.refused is not None
        made = [n.meta["node"] for n in (run.refused, *run.refused.users) if "node" in n.meta]
        for node in made:
            if node.op in OPERATIONS:
                return Found(node.op, _line(node.span), run.given, error)
    return None


def _printed(forward: Callable[..., Any], row: Sequence[Any]) -> Found | None:
    """The same of a phase that stands in a module as text."""
    try:
        forward(*row)
    except RuntimeError as error:
        file = forward.__code__.co_filename
        calls = traceback.extract_tb(error.__traceback__)
        for own in (c for c in reversed(calls) if c.filename == file):
            called = str(error).partition("linalg.")[2].partition(":")[0]  # by its name in torch
            return Found(called, f"\n  {file}:{own.lineno}: {own.line}", row, error)
    return None


def _line(span: Any) -> str:
    """Where a rule says it: its own line, and that of a library if it came from there."""
    text = ""
    for at in (s for s in (span.caller, span) if s is not None):
        line = at.source.line(at.row).strip()
        text += f"\n  {at.source.path}:{at.row}:{at.column}: {line}"
    return text


def _called(frame: Frame, i: int) -> str:
    return f"`{frame.names[i]}`" if frame.names and frame.names[i] else f"parameter {i}"


def _reason(error: RuntimeError) -> str:
    """What torch says of the matrix, without the name of its function."""
    return str(error).splitlines()[0].partition(": ")[2] or str(error)
