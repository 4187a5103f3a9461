"""Parameters of which each process holds a part (FSDP2's DTensors): what needs the others.

Element-wise arithmetic needs nobody. A sum, a largest or a smallest over a tensor or the model is
finished over the processes that share the tensor. Random numbers are those of the whole tensor.
What looks at a matrix as one (a product, a decomposition, a row) is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ..compiler import cells
from ..compiler.ops import OPS
from ..compiler.program import Compute

_OPERATION = {
    "sum": dist.ReduceOp.SUM,
    "max": dist.ReduceOp.MAX,
    "min": dist.ReduceOp.MIN,
    "any": dist.ReduceOp.MAX,
    "all": dist.ReduceOp.MIN,
}
_CELLWISE = {
    *(getattr(torch, op.torch) for op in OPS.values() if hasattr(torch, op.torch)),
    *(cells.ratio, cells.maximum, cells.minimum, cells.arrange, cells.spread),
}


class Shards:
    """The parameters of an optimizer of which some are sharded."""

    def __init__(self, params: Sequence[Tensor]):
        self.params = params
        self.groups = [_groups(p) for p in params]

    def __bool__(self) -> bool:
        return any(self.groups)

    # Reductions ---------------------------------------------------------------------------

    def _shared(self, members: Sequence[int]) -> tuple[Any, ...]:
        """The processes that share the tensors of a domain; they must be the same for all."""
        kinds = {self.groups[i] for i in members}
        if len(kinds) > 1:
            raise RuntimeError(
                "the rule reduces over parameters of which some are sharded and some are not: "
                "shard all of them alike (fully_shard(model) at last), or give them to two "
                "optimizers"
            )
        return kinds.pop() if kinds else ()

    def finish(self, phase: Compute, frame: Any) -> None:
        """Finish the reductions that a phase began over the parts of this process."""
        sums = [o for o in phase.outputs if o.combine]
        members = frame.members[phase.space]
        if sums:
            for group in self._shared(members):
                for output in sums:
                    value = frame.values[output.value]
                    frame.values[output.value] = _reduced(value, output.combine, group)
        if phase.mode == "torch" and any(self.groups[i] for i in members):
            _refuse_wholes(phase)

    # Random numbers -----------------------------------------------------------------------

    def place(self, i: int) -> tuple[int, int]:
        """The first cell of the part of this process in tensor i, and how many the whole has."""
        p = self.params[i]
        twice = 2 if p.is_complex() else 1
        return _first(p) * twice, p.numel() * twice


def _groups(p: Tensor) -> tuple[Any, ...]:
    """The process groups over which a tensor is sharded."""
    placements = getattr(p, "placements", ())
    mesh: Any = getattr(p, "device_mesh", None)
    return tuple(
        mesh.get_group(axis)
        for axis, placement in enumerate(placements)
        if not placement.is_replicate() and mesh.size(axis) > 1
    )


def _first(p: Tensor) -> int:
    """Where in a tensor, read row by row, the part of this process begins."""
    if not _groups(p):
        return 0
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    mesh, placements = p.device_mesh, p.placements  # type: ignore[attr-defined]
    shape, offset = compute_local_shape_and_global_offset(p.shape, mesh, placements)
    if tuple(shape[1:]) != tuple(p.shape[1:]):
        raise RuntimeError("random numbers need parameters that are sharded by their rows")
    return int(offset[0]) * p[:1].numel() if p.dim() else 0


def _reduced(value: Any, how: str, group: Any) -> Any:
    """A value combined over a group: one tensor, or a list with one number a tensor or a group."""
    if how not in _OPERATION:
        raise RuntimeError("the rule lays all cells side by side, and the parameters are sharded")
    if isinstance(value, list):
        present = [v for v in value if v is not None]
        if not present:
            return value
        found = iter(_reduced(torch.stack([torch.as_tensor(v) for v in present]), how, group))
        return [None if v is None else next(found) for v in value]
    logical = value.dtype == torch.bool
    value = value.double() if logical or value.is_floating_point() else value.clone()
    dist.all_reduce(value, _OPERATION[how], group)
    return value.bool() if logical else value


def _refuse_wholes(phase: Compute) -> None:
    """A phase that mixes the cells of one tensor would see the part of this process alone."""
    graph: Any = getattr(phase.module, "graph", None)
    if graph is None:
        return
    ends = {x for n in graph.nodes if n.op == "output" for x in n.all_input_nodes}
    for node in graph.nodes:
        if node.op == "call_function" and node.target not in _CELLWISE and node not in ends:
            raise RuntimeError(
                "the rule works on whole matrices or rows, and the parameters are sharded: "
                "each process would see its own part alone"
            )
