"""Ranks of a data-parallel model: when they exchange gradients, and the mean over them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class Ranks:
    """The data-parallel wrapper among the modules, if there is one."""

    def __init__(self, modules: Iterable[torch.nn.Module]):
        kind = torch.nn.parallel.DistributedDataParallel
        inside = list(dict.fromkeys(m for root in modules for m in root.modules()))
        self.wrapper: Any = next((m for m in inside if isinstance(m, kind)), None)
        self.silent: Any = next((m for m in inside if hasattr(m, "no_sync")), None)

    def quiet(self) -> AbstractContextManager[Any]:
        """No exchange of gradients within, where the model knows `no_sync`."""
        return nullcontext() if self.silent is None else self.silent.no_sync()

    @property
    def several(self) -> bool:
        """Whether gradients are those of more than one rank."""
        return self.wrapper is not None and dist.get_world_size(self.wrapper.process_group) > 1

    @property
    def reuses_gradients(self) -> bool:
        """Whether the next backward pass writes where the last gradients lie."""
        return bool(getattr(self.wrapper, "gradient_as_bucket_view", False))

    def mean(self, tensors: Sequence[Any], like: Sequence[Tensor]) -> list[Any]:
        """The mean over ranks; what is absent on some ranks only counts as zero there."""
        if self.wrapper is None or not tensors:
            return list(tensors)
        group = self.wrapper.process_group
        present = torch.tensor([t is not None for t in tensors], device=like[0].device).int()
        dist.all_reduce(present, dist.ReduceOp.MAX, group)
        result: list[Any] = []
        pending = []
        for t, p, on in zip(tensors, like, present.tolist(), strict=True):
            t = (torch.zeros_like(p) if t is None else t.contiguous()) if on else None
            result.append(t)
            if t is not None:
                pending.append(dist.all_reduce(t, group=group, async_op=True))
        for work in pending:
            work.wait()
        size = dist.get_world_size(group)
        return [None if t is None else t.div_(size) for t in result]

    def of_all(self, value: Tensor, params: Sequence[Tensor]) -> Tensor:
        """A loss as the mean over the ranks that train together: all of them decide alike."""
        if self.wrapper is not None:
            groups = [self.wrapper.process_group]
        else:  # sharded parameters
            mesh = next((p.device_mesh for p in params if hasattr(p, "device_mesh")), None)
            groups = [] if mesh is None else [mesh.get_group(i) for i in range(mesh.ndim)]
        for group in groups:
            value = value.clone()
            dist.all_reduce(value, group=group)
            value = value / dist.get_world_size(group)
        return value
