"""Lives an optimizer's life (`lives.py`) with one printer, or in the interpreter.

What interrupts a run (it is saved, copied, moved, its closure raises) is no part of the life: it
must change nothing.
"""

from __future__ import annotations

import copy
import io
import pickle
import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import optc
from optc.compiler import driver
from optc.compiler.interpret import Interpreter, Tensors
from optc.compiler.passes.guard import guard
from optc.compiler.source import Source
from optc.plugins.registry import library
from optc.runtime.random import draw

from .lives import Life, Turn

INTERRUPTIONS = (
    *("load", "file", "reload", "deepcopy", "pickle"),
    *("move", "flicker", "look", "failed_step"),
)


def interruptions(life: Life, seed: int) -> dict[int, str]:
    """What happens before which step."""
    r = random.Random(seed)
    return {k: r.choice(INTERRUPTIONS) for k in range(1, len(life.turns)) if r.random() < 0.4}


def values_of(life: Life) -> list[Tensor]:
    """Where the tensors begin, and how they lie."""
    found = []
    for k, (shape, dtype, way) in enumerate(zip(life.shapes, life.dtypes, life.ways, strict=True)):
        g = torch.Generator().manual_seed(life.seed * 31 + k)
        value = (0.5 * torch.randn(shape, generator=g, dtype=torch.float64)).to(dtype)
        if dtype.is_complex:
            value = value + 0.3j * torch.randn(shape, generator=g)
        found.append(laid(value.to(dtype), way))
    return found


def laid(x: Tensor, way: str) -> Tensor:
    if way == "turned" and x.dim() == 4:
        return x.contiguous(memory_format=torch.channels_last)
    if way == "turned" and x.dim() >= 2:
        return x.transpose(0, 1).contiguous().transpose(0, 1)
    if way == "apart" and x.dim():
        return torch.stack([x, x], -1)[..., 0]
    return x.clone(memory_format=torch.contiguous_format)


def loss_of(tensors: list[Tensor], turn: Turn, k: int, seed: int) -> Tensor:
    """Smooth, other at each step; a tensor that is absent plays no part."""
    total = torch.zeros((), dtype=torch.float64)
    ends = torch.zeros((), dtype=torch.float64)
    for i, x in enumerate(tensors):
        if i in turn.absent:
            continue
        y = torch.view_as_real(x).double() if x.is_complex() else x.double()
        g = torch.Generator().manual_seed(seed * 1009 + 13 * k + i)
        a = torch.randn(y.shape, generator=g, dtype=torch.float64).to(y.device)
        total = total + (0.5 + 0.25 * i) * (y**2).sum() + 0.1 * torch.sin(2 * y).sum()
        total = total + 0.3 * (a * y).sum()
        ends = ends + y.sum()
        if i in turn.bad:
            total = total + turn.bad[i] * y.sum()
    return total + 0.05 * ends**2


class Model(nn.Module):
    def __init__(self, values: list[Tensor]):
        super().__init__()
        for k, x in enumerate(values):
            self.register_parameter(f"t{k}", nn.Parameter(x))

    def values(self) -> list[Tensor]:
        return list(self.parameters())


class Lost(Exception):
    """What a closure raises in the middle."""


def reopened(old: Any, made: Callable[[], Any]) -> Any:
    """A new optimizer that was given the state of an old one through a file."""
    file = io.BytesIO()
    torch.save(old.state_dict(), file)
    file.seek(0)
    new = made()
    new.load_state_dict(torch.load(file, weights_only=True))
    return new


