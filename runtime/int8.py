"""Slots kept as int8: a code a cell, and for each block of cells their largest size in float32.

A cell is size * (code / 127)^power with the sign of its code. So it is off by at most
power * size / 254; above power 1 no cell that is not 0 becomes 0. Blocks go through the cells of a
tensor in the order of memory. formats.h says the same in C, bit for bit.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..compiler.formats import Format


def in_memory(x: Tensor) -> Tensor:
    """The cells of a tensor without holes as one row, in the order of memory; a view."""
    return x.as_strided((x.numel(),), (1,))


def sizes_like(codes: Tensor, format: Format) -> Tensor:
    """Room for the sizes of the blocks of a tensor."""
    count = -(-codes.numel() // format.block)
    return torch.zeros(count, dtype=torch.float32, device=codes.device)


def decode(codes: Tensor, sizes: Tensor, format: Format) -> Tensor:
    """The cells, in float32, laid out as their codes."""
    result = torch.empty_like(codes, dtype=torch.float32)
    flat = in_memory(codes).float()
    part = flat.abs() / 127
    for _ in range(format.power.bit_length() - 1):
        part = part * part
    size = sizes.repeat_interleave(format.block)[: flat.numel()]
    in_memory(result).copy_(size * torch.copysign(part, flat))
    return result


def encode(x: Tensor, codes: Tensor, sizes: Tensor, format: Format) -> None:
    """Write cells as codes and sizes."""
    laid = torch.empty_like(codes, dtype=torch.float32)
    laid.copy_(x)
    flat, block = in_memory(laid), format.block
    padded = torch.nn.functional.pad(flat, (0, -flat.numel() % block)).view(-1, block)
    size = padded.abs().amax(1)
    part = padded.abs() / size[:, None]
    for _ in range(format.power.bit_length() - 1):
        part = part.sqrt()
    code = (part * 127).round()
    if format.power > 1:
        code = torch.where(padded == 0, 0.0, code.clamp(min=1.0))
    fine = (size > 0) & size.isfinite()
    code = torch.where(fine[:, None], torch.copysign(code, padded), 0.0)
    in_memory(codes).copy_(code.view(-1)[: flat.numel()].to(torch.int8))
    sizes.copy_(torch.where(size.isfinite(), size, torch.nan))
