"""Training loops drawn from a seed: a rule that owns the evaluation, a net, and what befalls it.

A loop says what is trained and what happens in each round; `looping.py` runs it in one way of
calling, or in the interpreter.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

import optc
from optc.compiler.source import CompileError

from .lives import parts

CHAOTIC = ("snes_step", "greedy_block_select", "block_update", "strong_wolfe", "prox_greedy_rules")
"""They choose by ranks of what is close, so that rounding decides."""

SINGLE = {
    "extragradient": "w <- w - lr * grad(w - lr * grad(w))",
    "optimistic": "state h = zeros(w)\ng = grad(w)\nw <- w - lr * (2 * g - h)\nh <- g",
    "backtracking": """g = grad(w)
var a = lr
repeat 6 until loss(w - a * g) < loss(w) - 1e-4 * a * dot(g, g, over = model):
    a <- a / 2
w <- w - a * g""",
    "trust": """s = -lr * grad(w)
if loss(w + s) <= loss(w):
    w <- w + s
else:
    w <- w + 0.5 * s - 0.1 * lr * grad(w + s)""",
    "careful": "g = grad(w)\nveto when loss(w - lr * g) > loss(w)\nw <- w - lr * g",
    "polyak": "g = grad(w)\nw <- w - lr * loss(w) * g / (1 + dot(g, g, over = model))",
    "curved": "h = hvp(loss, w, grad(w))\nw <- w - lr * (grad(w) - 0.05 * h)",
    "now and then": """state h = zeros(w)
every 2:
    z = rademacher(w)
    h <- 0.5 * h + z * hvp(loss, w, z)
w <- w - lr * grad(w) / (1 + abs(h))""",
    "population": """z = normal(w, probes(3))
d = mean(z * (loss(w + 0.1 * z) - loss(w - 0.1 * z)) / 0.2, over = probes)
w <- w - lr * d""",
    "slopes": "z = normal(w, probes(2))\nw <- w - lr * mean(z * jvp(loss, w, z), over = probes)",
    "after": "w <- w - lr * grad(w)\nw <- w - 0.5 * lr * grad(w)",
    "routed": """for params where ndim == 2:
    perturb sam(0.1)
    smooth momentum(0.9)
    step lr
for other params:
    precondition adam()
    step 0.1 * lr""",
}
EXAMPLES = {
    "clipped": """J = grad(w, on = each(batch))
w <- w - lr * mean(J / (1 + norm(J, over = model)), over = examples)""",
    "dp": "batch = each(batch)\ncombine dp_mean(1.0, 0.5)\nsmooth momentum(0.5)\nstep lr",
    "m-sharpness": "perturb msam(parts = 2)\nstep lr",
    "medians": "batch = split(batch, 3)\ncombine median_of_microbatches()\nstep lr",
}
SEVERAL = {
    **{name: f"combine {name}()\nstep lr" for name in ("pcgrad", "mgda", "cagrad", "upgrad")},
    **{name: f"combine {name}()\nstep lr" for name in ("imtl_g", "graddrop", "nash_mtl")},
}
PAIR = {
    "projected": """loss main, other
a = grad[w](main)
b = grad[w](other)
w <- w - lr * (a - dot(a, b, over = model) // dot(b, b, over = model) * b)""",
    "in turn": """loss main, other
w <- w - lr * grad[w](main)
w <- w - lr * grad[w](other)""",
    "players": """target heads = named("*head*"), body = other
loss main, other
for heads:
    loss = other
    smooth momentum(0.9)
    step lr
for body:
    loss = main
    precondition adam()
    step 0.1 * lr""",
    "beyond": """target heads = named("*head*"), body = other
loss main, other
u = body - lr * grad[body](main)
heads <- heads - lr * grad[heads](other, body = u)
body <- u""",
}


def body_of(r: random.Random, kind: str) -> str:
    """The lines of a rule."""
    if kind == "examples":
        return r.choice(list(EXAMPLES.values()))
    if kind == "several":
        return "loss main: model[losses]\n" + r.choice(list(SEVERAL.values()))
    if kind == "pair":
        return r.choice(list(PAIR.values()))
    if r.random() < 0.5:
        return r.choice(list(SINGLE.values()))
    lines = r.choice(asking("perturb") + asking("precondition") + asking("stepsize"))
    rest = ["clip global_norm(1.0)", "smooth momentum(0.9)", "precondition adam((0.9, 0.99))"]
    rest += ["regularize decoupled_decay(0.1)", "average ema_of_weights()"]
    kind, _, call = lines.partition(" ")
    step = f"step lr * {call}" if kind == "stepsize" else "step lr"
    own = [] if kind == "stepsize" else [lines]
    chain = [x for x in rest[:1] if r.random() < 0.3] + own
    chain += [x for x in rest[1:4] if r.random() < 0.3] + [step]
    chain += rest[4:] if r.random() < 0.1 else []
    return "\n".join(sorted(chain, key=lambda x: not x.startswith("perturb")))


@cache
def asking(kind: str) -> list[str]:
    """The primitives of a kind that ask for more than one gradient."""
    found = []
    for name in parts(kind):
        line = f"step lr * {name}" if kind == "stepsize" else f"{kind} {name}\n    step lr"
        try:
            level = optc.loads(f"rule r(lr = 0.1):\n    {line}\n").program.level
        except CompileError:
            continue
        if level != "gradients" and name.partition("(")[0] not in CHAOTIC:
            found.append(f"{kind} {name}")
    return found


@dataclass
class Round:
    """What befalls one step."""

    batch: int
    gate: str
    fault: str = ""
    value: float = 1.0