class Run:
    """A life with one printer; `breaks` says what happens before which step."""

    def __init__(
        self, life: Life, backend: str, breaks: dict[int, str] | None = None, device: str = "cpu"
    ):
        self.life, self.backend, self.breaks = life, backend, breaks or {}
        self.cls = optc.loads(life.text, schedule=life.schedule, guard=life.guard)
        self.model = Model([x.to(device) for x in values_of(life)])
        self.joined = False
        self.opt = self.made()
        self.k = 0
        self.evaluates = self.cls.program.level == "objective"

    def made(self) -> Any:
        """A fresh optimizer over the groups that there are."""
        p = self.model.values()
        members = [*self.life.groups, *([self.life.late] if self.joined else [])]
        groups = [
            {"params": [(f"t{i}", p[i]) for i in at], **own}
            for at, own in zip(members, self.life.options, strict=False)
        ]
        return self.cls(groups, backend=self.backend)

    def turn(self) -> None:
        turn = self.life.turns[self.k]
        if turn.joins:
            own = self.life.options[len(self.life.groups)]
            p = self.model.values()
            self.opt.add_param_group({"params": [(f"t{i}", p[i]) for i in self.life.late], **own})
            self.joined = True
        for i, p in enumerate(self.model.values()):
            p.requires_grad_(i not in turn.frozen)
        for group in self.opt.param_groups:
            if "lr" in group:
                group["lr"] = group["lr"] * turn.lr
        if self.k in self.breaks:
            getattr(self, self.breaks[self.k])()
        self.step(turn)
        self.k += 1

    def step(self, turn: Turn) -> None:
        model, k, seed = self.model, self.k, self.life.seed
        for p in model.parameters():
            p.grad = None
        opt = self.opt

        def objective(*_: Any) -> Tensor:
            return loss_of(model.values(), turn, k, seed)

        def closure() -> Tensor:
            opt.zero_grad()
            for p in model.parameters():
                p.grad = None
            loss = objective()
            if loss.requires_grad:
                loss.backward()
            return loss

        if self.evaluates:
            opt.bind(model=model, objective=objective)
            opt.step()
        elif turn.closure:
            opt.step(closure)
        else:
            closure()
            opt.step()

    # What must change nothing -------------------------------------------------------------------

    def load(self) -> None:
        saved = copy.deepcopy(self.opt.state_dict())
        self.opt = self.made()
        self.opt.load_state_dict(saved)

    def file(self) -> None:
        self.opt = reopened(self.opt, self.made)

    def reload(self) -> None:
        self.opt.load_state_dict(self.opt.state_dict())

    def deepcopy(self) -> None:
        self.model, self.opt = copy.deepcopy((self.model, self.opt))

    def pickle(self) -> None:
        self.model, self.opt = pickle.loads(pickle.dumps((self.model, self.opt)))

    def move(self) -> None:
        for p in self.model.parameters():
            p.data = laid(p.data, "plain") if p.is_contiguous() else p.data.clone()

    def flicker(self) -> None:
        before = [p.requires_grad for p in self.model.parameters()]
        for p in self.model.parameters():
            p.requires_grad_(not p.requires_grad)
        self.opt.state_dict()
        for p, on in zip(self.model.parameters(), before, strict=True):
            p.requires_grad_(on)

    def look(self) -> None:
        self.opt.eval()
        self.opt.state_dict()
        self.opt.train()
        repr(self.opt)

    def failed_step(self) -> None:
        """A closure raises in the middle of an evaluation, the first or a later one."""
        if self.evaluates or self.opt.in_backward:
            return
        for at in (0, 1, 2):
            asked = [0]

            def closure(at: int = at, asked: list[int] = asked) -> Tensor:
                for p in self.model.parameters():
                    p.grad = None
                loss = loss_of(self.model.values(), self.life.turns[self.k], self.k, self.life.seed)
                if asked[0] == at:
                    raise Lost
                asked[0] += 1
                if loss.requires_grad:
                    loss.backward()
                return loss

            if at and self.cls.program.level == "gradients":
                continue
            kept = copy.deepcopy((self.model, self.opt))
            try:
                self.opt.step(closure)
                self.model, self.opt = kept  # it asked but once
            except Lost:
                pass

    # What it has become -------------------------------------------------------------------------

    def held(self) -> list[Tensor]:
        return [p.detach().clone().cpu() for p in self.model.values()]

    def kept(self) -> dict[str, Any]:
        """Its state by names."""
        saved, found = self.opt.state_dict(), {}
        for i, entries in saved["state"].items():
            found |= {f"{i}.{k}": v for k, v in entries.items()}
        for i, group in enumerate(saved["param_groups"]):
            # what torch adds to the groups of an optimizer that was copied
            found |= {f"group {i}.{k}": v for k, v in group.items() if k != "differentiable"}
        found |= {f"metric {k}": v for k, v in self.opt.metrics.items()}
        return found


