"""Element-wise phases as compiled C: the printer of the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..compiler.program import Compute, Program
from . import native
from .launch import Launch
from .table import Table


class C:
    """The printer of the CPU; what `triton.Triton` is for a GPU."""

    language, device = "c", torch.device("cpu")

    def launch(
        self,
        phase: Compute,
        signature: tuple[str, ...],
        program: Program,
        table: Table,
        **values: Any,
    ) -> Launch:
        return Launch(kernel(phase, signature, program), table, **values)

    def ahead(self, wanted: Sequence[tuple[Compute, tuple[str, ...]]], program: Program) -> None:
        """Begin to build the kernels of phases for their signatures."""
        native.build_ahead([source(phase, types, program) for phase, types in wanted])


def kernel(phase: Compute, signature: tuple[str, ...], program: Program) -> Any:
    """The compiled function of a phase for one signature of types."""
    return native.load(source(phase, signature, program)).phase


def source(phase: Compute, signature: tuple[str, ...], program: Program) -> str:
    """The C text that holds the function, with all that it computes with."""
    text = program.kernel_text(phase, signature, "c")
    return native.header() + native.text("operations.h") + text
