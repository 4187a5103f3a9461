"""Shampoo and SOAP against pytorch_optimizer's, and against themselves written in torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import optc

SHAPES = [(4, 6), (5, 3), (4, 6), (3, 3), (7,)]


def rule(line: str) -> Any:
    return optc.loads(f"rule r(lr = 0.05):\n    precondition {line}\n    step lr\n")


def points(shapes: list[tuple[int, ...]]) -> list[torch.nn.Parameter]:
    make = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(*s, generator=make).double()) for s in shapes]


def gradients(shapes: list[tuple[int, ...]], steps: int) -> Iterator[list[Tensor]]:
    make = torch.Generator().manual_seed(1)
    for _ in range(steps):
        yield [torch.randn(*s, generator=make).double() for s in shapes]


def trained(opt: Any, params: list[torch.nn.Parameter], steps: int) -> list[Tensor]:
    for given in gradients([tuple(p.shape) for p in params], steps):
        for p, g in zip(params, given, strict=True):
            p.grad = g.clone()  # a peer may write into it
        opt.step()
    return [p.detach() for p in params]


def close(a: list[Tensor], b: list[Tensor], bound: float) -> None:
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y, rtol=bound, atol=bound)


def test_shampoo_is_pytorch_optimizers() -> None:
    peers = pytest.importorskip("pytorch_optimizer", reason="the reference of this test")
    shapes = SHAPES[:4]
    a, b = points(shapes), points(shapes)
    ours = trained(rule("shampoo(eps = 1e-3)")(a), a, 6)
    theirs = trained(peers.Shampoo(b, lr=0.05, matrix_eps=1e-3), b, 6)
    close(ours, theirs, 1e-8)


@pytest.mark.parametrize("interval", [1, 3, 100])
def test_soap_is_pytorch_optimizers(interval: int) -> None:
    """Of one tensor, whose refresh is not spread; theirs factorises in float32."""
    peers = pytest.importorskip("pytorch_optimizer", reason="the reference of this test")
    for shape in SHAPES:
        a, b = points([shape]), points([shape])
        ours = trained(rule(f"soap(interval = {interval})")(a), a, 8)
        peer = peers.SOAP(b, lr=0.05, weight_decay=0.0, precondition_frequency=interval)
        close(ours, trained(peer, b, 8), 1e-9 if interval == 100 or len(shape) == 1 else 1e-5)


class Shampoo:
    """The update of one matrix; `due` says in which steps its roots are taken."""

    def __init__(self, shape: tuple[int, ...], place: int, interval: int, eps: float):
        self.L, self.R = (eps * torch.eye(n).double() for n in shape)
        self.place, self.interval, self.call = place, interval, 0

    def __call__(self, g: Tensor) -> Tensor:
        self.call += 1
        self.L = self.L + g @ g.mT
        self.R = self.R + g.mT @ g
        if self.call == 1 or (self.call - 1 + self.place) % self.interval == 0:
            self.A, self.B = (
                torch.linalg.matrix_power(root(root(x)), -1) for x in (self.L, self.R)
            )
        return self.A @ g @ self.B


def root(x: Tensor) -> Tensor:
    """The square root of a positive matrix, by Denman and Beavers."""
    y, z = x, torch.eye(len(x)).double()
    for _ in range(60):
        y, z = (y + torch.linalg.inv(z)) / 2, (z + torch.linalg.inv(y)) / 2
    return y


class Soap:
    """The update of one matrix, in the order of the paper's code."""

    def __init__(self, shape: tuple[int, ...], place: int, interval: int):
        self.L, self.R = (torch.zeros(n, n).double() for n in shape)
        self.m, self.v = torch.zeros(shape).double(), torch.zeros(shape).double()
        self.place, self.interval, self.call = place, interval, 0

    def __call__(self, g: Tensor) -> Tensor:
        self.call += 1
        moved = torch.zeros_like(g) if self.call == 1 else self.moved(g)
        self.L, self.R = 0.95 * self.L + 0.05 * g @ g.mT, 0.95 * self.R + 0.05 * g.mT @ g
        if self.call == 1:
            self.U, self.V = (torch.linalg.eigh(x)[1].flip(1) for x in (self.L, self.R))
        elif (self.call - 1 + self.place) % self.interval == 0:
            self.U, rows = refreshed(self.L, self.U)
            self.V, cols = refreshed(self.R, self.V)
            self.v = self.v[rows][:, cols]
        return moved

    def moved(self, g: Tensor) -> Tensor:
        t = self.call - 1
        self.m = 0.95 * self.m + 0.05 * g
        self.v = 0.95 * self.v + 0.05 * (self.U.mT @ g @ self.V) ** 2
        n = (self.U.mT @ self.m @ self.V) / (self.v.sqrt() + 1e-8)
        return self.U @ n @ self.V.mT * ((1 - 0.95**t) ** 0.5 / (1 - 0.95**t))


def refreshed(x: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    order = torch.argsort((q * (x @ q)).sum(0), descending=True)
    return torch.linalg.qr((x @ q)[:, order])[0], order


@pytest.mark.parametrize("interval", [1, 3])
@pytest.mark.parametrize("name", ["shampoo", "soap"])
def test_refreshes_are_spread_over_the_tensors(name: str, interval: int) -> None:
    shapes = [(4, 4), (3, 3), (4, 4), (5, 5)]  # the longer side of others begins in no one basis
    a, b = points(shapes), points(shapes)
    line = {"shampoo": f"shampoo(eps = 0.1, interval = {interval})"}.get(
        name, f"soap(interval = {interval})"
    )
    ours = trained(rule(line)(a), a, 7)
    updates: list[Any] = [
        Shampoo(s, i, interval, 0.1) if name == "shampoo" else Soap(s, i, interval)
        for i, s in enumerate(shapes)
    ]
    for given in gradients(shapes, 7):
        for p, g, update in zip(b, given, updates, strict=True):
            p.data -= 0.05 * update(g)
    close(ours, [p.detach() for p in b], 1e-9)
