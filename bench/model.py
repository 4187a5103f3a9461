"""Steps that evaluate a real model: what a rule adds to its gradients, and against its peers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median, quantiles
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Report = dict[str, Any]


@dataclass(frozen=True)
class Size:
    """A decoder like GPT-2, and its batch."""

    layers: int = 6
    width: int = 256
    vocabulary: int = 4096
    heads: int = 4
    batch: int = 16
    length: int = 128

    def __str__(self) -> str:
        return (
            f"{self.layers} layers of width {self.width}, vocabulary {self.vocabulary}, "
            f"{self.batch} x {self.length} tokens"
        )


SIZES = {
    "sam_adamw": Size(),
    # Curvature of every matrix at every step, and factors as large as its sides.
    "psgd": Size(layers=2, width=64, vocabulary=96, batch=8, length=64),
}
ROUNDS = 7
"""At most: each of them evaluates the model a dozen times, for seconds."""
TINY = Size(layers=1, width=16, vocabulary=32, heads=2, batch=2, length=8)


class Block(nn.Module):
    """Attention and a perceptron, each behind a norm and around a skip."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        width = size.width
        self.heads = size.heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        parts = self.qkv(self.norm1(x)).view(batch, length, 3, self.heads, width // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4)
        # Written out: the fused one has no second derivative on a CPU.
        scores = q @ k.transpose(-1, -2) / (width // self.heads) ** 0.5
        ahead = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)
        mixed = scores.masked_fill(ahead, float("-inf")).softmax(-1) @ v
        x = x + self.project(mixed.transpose(1, 2).reshape(batch, length, width))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Decoder(nn.Module):
    """Next-token prediction; the head is the embedding, as in GPT-2."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.embed = nn.Embedding(size.vocabulary, size.width)
        self.position = nn.Parameter(torch.zeros(size.length, size.width))
        self.blocks = nn.Sequential(*(Block(size) for _ in range(size.layers)))
        self.norm = nn.LayerNorm(size.width)
        nn.init.normal_(self.embed.weight, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens) + self.position
        return self.norm(self.blocks(x)) @ self.embed.weight.t()


class Training:
    """A model on one batch; stands in for `sets.Tensors`."""

    def __init__(self, size: Size, device: str = "cpu") -> None:
        torch.manual_seed(0)
        self.device = device
        self.model = Decoder(size).to(device)
        self.parameters = list(self.model.parameters())
        self.tokens = torch.randint(size.vocabulary, (size.batch, size.length + 1), device=device)
        self.inside = 0.0

    def objective(self) -> Tensor:
        """The mean cross entropy of the batch."""
        logits = self.model(self.tokens[:, :-1])
        return F.cross_entropy(logits.flatten(0, 1), self.tokens[:, 1:].flatten())

    def give(self) -> Tensor:
        """The closure of a training loop; its time is noted in `inside`."""
        start = self._now()
        for p in self.parameters:
            p.grad = None
        loss = self.objective()
        loss.backward()
        self.inside += self._now() - start
        return loss.detach()

    def _now(self) -> float:
        if self.device.startswith("cuda"):
            torch.cuda.synchronize()
        return perf_counter()

    def named(self) -> list[tuple[str, nn.Parameter]]:
        """The parameters with their names."""
        return list(self.model.named_parameters())

    @property
    def elements(self) -> int:
        """How many numbers there are in all."""
        return sum(p.numel() for p in self.parameters)


def on_a_model(
    kind: str,
    ours: Callable[[Training], tuple[Any, Callable[[], Any]]],
    rivals: dict[str, Callable[[Training], Callable[[], Any]]],
    race: Callable[..., dict[str, list[float]]],
    device: str,
    rounds: int,
    small: bool,
) -> Report:
    """Whole steps in turns, two plain gradients among them."""
    size = TINY if small else SIZES[kind]
    mine, plain = Training(size, device), Training(size, device)
    step = ours(mine)[1]
    inner: list[tuple[float, float]] = []

    def timed(work: Callable[[], Any], training: Training) -> Callable[[], float]:
        def run() -> float:
            training.inside, start = 0.0, training._now()
            work()
            seconds = training._now() - start
            if training is mine:
                inner.append((seconds, training.inside))
            return seconds

        return run

    runs = {"optc": timed(step, mine)}
    runs["two gradients"] = timed(lambda: (plain.give(), plain.give()), plain)
    failed: dict[str, str] = {}
    for name, build in rivals.items():
        theirs = Training(size, device)
        try:
            runs[name] = timed(build(theirs), theirs)
            runs[name]()
        except Exception as error:  # a library may fail in any way: that is a finding
            runs.pop(name, None)
            failed[name] = f"{type(error).__name__}: {error}".partition("\n")[0][:200]
    rounds = min(rounds, ROUNDS)
    times = race(runs, rounds)
    found: Report = {"model": str(size), "elements": mine.elements, "failed": failed}
    found["ms"] = {name: 1e3 * median(ts) for name, ts in times.items()}
    twice = times["two gradients"]
    found["overhead"] = {
        name: _spread([(t - g) / g for t, g in zip(ts, twice, strict=True)])
        for name, ts in times.items()
        if name != "two gradients"
    }
    own = [(s - i) / i for s, i in inner[-rounds:] if i]
    found["own"] = _spread(own) if own else None
    found["ratios"] = {
        name: _spread([a / b for a, b in zip(times["optc"], ts, strict=True)])
        for name, ts in times.items()
        if name not in ("optc", "two gradients")
    }
    return found


def _spread(values: list[float]) -> dict[str, float]:
    low, middle, high = quantiles(values, n=4, method="inclusive")
    return {"median": middle, "low": low, "high": high}
