"""Workers: how they mix, and workers that meet in one process.

A worker is anything with a `rank`, a `size`, `mean(flat)` over all of them, and `exchange(flat,
senders, receivers, everyone)`, which gives what the senders brought, in their order; `everyone`
says that all send to all. `mix` is then the same for all of them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .networks import Weights, rows_of

SEEDS = 1_000_003
"""The distance between the seeds of two workers: each draws numbers of its own."""


# Mixing ---------------------------------------------------------------------------------------


def mix(worker: Any, value: Any, weights: Weights, likes: Sequence[Tensor], own: Any = None) -> Any:
    """The weighted mean of what the workers bring; `own` stands in for what this one brought.

    A value is a tensor, or a list of tensors with None where absent, and then `likes` say what the
    absent ones would be. What is absent at a neighbour is absent in the mean.
    """
    rows, me = rows_of(weights, worker.size), worker.rank
    senders = [j for j in range(worker.size) if rows[me][j] and j != me]
    receivers = [j for j in range(worker.size) if rows[j][me] and j != me]
    everyone = all(x for i, row in enumerate(rows) for j, x in enumerate(row) if i != j)
    parts = value if isinstance(value, list) else [value]
    kept = parts if own is None else own if isinstance(own, list) else [own]
    result: list[Any] = [None] * len(parts)
    for places in _alike(parts, kept, likes):
        flat, shapes = _packed([parts[p] for p in places], [likes[p] for p in places])
        if weights == ("complete",) and own is None:
            total = worker.mean(flat)
        else:
            parts_of = worker.exchange(flat, senders, receivers, everyone)
            brought = dict(zip(senders, parts_of, strict=True))
            brought[me] = _packed([kept[p] for p in places], [likes[p] for p in places])[0]
            total = torch.zeros_like(flat)
            for j in sorted(brought):  # in one order: the same bits wherever the workers are
                total += rows[me][j] * brought[j]
        there, *cells = total.split([len(places), *(s.numel() for s in shapes)])
        for at, (p, x, shape) in enumerate(zip(places, cells, shapes, strict=True)):
            result[p] = x.reshape(shape) if there[at] > 0.999 else None
    return result if isinstance(value, list) else result[0]


def _alike(parts: list[Any], kept: list[Any], likes: Sequence[Tensor]) -> list[list[int]]:
    """The places of what goes into one message: one type on one device."""
    messages: dict[Any, list[int]] = {}
    for p, (a, b, like) in enumerate(zip(parts, kept, likes, strict=True)):
        x = like if a is None and b is None else b if a is None else a
        messages.setdefault((x.dtype, x.device), []).append(p)
    return list(messages.values())


def _packed(parts: list[Any], likes: list[Tensor]) -> tuple[Tensor, list[torch.Size]]:
    """One flat tensor: for each part whether it is there, then the cells of all of them."""
    first = next((k for k, x in enumerate(parts) if x is not None), None)
    lead = () if first is None else parts[first].shape[: parts[first].dim() - likes[first].dim()]
    like = likes[0] if first is None else parts[first]
    shapes = [
        torch.Size((*lead, *e.shape)) if x is None else x.shape
        for x, e in zip(parts, likes, strict=True)
    ]
    there = torch.tensor([x is not None for x in parts], dtype=like.dtype, device=like.device)
    cells = [
        like.new_zeros(s.numel()) if x is None else x.reshape(-1)
        for x, s in zip(parts, shapes, strict=True)
    ]
    return torch.cat([there, *cells]), shapes


# Workers in one process -----------------------------------------------------------------------


class _Left(Exception):
    """Another worker failed, so this one stops."""


class Meeting:
    """Workers of one process, each in a thread, of which one runs at a time, in their order."""

    def __init__(self, size: int):
        self.size, self.changed = size, threading.Condition()
        self._begin()

    def _begin(self) -> None:
        self.turn, self.failed = 0, False
        self.done = [False] * self.size
        self.rounds = [0] * self.size
        self.boards: list[list[Any]] = [[None] * self.size, [None] * self.size]

    def run(self, step: Callable[[Seat], Any]) -> list[Any]:
        """What `step(seat)` gives for each worker; they may exchange while it runs."""
        self._begin()
        results: list[Any] = [None] * self.size
        errors: list[BaseException] = []
        graded = torch.is_grad_enabled()

        def work(rank: int) -> None:
            try:
                self._await(rank)
                with torch.set_grad_enabled(graded):
                    results[rank] = step(Seat(self, rank))
            except _Left:
                pass
            except BaseException as error:
                errors.append(error)
                self.failed = True
            self.done[rank] = True
            self._pass(rank)

        threads = [threading.Thread(target=work, args=(i,)) for i in range(self.size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]
        self._begin()  # nothing of the step stays
        return results

    def exchange(self, rank: int, brought: Any) -> list[Any]:
        """What all the workers brought to this round."""
        now = self.rounds[rank]
        board = self.boards[now % 2]
        board[rank] = brought
        self.rounds[rank] += 1
        self._pass(rank)
        self._await(rank)
        if min(self.rounds) <= now:
            raise RuntimeError(
                "the workers took different ways: one of them ended its step where others mix"
            )
        return board

    def _await(self, rank: int) -> None:
        with self.changed:
            self.changed.wait_for(lambda: self.turn == rank or self.failed)
        if self.failed:
            raise _Left

    def _pass(self, rank: int) -> None:
        """The next worker that is not done goes on."""
        with self.changed:
            order = [(rank + k) % self.size for k in range(1, self.size + 1)]
            self.turn = next((i for i in order if not self.done[i]), rank)
            self.changed.notify_all()


class Seat:
    """The place of one worker at a meeting."""

    def __init__(self, meeting: Meeting, rank: int):
        self.meeting, self.rank, self.size = meeting, rank, meeting.size

    def exchange(
        self, flat: Tensor, senders: Sequence[int], receivers: Sequence[int], everyone: bool
    ) -> list[Any]:
        board = self.meeting.exchange(self.rank, flat)
        return [board[j] for j in senders]

    def mean(self, flat: Tensor) -> Tensor:
        return torch.stack(self.meeting.exchange(self.rank, flat)).sum(0) / self.size
