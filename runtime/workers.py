"""Rules `over workers`: simulated in one process, or one process each; the numbers are the same.

team = optc.simulate(Gossip, [m.parameters() for m in models], lr=0.1)
team.step([closure_of(m) for m in models])

opt = Gossip(model.parameters(), lr=0.1, workers=torch.distributed.group.WORLD)
opt.step(closure)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ..compiler.program import Program
from ..compiler.workers import SEEDS, Meeting, Seat


class Processes:
    """One process a worker: messages go through a process group of torch.distributed."""

    def __init__(self, group: Any):
        import torch.distributed as dist

        self.group, self.dist = group, dist
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)

    def exchange(
        self, flat: Tensor, senders: Sequence[int], receivers: Sequence[int], everyone: bool
    ) -> list[Tensor]:
        """What the senders brought: gathered where all send to all, else only among neighbours."""
        if everyone:
            return self._all(flat, senders)
        return self._some(flat, senders, receivers)

    def mean(self, flat: Tensor) -> Tensor:
        """The mean over all of them."""
        total = flat.clone()
        self.dist.all_reduce(total, group=self.group)
        return total / self.size

    def _all(self, flat: Tensor, senders: Sequence[int]) -> list[Tensor]:
        parts = [torch.empty_like(flat) for _ in range(self.size)]
        self.dist.all_gather(parts, flat, group=self.group)
        return [parts[j] for j in senders]

    def _some(self, flat: Tensor, senders: Sequence[int], receivers: Sequence[int]) -> list[Tensor]:
        dist = self.dist
        parts = [torch.empty_like(flat) for _ in senders]
        messages = [
            dist.P2POp(dist.isend, flat, group=self.group, group_peer=j) for j in receivers
        ] + [
            dist.P2POp(dist.irecv, part, group=self.group, group_peer=j)
            for part, j in zip(parts, senders, strict=True)
        ]
        for request in dist.batch_isend_irecv(messages) if messages else ():
            request.wait()
        return parts


def seated(program: Program, given: Any) -> Any:
    """The place of an optimizer among the workers: a seat, or one in a process group."""
    if given is None:
        return None
    if not program.workers:
        raise TypeError(f"{program.name} is not `over workers`: it takes no workers=")
    if hasattr(given, "exchange"):
        return given
    if isinstance(given, int | list | tuple):
        raise TypeError("workers= is a process group; optc.simulate runs workers in one process")
    return Processes(given)


def own_seed(seed: int, worker: Any) -> int:
    """Each worker draws numbers of its own."""
    return seed if worker is None else seed + SEEDS * worker.rank


def alone(program: Program, name: str) -> str:
    """What to pass where a rule over workers runs without any."""
    return (
        f"{program.name} is `over workers`, and this optimizer has none. One process a worker: "
        f"{name}(params, workers=torch.distributed.group.WORLD). In one process: "
        f"optc.simulate({name}, [params_of_worker_0, params_of_worker_1, ...]).step(closures)"
    )


class Team:
    """The workers of one process: their optimizers, which step together.

    Each worker steps in a thread of its own, one at a time and in order; what is set for a thread
    (autocast, say) belongs inside of the closures.
    """

    def __init__(self, rule: Callable[..., Any], params: Sequence[Any], **options: Any):
        self.meeting = Meeting(len(params))
        self.workers = [
            rule(p, workers=Seat(self.meeting, i), **options) for i, p in enumerate(params)
        ]

    def __len__(self) -> int:
        return len(self.workers)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.workers)

    def __getitem__(self, i: int) -> Any:
        return self.workers[i]

    def step(
        self,
        closures: Sequence[Callable[[], Any]] | None = None,
        *,
        batches: Sequence[Any] | None = None,
    ) -> list[Any]:
        """One step of all workers, each with its closure or batch; returns their losses."""
        for given in (closures, batches):
            if given is not None and len(given) != len(self):
                raise ValueError(f"{len(given)} closures or batches for {len(self)} workers")

        def step(seat: Seat) -> Any:
            closure = closures[seat.rank] if closures is not None else None
            batch = batches[seat.rank] if batches is not None else None
            return self.workers[seat.rank].step(closure, batch=batch)

        return self.meeting.run(step)

    def zero_grad(self, set_to_none: bool = True) -> None:
        for worker in self.workers:
            worker.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """The state of every worker."""
        return {"workers": [w.state_dict() for w in self.workers]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for worker, own in zip(self.workers, state["workers"], strict=True):
            worker.load_state_dict(own)


def simulate(rule: Callable[..., Any], params: Sequence[Any], **options: Any) -> Team:
    """The workers of a rule `over workers` in one process: one entry of `params` a worker.

    team = optc.simulate(Gossip, [m.parameters() for m in models], lr=0.1)
    team.step([closure_of(m) for m in models])       # or backward everywhere, then team.step()
    """
    return Team(rule, [list(p) if isinstance(p, Iterator) else p for p in params], **options)
