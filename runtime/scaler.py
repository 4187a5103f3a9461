"""What a GradScaler is owed: gradients divided by its scale, and whether all of them are finite."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .tensors import local


def unscale(gradients: Iterable[Any], scale: Tensor, found: Tensor) -> None:
    """Divide gradients in place by a GradScaler's scale; note in `found` what is not finite."""
    alike: dict[Any, list[Tensor]] = {}
    group = None
    for g in gradients:
        if g is not None:
            alike.setdefault((g.device, g.dtype), []).append(_numbers(local(g)))
            group = getattr(g, "device_mesh", group)
    inverse = scale.double().reciprocal().float()
    for (device, _), tensors in alike.items():
        here = torch.zeros((), dtype=torch.float32, device=device)
        torch._amp_foreach_non_finite_check_and_unscale_(tensors, here, inverse.to(device))
        found += here.to(found.device)
    if group is not None:
        for axis in range(group.ndim):
            dist.all_reduce(found, dist.ReduceOp.MAX, group.get_group(axis))


def _numbers(g: Tensor) -> Tensor:
    """The memory of a gradient as real numbers."""
    if not g.is_complex():
        return g
    return torch.view_as_real(g.conj() if g.is_conj() else g)


def report(scaler: Any, owner: object, found: Tensor) -> None:
    """Tell a scaler what a step found, so that update() follows: one decision a step."""
    scaler._per_optimizer_states[id(owner)]["found_inf_per_device"] = {found.device: found}
