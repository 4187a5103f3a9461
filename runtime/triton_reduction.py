"""The second half of a reduction on a device: the partials of chunks become values."""

from __future__ import annotations

import triton
import triton.language as tl

from .triton_math import INF, optc_max, optc_min


@triton.jit(do_not_specialize=["rows", "groups", "chunks", "count", "first"])
def finish(
    partials,
    chunk_row,
    row_begin,
    group_of_row,
    tensor_values,
    group_values,
    model_values,
    ends,
    rows,
    groups,
    chunks,
    count,
    first,
    BLOCK: tl.constexpr,
):
    """Partials of the chunks into the values of tensors, groups and the model.

    One program a place (a tensor, a group, the model) and reduction; `ends` holds operation,
    reach and slot of each reduction. The order is fixed, so the bits do not depend on the device's
    schedule. Where not `first`, a table goes on with the values of the one before.
    """
    place = tl.program_id(0).to(tl.int64)
    k = tl.program_id(1).to(tl.int64)
    operation = tl.load(ends + k * 3)
    reach = tl.load(ends + k * 3 + 1)
    slot = tl.load(ends + k * 3 + 2)
    size = tl.where(reach == 0, rows, tl.where(reach == 1, groups, 1))
    begin = tl.full((), 0, tl.int64)
    end = begin + chunks
    if place < size:
        if reach == 0:
            begin = tl.load(row_begin + place)
            end = tl.load(row_begin + place + 1)
        start = tl.where(operation == 0, 0.0, tl.where(operation == 1, -INF, INF)).to(tl.float64)
        total = tl.full((BLOCK,), 0.0, tl.float64) + start
        for b in range(begin, end, BLOCK):
            c = b + tl.arange(0, BLOCK)
            m = c < end
            if reach == 1:
                row = tl.load(chunk_row + c, mask=m, other=0)
                m = m & (tl.load(group_of_row + row) == place)
            x = tl.load(partials + c * count + k, mask=m, other=0.0)
            both = tl.where(
                operation == 0,
                total + x,
                tl.where(operation == 1, optc_max(total, x), optc_min(total, x)),
            )
            total = tl.where(m, both, total)
        target = tensor_values + slot * rows + place
        if reach == 1:
            target = group_values + slot * groups + place
        elif reach == 2:
            target = model_values + slot
        if operation == 0:
            value = tl.sum(total, 0)
        elif operation == 1:
            value = tl.reduce(total, 0, optc_max)
        else:
            value = tl.reduce(total, 0, optc_min)
        if (first == 0) & (reach != 0):
            old = tl.load(target)
            if operation == 0:
                value = old + value
            elif operation == 1:
                value = optc_max(old, value)
            else:
                value = optc_min(old, value)
        tl.store(target, value)