class Oracles:
    """The loss of the step at hand for the interpreter, by autograd."""

    def __init__(self, life: Life):
        self.life, self.k = life, 0

    def at(self, objective: str, points: Any, data: Any, wrt: str) -> tuple[Tensor, list[Tensor]]:
        leaves = [x.detach().clone().requires_grad_() for x in points[wrt]]
        tensors = [y for t, xs in points.items() for y in (leaves if t == wrt else xs)]
        order = [i for g in self.life.groups for i in g]
        back = [tensors[order.index(i)] for i in range(len(tensors))]
        return loss_of(back, self.life.turns[self.k], self.k, self.life.seed), leaves

    def value(self, objective: str, points: Any, data: Any) -> Tensor:
        return self.at(objective, points, data, next(iter(points)))[0].detach()

    def gradient(self, objective: str, points: Any, data: Any, wrt: str) -> list[Any]:
        with torch.enable_grad():
            value, leaves = self.at(objective, points, data, wrt)
            if not value.requires_grad:
                return [None] * len(leaves)
            return list(torch.autograd.grad(value, leaves, allow_unused=True))

    def hvp(self, objective: str, points: Any, data: Any, wrt: str, of: str, v: Any) -> list[Any]:
        with torch.enable_grad():
            value, leaves = self.at(objective, points, data, of)
            if not value.requires_grad:
                return [None] * len(leaves)
            g = torch.autograd.grad(value, leaves, create_graph=True, allow_unused=True)
            pairs = [(a, b) for a, b in zip(g, v, strict=True) if a is not None and b is not None]
            return list(
                torch.autograd.grad(
                    [a for a, _ in pairs], leaves, [b for _, b in pairs], allow_unused=True
                )
            )

    def jvp(self, objective: str, points: Any, data: Any, wrt: str, v: Any) -> Tensor:
        g = self.gradient(objective, points, data, wrt)
        pairs = [(a, b) for a, b in zip(g, v, strict=True) if a is not None and b is not None]
        return sum(((a * b).sum() for a, b in pairs), torch.zeros((), dtype=torch.float64))

    def vjp(self, objective: str, points: Any, data: Any, wrt: str, u: Tensor) -> list[Any]:
        g = self.gradient(objective, points, data, wrt)
        return [None if x is None else u * x for x in g]


def meaning(life: Life) -> list[list[Tensor]]:
    """The tensors after each step of the interpreter."""
    graph = driver.graph(Source("life.opt", life.text), library())
    graph = guard(graph) if life.guard else graph
    order = [i for g in life.groups for i in g]
    start = values_of(life)
    tensors = Tensors(
        [f"t{i}" for i in order],
        [start[i] for i in order],
        [k for k, g in enumerate(life.groups) for _ in g],
    )
    own = [dict(o) for o in life.options[: len(life.groups)]]
    flip = own[0]["maximize"]
    for o in own:
        del o["maximize"]
    numbers = lambda how, stream, call, count: draw(how, 0, stream, call, count, 0)  # noqa: E731
    oracles = Oracles(life)
    run = Interpreter(graph, tensors, own, oracles, numbers, maximize=flip)
    found = []
    for k, turn in enumerate(life.turns):
        oracles.k = k
        for o in run.options:
            if "lr" in o:
                o["lr"] = o["lr"] * turn.lr
        run.step()
        now = run.tensors()
        found.append([now[order.index(i)].clone() for i in range(len(order))])
    return found
