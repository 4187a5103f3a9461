"""Which kernels run the element-wise phases of a rule: C, Triton, inductor, or none."""

from __future__ import annotations

import warnings
from typing import Any

import torch

from . import native
from .c import C
from .kernels import Kernels

NO_NUMBERS = "parameters on the meta device, which hold no numbers"
NO_DEVICE = "no CUDA device under the parameters (TRITON_INTERPRET=1 runs kernels on the CPU)"
_told = False


def kernels(backend: str, layout: Any) -> Any:
    """The kernels for a layout, or None where phases run as torch operations."""
    if backend == "inductor":
        from .inductor import Inductor

        return Inductor()
    devices = {p.device for p in layout.params}
    if any(d.type == "meta" for d in devices) and backend == "auto":
        return None  # nothing is computed
    if backend == "triton" or any(d.type != "cpu" for d in devices):
        return _on_device(backend, layout, devices)
    if native.compiler() is None:
        if backend == "c":
            raise RuntimeError("no C compiler: set CC, or install cc, gcc or clang")
        return _told_eager("no C compiler")
    return Kernels(layout, C())


def _on_device(backend: str, layout: Any, devices: set[torch.device]) -> Any:
    """Triton's kernels, for parameters on one CUDA device."""
    from . import triton

    wrong = ""
    if len(devices) > 1:
        wrong = "parameters on several devices"
    elif not triton.available():
        wrong = "no Triton"
    elif native.compiler() is None:
        wrong = "no C compiler, which the pointer table and Triton need"
    elif next(iter(devices)).type != "cuda" and not triton.interpreted():
        meta = next(iter(devices)).type == "meta"
        wrong = NO_NUMBERS if meta else NO_DEVICE
    if backend == "c":
        raise RuntimeError("backend 'c' runs on the CPU, and the parameters are elsewhere")
    if not wrong:
        return Kernels(layout, triton.Triton(next(iter(devices))))
    if backend == "triton":
        raise RuntimeError(f"backend 'triton' cannot run: optc found {wrong}")
    return _told_eager(wrong) if backend == "auto" else None


def _told_eager(why: str) -> None:
    """Say once that steps are slow, and why."""
    global _told
    if not _told:
        _told = True
        warnings.warn(
            f"optc found {why}: steps run as torch operations, several times slower",
            stacklevel=4,
        )
