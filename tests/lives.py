"""Lives of optimizers, drawn from a seed: a rule of the library, a schedule, and what befalls it.

A life says which tensors there are, in which groups, and for each step which of them are absent,
frozen or not finite, what the loop asks, and how options move. `Run` lives it with one printer;
what interrupts a run (it is saved, copied, moved) is no part of the life: it must change nothing.
"""

from __future__ import annotations

import copy
import io
import pickle
import random
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import optc
from optc.cli.contract import probed, runnable
from optc.compiler import syntax as s
from optc.compiler.interpret import Interpreter, Tensors
from optc.compiler.passes.guard import guard
from optc.compiler.probe import probe
from optc.compiler.source import CompileError
from optc.plugins.registry import library
from optc.runtime.random import draw

EXAMPLES = Path(__file__).parents[1] / "examples"
KEPT = (
    *("adam", "adamw", "asgd_small_eigen_directions", "cautious_adamw", "clipped_adamw", "galore"),
    *("muon_adamw", "nonconvex_ag", "psgd", "sam_adamw", "schedule_free_adamw", "sgd"),
    *("sign_momentum", "soap", "xgrad_adamw"),
)
"""Examples that train any tensors."""

LIKE = {"unit": "0.5", "fraction": "0.5", "unit_pair": "(0.5, 0.5)", "pair": "(1, 1)"}
LIKE |= {"boolean": "true", "function": "x -> x"}
SHAPES = ((3, 4), (5,), (), (2, 3, 2), (0, 3), (2, 3, 2, 2), (4, 2), (1, 1), (17,))
MIXED = (torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.complex64)
FORMATS = ("bf16", "bf16(stochastic)", "int8(block = 16)", "bf16(kahan)", "f16(stochastic)", "f32")
INTERRUPTIONS = ("load", "file", "deepcopy", "pickle", "move", "reload", "flicker", "raise", "look")


@cache
def parts(kind: str) -> tuple[str, ...]:
    """The primitives of a kind that any loop can run, as lines of a rule."""
    found = []
    for name in library().names(kind):
        declaration = library().find(kind, name)
        tree = declaration.tree
        graph = probed(declaration, library()) if isinstance(tree, s.Primitive) else None
        if graph is None or runnable(graph) or graph.workers:
            continue
        rule = probe(tree)
        if (
            any(isinstance(x, s.Declare) for x in rule.body)
            or rule.body[0].call.arguments[:1]
            and (not rule.body[0].call.arguments[0].name)
        ):
            continue
        given = [f"{o.name} = {LIKE.get(o.bound, '1')}" for o in tree.options if o.default is None]
        found.append(f"{name}({', '.join(given)})")
    return tuple(found)


def rule_of(r: random.Random) -> str:
    """The text of a rule: a few steps of the library, one of them at least."""
    chain: list[str] = []
    kinds = ("estimate", "perturb", "regularize", "clip", "normalize", "precondition", "smooth")
    wanted = set(r.sample(kinds, r.choice((1, 1, 2, 3))))
    chain += [f"{k} {r.choice(parts(k))}" for k in kinds if k in wanted]
    step = f"lr * {r.choice(parts('stepsize'))}" if r.random() < 0.15 else "lr"
    chain.append(f"step {step}")
    for kind in ("average", "project", "monitor"):
        if r.random() < 0.1:
            chain.append(f"{kind} {r.choice(parts(kind))}")
    lines = chain
    if r.random() < 0.15:
        lines = ["for params where ndim == 2:", *("    " + x for x in chain)]
        lines += ["for other params:", "    smooth momentum(0.9)", "    step lr"]
    if r.random() < 0.15:
        lines = ["state seen: model = 0", *lines, "always seen <- seen + 1", "metric seen = seen"]
    if r.random() < 0.1:
        lines += ["snapshot when call % 3 == 0", f"restore {r.choice((1, 2))} when call % 5 == 0"]
    elif r.random() < 0.1:
        lines += ["veto when call % 4 == 2"]
    return "rule life(lr: nonnegative = 0.05):\n" + "".join(f"    {x}\n" for x in lines)


@dataclass
class Turn:
    """What befalls one step."""

    absent: frozenset[int] = frozenset()
    frozen: frozenset[int] = frozenset()
    bad: dict[int, float] = field(default_factory=dict)
    closure: bool = False
    joins: bool = False
    lr: float = 1.0


@dataclass
class Life:
    """All of it but the printer."""

    seed: int
    text: str
    schedule: str
    guard: bool
    shapes: list[tuple[int, ...]]
    dtypes: list[torch.dtype]
    ways: list[str]
    groups: list[list[int]]
    late: list[int]
    options: list[dict[str, Any]]
    turns: list[Turn]

    @property
    def plain(self) -> bool:
        """Whether the interpreter can live it."""
        kept = not self.schedule or "store" not in self.schedule
        whole = not self.late and not any(t.frozen for t in self.turns)
        one = len({o["maximize"] for o in self.options}) == 1
        return kept and whole and one and set(self.dtypes) == {torch.float64}

    @property
    def exact(self) -> bool:
        return set(self.dtypes) == {torch.float64}


def text_of(r: random.Random) -> str:
    if r.random() < 0.2:
        return (EXAMPLES / f"{r.choice(KEPT)}.opt").read_text()
    while True:
        text = rule_of(r)
        try:
            optc.loads(text)
        except CompileError:
            continue
        return text


