"""The library that looks at the tensors of tables: what they are, where they lie, what changed."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import native
from .tensors import is_plain

DEVICES = {"cpu": 1, "cuda": 10 if torch.version.hip else 2}
_IS_NEG, _GRAD = Tensor.is_neg, "grad"


class Described(ctypes.Structure):
    """`table` of table.c."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("rows", "columns")),
        *((name, ctypes.c_void_p) for name in ("addr", "numel", "layout", "verdict")),
        *((name, ctypes.c_void_p) for name in ("dtype", "loose", "blocked", "plain")),
        ("plain_count", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("api", "is_neg", "grad")),
        *((name, ctypes.c_int32) for name in ("device_type", "device_id", "parameter")),
        *((name, ctypes.c_int32) for name in ("changed", "moved", "trouble")),
    ]


def source() -> str:
    """The C text that is the same for every rule."""
    return native.text("args.h") + native.text("launch.c") + native.text("table.c")


def unchanged(lists: Sequence[Any], known: list[Tensor], live: bytes) -> bool:
    """Whether lists hold the known tensors in order, each frozen or not as it was.

    A frozen one has `live` 0. Python takes longer, and touches each tensor twice.
    """
    at = 0
    for tensors in lists:
        if type(tensors) is not list:
            return False
        at = library().optc_same(tensors, known, at, live, "requires_grad")
        if at < 0:
            return False
    return at == len(known)


@functools.cache
def library() -> ctypes.CDLL:
    library = native.load(source(), kind=ctypes.PyDLL)
    place, size, anything = ctypes.c_void_p, ctypes.c_int64, ctypes.py_object
    library.optc_fill.argtypes = [place, anything, place, size, anything]
    library.optc_fill.restype = None
    library.optc_same.argtypes = [anything, anything, size, ctypes.c_char_p, anything]
    library.optc_same.restype = size
    library.optc_chunks.argtypes = [place, place, size, place, place]
    library.optc_chunks.restype = ctypes.c_int64
    return library


@functools.cache
def exchange() -> int | None:
    """The address of torch's DLPack functions; older versions of torch have none."""
    capsule = getattr(Tensor, "__dlpack_c_exchange_api__", None)
    if capsule is None:
        return None
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    place = pointer(capsule, b"dlpack_exchange_api")
    major = ctypes.c_uint32.from_address(place).value
    # After the header (version and a pointer) the fourth function describes a tensor.
    describe = ctypes.c_void_p.from_address(place + 16 + 3 * 8).value
    return place if major == 1 and describe else None


def describe(table: Any) -> Described | None:
    """What C needs to know of a table; None where only the checks in Python can be used."""
    api, kind = exchange(), DEVICES.get(table.device.type)
    if api is None or kind is None:
        return None
    types = {type(tensor) for tensor in table.parameters} | {Tensor, torch.nn.Parameter}
    # Types are known by their address; the list keeps them where they are.
    table.plain = [one for one in types if is_plain(one)]
    addresses = (ctypes.c_size_t * len(table.plain))(*map(id, table.plain))
    memory: list[Any] = [
        table._layout,
        table._verdict,
        table._dtype,
        table._loose,
        table._blocked,
        addresses,
    ]
    struct = Described(
        *(table.rows, table.columns, table.addr.data_ptr(), table.numel.data_ptr()),
        *(ctypes.addressof(array) for array in memory),
        *(len(table.plain), api, id(_IS_NEG), id(_GRAD)),
        *(kind, table.device.index or 0, table.parameter),
    )
    struct.keep = addresses
    return struct
