"""What a tensor really is: where its data lies, and whether a kernel may run over it flat."""

from __future__ import annotations

import torch
from torch import Tensor

_CODES = {
    **{torch.int8: 8, torch.int16: 16, torch.int32: 32, torch.int64: 64},
    **{torch.uint8: 1 << 8 | 8, torch.bool: 6 << 8 | 8, torch.bfloat16: 4 << 8 | 16},
    **{torch.float16: 2 << 8 | 16, torch.float32: 2 << 8 | 32, torch.float64: 2 << 8 | 64},
}
_PLAIN = Tensor.__torch_dispatch__


class Refused(ValueError):
    """Why a tensor cannot be used; the message goes on from its name."""


def dlpack_code(dtype: torch.dtype) -> int:
    """DLPack's `code << 8 | bits`; -1 for a type that only the slow check knows."""
    return _CODES.get(dtype, -1)


def is_plain(kind: type) -> bool:
    """Whether tensors of this type hold their data themselves, as wrappers do not."""
    return kind is Tensor or getattr(kind, "__torch_dispatch__", None) == _PLAIN


def local(tensor: Tensor, like: Tensor | None = None) -> Tensor:
    """The part of a DTensor that this process holds; any other tensor as it is."""
    placements = getattr(tensor, "placements", None)
    if placements is None:
        return tensor
    if any(placement.is_partial() for placement in placements):
        raise Refused("is a DTensor with a Partial placement: reduce it first")
    expected = getattr(like, "placements", placements)
    if expected != placements:
        raise Refused(f"is placed as {placements}, its parameter as {expected}")
    held = getattr(tensor, "_local_tensor", None)
    if held is None:
        with torch.no_grad():
            held = tensor.to_local()  # type: ignore[attr-defined]
    # The result of a collective that may still run; its memory is not there before.
    return held.wait() if hasattr(held, "trigger_wait") else held


def real(tensor: Tensor) -> Tensor:
    """A complex tensor as pairs of real numbers."""
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def same_layout(a: Tensor, b: Tensor) -> bool:
    """Whether equal indexes lie at equal offsets; the stride of a single element says nothing."""
    return a.shape == b.shape and all(
        size == 1 or one == two
        for size, one, two in zip(a.shape, a.stride(), b.stride(), strict=True)
    )


def is_dense(tensor: Tensor) -> bool:
    """Whether the elements fill their memory without hole or overlap, in some order."""
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


def examine_parameter(tensor: Tensor, dtype: torch.dtype, device: torch.device) -> str:
    """`kernel` or `eager`; Refused where no update would be right."""
    _reachable(tensor, device)
    if any(s == 0 and n > 1 for s, n in zip(tensor.stride(), tensor.shape, strict=True)):
        raise Refused("is expanded: several of its elements are one number in memory")
    if tensor.dtype != dtype or tensor.is_neg() or tensor.is_conj():
        return "eager"
    return "kernel" if is_dense(tensor) else "eager"


def examine(
    tensor: Tensor, like: Tensor, dtype: torch.dtype, device: torch.device, *, loose: bool = False
) -> str:
    """`kernel`, `copy` or `eager` for a tensor that belongs to the parameter `like`."""
    _reachable(tensor, device)
    if not loose and tensor.shape != like.shape:
        raise Refused(f"has shape {list(tensor.shape)}, its parameter {list(like.shape)}")
    if tensor.dtype != dtype:
        return "copy" if torch.promote_types(tensor.dtype, dtype) == dtype else "eager"
    if tensor.is_neg() or tensor.is_conj():
        return "copy"
    flat = tensor.is_contiguous() if loose else same_layout(tensor, like)
    return "kernel" if flat else "copy"


def _reachable(tensor: Tensor, device: torch.device) -> None:
    """Refuse what gives the address 0, or none, or one of another memory."""
    if torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        raise Refused("belongs to a function transform (vmap, grad, jvp): step outside of it")
    if not is_plain(type(tensor)):
        raise Refused(f"is a {type(tensor).__name__}, whose memory cannot be reached")
    if tensor.layout != torch.strided:
        raise Refused(f"is sparse ({tensor.layout}): only dense tensors are updated")
    if tensor.device != device:
        raise Refused(f"is on {tensor.device}, not on {device}")
    if tensor.numel() and tensor.data_ptr() == 0:
        raise Refused("has no memory: its storage was freed or resized to 0")


def staged(here: Tensor, device: torch.device) -> Tensor:
    """A copy on a device that nobody waits for.

    Pinned memory is the allocator's own again only when the device has read it.
    """
    return pinned(here, device).to(device, non_blocking=True, copy=True)


def pinned(here: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host that a device can read by itself."""
    return here.pin_memory() if device.type == "cuda" else here


def overlapping(start: Tensor, size: Tensor, written: Tensor) -> Tensor:
    """Which intervals share memory with another one, where at least one of the two is written."""
    order = torch.argsort(start)
    start, size, written = start[order], size[order], written[order]
    end = start + size
    found = torch.zeros_like(written)
    if bool((start[1:] < torch.cummax(end, 0).values[:-1]).any()):
        for i in range(len(start)):
            for j in range(i + 1, len(start)):
                if start[j] >= end[i]:
                    break
                if bool(written[i] | written[j]) and size[j]:
                    found[i] = found[j] = True
    return torch.zeros_like(found).scatter_(0, order, found)