def schedule_of(r: random.Random, text: str) -> str:
    program = optc.loads(text).program
    cells = [k for k, x in program.slots.items() if x.kind == "state" and x.reach == "element"]
    cells = [k for k in cells if not program.slots[k].axes and not program.slots[k].logical]
    lines = []
    if cells and r.random() < 0.4:
        lines += [f"store {k} as {r.choice(FORMATS)}" for k in r.sample(cells, min(len(cells), 2))]
    if not program.not_in_backward and r.random() < 0.3:
        lines.append(r.choice(("run in_backward", "run in_backward(bucket_mb = 0.0001)")))
    if not lines:
        return ""
    return f"schedule {program.name}:\n" + "".join(f"    {x}\n" for x in lines)


def life(seed: int) -> Life:
    """The life of a seed."""
    r = random.Random(seed)
    text = text_of(r)
    schedule = schedule_of(r, text)
    guarded = "in_backward" not in schedule and r.random() < 0.5
    if schedule:
        try:
            optc.loads(text, schedule=schedule, guard=guarded)
        except CompileError:
            schedule = ""
    program = optc.loads(text).program
    count = r.randint(1, 6)
    shapes = [r.choice(SHAPES) for _ in range(count)]
    mixed = r.random() < 0.25
    dtypes = [r.choice(MIXED) if mixed else torch.float64 for _ in shapes]
    # rounding by chance goes as cells lie, other ways by other backends
    turned = "plain" if "stochastic" in schedule else "turned"
    ways = [r.choice(("plain", "plain", turned, "apart")) for _ in shapes]
    order = list(range(count))
    r.shuffle(order)
    cut = r.randint(1, count)
    late = order[cut:] if r.random() < 0.3 else []
    first = order if not late else order[:cut]
    split = r.randint(1, len(first)) if r.random() < 0.6 else len(first)
    groups = [g for g in (first[:split], first[split:]) if g]
    base, flip = r.choice((0.01, 0.05)), r.random() < 0.2
    options = []
    for _ in range(len(groups) + 1):
        own: dict[str, Any] = {"maximize": flip if r.random() < 0.9 else not flip}
        if "lr" in program.options:
            own["lr"] = base * r.choice((1, 1, 2, 0.5)) if r.random() < 0.5 else base
        options.append(own)
    turns = []
    for k in range(r.randint(4, 8)):
        turn = Turn(closure=program.level != "gradients" or r.random() < 0.3)
        asks = program.level != "gradients"  # what is asked again has to depend on something
        there = order if not late else order[:cut]
        if r.random() < 0.25:
            turn.absent = frozenset(r.sample(range(count), r.randint(1, count)))
            turn.absent -= {there[0]} if asks else set()
        if r.random() < 0.15:
            turn.frozen = frozenset(r.sample(order, r.randint(1, count))) - {there[0]}
        if guarded and r.random() < 0.25 or guarded and not k and r.random() < 0.2:
            turn.bad = {r.randrange(count): r.choice((float("nan"), float("inf")))}
        turn.lr = r.choice((1.0, 1.0, 0.9))
        turns.append(turn)
    if late:
        turns[r.randrange(1, len(turns))].joins = True
    return Life(seed, text, schedule, guarded, shapes, dtypes, ways, groups, late, options, turns)


# The problem ----------------------------------------------------------------------------------


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
        a = torch.randn(y.shape, generator=g, dtype=torch.float64)
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


class Run:
    """A life with one printer; `breaks` says what happens before which step."""

    def __init__(self, life: Life, backend: str, breaks: dict[int, list[str]] | None = None):
        self.life, self.backend, self.breaks = life, backend, breaks or {}
        self.cls = optc.loads(life.text, schedule=life.schedule, guard=life.guard)
        self.model = Model(values_of(life))
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
        for what in self.breaks.get(self.k, ()):
            getattr(self, what)()
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
        file = io.BytesIO()
        torch.save(self.opt.state_dict(), file)
        file.seek(0)
        self.opt = self.made()
        self.opt.load_state_dict(torch.load(file, weights_only=True))

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

    def raises(self) -> None: ...

    def __getattr__(self, name: str) -> Any:
        if name == "raise":
            return self.fail
        raise AttributeError(name)

    def fail(self) -> None:
        """A closure that raises in the middle of its second evaluation, or of its first."""
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
        return [p.detach().clone() for p in self.model.values()]

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

    def at(self, points: Any, wrt: str) -> tuple[Tensor, list[Tensor]]:
        leaves = [x.detach().clone().requires_grad_() for x in points[wrt]]
        tensors = [y for t, xs in points.items() for y in (leaves if t == wrt else xs)]
        order = [i for g in self.life.groups for i in g]
        back = [tensors[order.index(i)] for i in range(len(tensors))]
        return loss_of(back, self.life.turns[self.k], self.k, self.life.seed), leaves

    def value(self, objective: str, points: Any, data: Any) -> Tensor:
        return self.at(points, next(iter(points)))[0].detach()

    def gradient(self, objective: str, points: Any, data: Any, wrt: str) -> list[Any]:
        with torch.enable_grad():
            value, leaves = self.at(points, wrt)
            if not value.requires_grad:
                return [None] * len(leaves)
            return list(torch.autograd.grad(value, leaves, allow_unused=True))

    def hvp(self, objective: str, points: Any, data: Any, wrt: str, of: str, v: Any) -> list[Any]:
        with torch.enable_grad():
            value, leaves = self.at(points, of)
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
    from optc.compiler import driver
    from optc.compiler.source import Source

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