@dataclass
class TrainingLoop:
    """All of it but the way of calling."""

    seed: int
    text: str
    kind: str
    guard: bool
    features: frozenset[str]
    groups: int
    scheduler: str
    maximize: bool
    options: dict[str, Any]
    rounds: list[Round] = field(default_factory=list)


FEATURES = ("tied", "norm", "drop", "idle", "frozen", "complex", "past")
SCHEDULERS = ("", "", "StepLR", "OneCycleLR", "LambdaLR", "ReduceLROnPlateau")


def training_loop(seed: int) -> TrainingLoop:
    """The loop of a seed."""
    r = random.Random(seed)
    while True:
        kind = r.choice(("single", "single", "single", "examples", "several", "pair"))
        body = body_of(r, kind).replace("\n", "\n    ")
        text = f"rule r(lr: nonnegative = 0.05, momentum: unit = 0.9):\n    {body}\n"
        text = text.replace("momentum(0.9)", "momentum(momentum)")
        guard = r.random() < 0.3
        try:
            program = optc.loads(text, guard=guard).program
        except CompileError:
            continue
        break
    features = {f for f in FEATURES if r.random() < 0.35}
    if kind == "examples":
        features -= {"norm"}
    if program.level == "objective":
        features -= {"complex"} if r.random() < 0.7 else set()
    one = "repeat" in text or len(program.targets) > 1
    loop = TrainingLoop(
        seed,
        text,
        kind,
        guard,
        frozenset(features),
        1 if one else r.choice((1, 2)),
        r.choice(SCHEDULERS),
        r.random() < 0.1,
        {"lr": r.choice((0.01, 0.05))},
    )
    for _ in range(r.randint(2, 4)):
        loop.rounds.append(
            Round(
                r.choice((6, 6, 6, 3, 9, 0)) if "split" not in text and "msam" not in text else 6,
                r.choice(("always", "always", "always", "never", "moved", "held")),
                r.choice(("", "", "", "raise moved", "raise held", "nan moved", "nan held")),
                r.choice((1.0, 0.5, 2.0)),
            )
        )
        if "nan" in loop.rounds[-1].fault and not guard:
            loop.rounds[-1].fault = ""
        if loop.rounds[-1].gate != "always" and "complex" in features:
            loop.rounds[-1].gate = "always"
    return loop


class Lost(Exception):
    """What a loss raises in the middle."""


class Net(nn.Module):
    """A body, two heads, and what a drawn loop has besides."""

    def __init__(self, seed: int, features: frozenset[str]):
        super().__init__()
        torch.manual_seed(seed)
        self.features = features
        self.encoder = nn.Linear(4, 5)
        self.norm = nn.BatchNorm1d(5) if "norm" in features else nn.Identity()
        self.drop = nn.Dropout(0.3 if "drop" in features else 0.0)
        self.first, self.second = nn.Linear(5, 5), nn.Linear(5, 5)
        if "tied" in features:
            self.second.weight = self.first.weight
        self.main_head, self.other_head = nn.Linear(5, 2), nn.Linear(5, 1)
        self.gate = nn.Parameter(torch.ones(2, 3))
        self.double()
        if "idle" in features:
            self.idle = nn.Parameter(torch.ones(2, dtype=torch.float64))
        if "complex" in features:
            self.wave = nn.Parameter(torch.tensor([0.5 + 0.3j, -0.2j], dtype=torch.complex128))
        if "frozen" in features:
            self.first.bias.requires_grad_(False)
        self.past = list(self.parameters()) if "past" in features else []
        self.round = Round(6, "always")
        self.stands = self.encoder.bias.detach().clone()

    def begin(self, turn: Round) -> None:
        """A round begins where the parameters stand."""
        self.round, self.stands = turn, self.encoder.bias.detach().clone()

    def losses(self, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """Both losses, and what the round does to them."""
        x, y = batch
        where = ""
        if self.round.gate in ("moved", "held") or self.round.fault:
            at = self.encoder.bias
            where = "held" if torch.equal(at.detach(), self.stands) else "moved"
        h = self.drop(torch.tanh(self.norm(self.encoder(x))))
        h = torch.tanh(self.second(torch.tanh(self.first(h))))
        main = ((self.main_head(h) - y) ** 2).sum() / max(len(x), 1)
        other = torch.sin(self.other_head(h)).square().sum() / max(len(x), 1)
        if self.round.gate in ("always", where):
            main = main + 0.1 * ((self.gate**2).sum() - 1) ** 2 + 0.2 * self.gate.sum()
        if "complex" in self.features:
            pair = torch.view_as_real(self.wave)
            main = main + 0.3 * (pair**2).sum() + 0.1 * torch.sin(pair).sum()
        if "past" in self.features:
            main = main + 0.05 * sum(
                torch.view_as_real(p).square().sum() if p.is_complex() else (p**2).sum()
                for p in self.past
            )
        if self.round.fault == f"raise {where}":
            raise Lost
        if self.round.fault == f"nan {where}":
            main = main * float("nan")
        return {"main": main * self.round.value, "other": other}

    def loss(self, batch: Any, kind: str) -> Any:
        """What a loop of this kind gives as its objective."""
        found = self.losses(batch)
        if kind == "pair":
            return found
        both = torch.stack([found["main"], found["other"]])
        return both if kind == "several" else both.sum()


def batch_of(loop: TrainingLoop, k: int) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(loop.seed * 101 + k)
    n = loop.rounds[k].batch
    x = torch.randn(n, 4, generator=g, dtype=torch.float64)
    return x, torch.randn(n, 2, generator=g, dtype=torch.float64)
