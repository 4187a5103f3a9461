"""Lives of optimizers, drawn from a seed: a rule of the library, a schedule, and what befalls it.

A life says which tensors there are, in which groups, and for each step which of them are absent,
frozen or not finite, what the loop asks, and how options move. `living.py` lives it.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch

import optc
from optc.cli.contract import probed, runnable
from optc.compiler import syntax as s
from optc.compiler.probe import probe
from optc.compiler.source import CompileError
from optc.plugins.registry import library

EXAMPLES = Path(__file__).parents[1] / "examples"
KEPT = (
    *("adam", "adamw", "asgd_small_eigen_directions", "cautious_adamw", "clipped_adamw", "galore"),
    *("muon_adamw", "nonconvex_ag", "psgd", "sam_adamw", "schedule_free_adamw", "sgd"),
    *("sign_momentum", "xgrad_adamw"),
)
"""Examples that train any tensors."""

LOOSE = {"microbatch_gradient_penalty", "soap"}
"""Differences of gradients that are close, bases of spaces that have many: rounding decides."""

LIKE = {"unit": "0.5", "fraction": "0.5", "unit_pair": "(0.5, 0.5)", "pair": "(1, 1)"}
LIKE |= {"boolean": "true", "function": "x -> x"}
SHAPES = ((3, 4), (5,), (), (2, 3, 2), (0, 3), (2, 3, 2, 2), (4, 2), (1, 1), (17,))
MIXED = (torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.complex64)
FORMATS = ("bf16", "bf16(stochastic)", "int8(block = 16)", "bf16(kahan)", "f16(stochastic)", "f32")


@cache
def parts(kind: str) -> tuple[str, ...]:
    """The primitives of a kind that any loop can run, as lines of a rule."""
    found = []
    for name in library().names(kind):
        declaration = library().find(kind, name)
        tree = declaration.tree
        graph = probed(declaration, library()) if isinstance(tree, s.Primitive) else None
        if graph is None or runnable(graph) or graph.workers or name in LOOSE:
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
