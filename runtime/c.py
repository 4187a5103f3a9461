"""Element-wise phases as compiled C: the printer of the CPU."""

from __future__ import annotations

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


def kernel(phase: Compute, signature: tuple[str, ...], program: Program) -> Any:
    """The compiled function of a phase for one signature of types."""
    text = program.kernel_text(phase, signature, "c")
    return native.load(native.header() + native.text("operations.h") + text).phase
