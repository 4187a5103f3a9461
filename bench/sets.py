"""Parameter sets: the shapes of known models, scaled down to a number of elements."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from time import perf_counter

import torch
from torch import Tensor, nn

Shapes = dict[str, tuple[int, ...]]
WIDE = 32
"""A dimension of this size or more is a width, which scaling shrinks; kernels keep their size."""
UNIT = 8
"""Scaled widths are multiples of this, as those of models are."""


def gpt2() -> Shapes:
    """GPT-2 small: 148 tensors, 124 million elements."""
    shapes: Shapes = {"embed.token": (50257, 768), "embed.position": (1024, 768)}
    for i in range(12):
        block = {"norm1": (768,), "qkv": (768, 2304), "project": (768, 768)}
        block |= {"norm2": (768,), "up": (768, 3072), "down": (3072, 768)}
        for name, shape in block.items():
            shapes[f"block{i}.{name}.weight"] = shape
            shapes[f"block{i}.{name}.bias"] = shape[-1:]
    return {**shapes, "norm.weight": (768,), "norm.bias": (768,)}


def resnet() -> Shapes:
    """ResNet-50: 161 tensors, 26 million elements."""
    shapes: Shapes = {}

    def convolution(name: str, into: int, out: int, size: int) -> None:
        shapes[f"{name}.weight"] = (out, into, size, size)
        shapes[f"{name}.norm.weight"] = shapes[f"{name}.norm.bias"] = (out,)

    convolution("stem", 3, 64, 7)
    into = 64
    for stage, depth in enumerate((3, 4, 6, 3)):
        width = 64 << stage
        for i in range(depth):
            name = f"stage{stage}.{i}"
            convolution(f"{name}.narrow", into, width, 1)
            convolution(f"{name}.middle", width, width, 3)
            convolution(f"{name}.widen", width, 4 * width, 1)
            if i == 0:
                convolution(f"{name}.skip", into, 4 * width, 1)
            into = 4 * width
    return {**shapes, "head.weight": (1000, 2048), "head.bias": (1000,)}


def small() -> Shapes:
    """1,000 tensors of 2,100 elements: what a step costs beside its bytes."""
    return {f"small{i}": (2100,) for i in range(1000)}


def large() -> Shapes:
    """4 matrices of 2048 x 2048: nothing but bytes, far beyond the caches."""
    return {f"hidden{i}": (2048, 2048) for i in range(4)}


def block() -> Shapes:
    """GPT-2's embeddings and first block, 14 tensors: for what takes minutes to compile."""
    return {name: shape for name, shape in gpt2().items() if name[:6] in ("embed.", "block0")}


def tiny() -> Shapes:
    """5 tensors, to try the command with."""
    return {**{f"hidden{i}": (16, 16) for i in range(4)}, "bias": (16,)}


SETS: dict[str, Callable[[], Shapes]] = {
    "gpt2": gpt2,
    "resnet": resnet,
    "small": small,
    "large": large,
    "block": block,
    "tiny": tiny,
}


def scaled(shapes: Shapes, elements: float) -> Shapes:
    """The same tensors with narrower widths, so that there are about so many elements at most."""
    factor = math.sqrt(min(1.0, elements / sum(map(math.prod, shapes.values()))))

    def width(n: int) -> int:
        return n if n < WIDE or factor == 1 else UNIT * max(1, round(n * factor / UNIT))

    return {name: tuple(map(width, shape)) for name, shape in shapes.items()}


@dataclass
class Tensors:
    """Parameters with gradients, and a closure whose time is noted in `inside`."""

    shapes: Shapes
    device: str = "cpu"
    closures: bool = False
    dtype: torch.dtype = torch.float32
    parameters: list[nn.Parameter] = field(init=False)
    gradients: list[list[Tensor]] = field(init=False)

    def __post_init__(self) -> None:
        random = torch.Generator().manual_seed(0)

        def some() -> Iterator[Tensor]:
            for shape in self.shapes.values():
                # In place: memory that is given back would hide what an optimizer takes.
                yield (
                    torch.empty(shape)
                    .normal_(0, 0.02, generator=random)
                    .to(self.device, self.dtype)
                )

        self.parameters = [nn.Parameter(t) for t in some()]
        # An evaluation may not write over the gradients of the one before.
        self.gradients = [list(some()) for _ in range(1 + self.closures)]
        self.loss = torch.tensor(1.0, device=self.device)
        self.inside = 0.0
        self.give()

    def give(self) -> Tensor:
        """A closure: puts gradients in place, as a backward pass would, and returns the loss."""
        start = perf_counter()
        for p, g in zip(self.parameters, self.gradients[0], strict=True):
            p.grad = g
        self.gradients.reverse()
        self.inside += perf_counter() - start
        return self.loss

    def objective(self) -> Tensor:
        """A loss that can be differentiated twice."""
        return sum((p.square().sum() for p in self.parameters), start=self.loss) / 2

    def named(self) -> list[tuple[str, nn.Parameter]]:
        """The parameters with their names."""
        return list(zip(self.shapes, self.parameters, strict=True))

    @property
    def elements(self) -> int:
        """How many numbers there are in all."""
        return sum(p.numel() for p in self.parameters)
