"""The next character of Python's own documentation: a text that lies wherever Python does."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from .problem import Batch, Problem, device_of, seeded

# Modules of the standard library that explain themselves at length, all of them plain files.
MODULES = (
    "argparse bdb difflib doctest fractions heapq logging optparse pdb queue random smtplib "
    "statistics tarfile textwrap threading"
)
# Fixed, so that the model is the same under every version of Python.
ALPHABET = "\n" + "".join(map(chr, range(32, 127)))


class Chars:
    """A transformer of two blocks (0.1 million weights) that reads up to 64 characters.

    The text, some 200 thousand characters, is that of the running Python: numbers compare
    between runs, not between versions of Python.
    """

    name = "chars"

    def __init__(self, batch_size: int = 16, steps: int = 60, context: int = 64, width: int = 64):
        self.batch_size, self.steps = batch_size, steps
        self.context, self.width = context, width
        text = documentation()
        place = {letter: number for number, letter in enumerate(ALPHABET)}
        letters = torch.tensor([place[letter] for letter in text if letter in place])
        cut = len(letters) * 9 // 10
        self.letters, self.test = letters[:cut], letters[cut:]

    def model(self, seed: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return Transformer(len(ALPHABET), self.context, self.width)

    def batches(self, seed: int) -> Iterator[Batch]:
        generator = seeded(seed)
        last = len(self.letters) - self.context - 1
        for _ in range(self.steps):
            starts = torch.randint(last, (self.batch_size, 1), generator=generator)
            window = self.letters[starts + torch.arange(self.context + 1)]
            yield window[:, :-1], window[:, 1:]

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        before, after = batch
        return functional.cross_entropy(model(before).flatten(0, 1), after.flatten())

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        length = self.context
        rows = min(128, (len(self.test) - 1) // length)
        before = self.test[: rows * length].view(rows, length).to(device_of(model))
        after = self.test[1 : rows * length + 1].view(rows, length).to(device_of(model))
        with torch.no_grad():
            scores = model(before)
        right = (scores.argmax(-1) == after).double().mean()
        loss = functional.cross_entropy(scores.flatten(0, 1), after.flatten())
        return {"loss": loss.item(), "accuracy": right.item()}


class Transformer(nn.Module):
    """Pre-norm blocks, learned places, a head of its own: what rules tell apart by name."""

    def __init__(self, letters: int, context: int, width: int, blocks: int = 2):
        super().__init__()
        self.embed = nn.Embedding(letters, width)
        self.place_embed = nn.Embedding(context, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, letters)

    def forward(self, letters: Tensor) -> Tensor:
        places = torch.arange(letters.shape[-1], device=letters.device)
        flow = self.embed(letters) + self.place_embed(places)
        for block in self.blocks:
            flow = block(flow)
        scores: Tensor = self.head(self.norm(flow))
        return scores


class Block(nn.Module):
    """Attention and a small network, both added to what flows by."""

    def __init__(self, width: int, heads: int = 4):
        super().__init__()
        self.heads = heads
        self.attention_norm, self.network_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mixed = nn.Linear(width, 3 * width)
        self.attended = nn.Linear(width, width)
        self.network = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, flow: Tensor) -> Tensor:
        flow = flow + self.attended(self._attend(self.attention_norm(flow)))
        network: Tensor = self.network(self.network_norm(flow))
        return flow + network

    def _attend(self, flow: Tensor) -> Tensor:
        """Written out: the fused attention has no second derivative, and some rules ask for it."""
        rows, length, width = flow.shape
        parts = self.mixed(flow).view(rows, length, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        scores = query @ key.transpose(-1, -2) * (width // self.heads) ** -0.5
        later = torch.ones(length, length, dtype=torch.bool, device=flow.device).triu(1)
        weights = scores.masked_fill(later, float("-inf")).softmax(-1)
        attended: Tensor = (weights @ value).transpose(1, 2).reshape(rows, length, width)
        return attended


def documentation() -> str:
    """The docstrings of MODULES, in their order; read from source, so nothing is imported."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    found = []
    for name in MODULES.split():
        spec = importlib.util.find_spec(name)
        # The loader reads the source out of a zip file too.
        read = getattr(spec.loader if spec else None, "get_source", None)
        nodes = ast.walk(ast.parse((read and read(name)) or ""))
        found += [ast.get_docstring(node) or "" for node in nodes if isinstance(node, documented)]
    return "\n\n".join(filter(None, found))


def problem() -> Problem:
    return Chars()
