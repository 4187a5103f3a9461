"""The random numbers of phases that run as torch operations, by the C code that kernels draw with.

`random.draw` says what they are; in torch's operations it takes a hundred times as long.
"""

from __future__ import annotations

import ctypes
import functools

import torch
from torch import Tensor

from . import native, random

DISTRIBUTIONS = ("uniform", "normal", "rademacher")
TYPES = {torch.float64: "f64", torch.float32: "f32"}


def draw(
    how: str,
    seed: int,
    stream: int,
    call: int,
    n: int,
    offset: int = 0,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """`random.draw`, in C; float32 is rounded once, as a kernel has it."""
    if how not in DISTRIBUTIONS or native.compiler() is None:
        return random.draw(how, seed, stream, call, n, offset, dtype)
    out = torch.empty(n, dtype=dtype if dtype in TYPES else torch.float64, device="cpu")
    function = getattr(library(), f"{how}_{TYPES[out.dtype]}")
    numbers = (random.key(seed, stream), call, offset, n)
    function(*map(ctypes.c_uint64, numbers), ctypes.c_void_p(out.data_ptr()))
    return out.to(dtype)


def source() -> str:
    """The C text, which is the same for every rule."""
    return native.header() + native.text("draw.c")


@functools.cache
def library() -> ctypes.CDLL:
    """Loaded so that the GIL is free while numbers are drawn."""
    return native.load(source())
