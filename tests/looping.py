"""Runs a training loop (`loops.py`) in one way of calling, or in the interpreter."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

import optc
from optc.compiler import driver
from optc.compiler.interpret import Interpreter, Tensors
from optc.compiler.passes.guard import guard
from optc.compiler.source import Source
from optc.plugins.registry import library
from optc.runtime.functional import Step
from optc.runtime.random import draw

from .living import Oracles, reopened
from .loops import Lost, Net, TrainingLoop, batch_of

CLOSURES = ("plain", "zeros", "adds", "flat", "graph", "parts", "by hand", "scaled")
OBJECTIVES = ("bound", "bound scaled", "called", "bound and called", "without the model")
CONTEXTS: dict[str, Callable[[], Any]] = {
    "": nullcontext,
    "no_grad": torch.no_grad,
    "enable_grad": torch.enable_grad,
}


def ways(loop: TrainingLoop) -> list[str]:
    """How it may be called."""
    program = optc.loads(loop.text).program
    found = [] if program.level == "objective" else list(CLOSURES)
    if loop.kind == "pair":
        found = [x for x in found if x != "parts"]
    found += OBJECTIVES
    pure = loop.groups == 1 and not loop.maximize and loop.kind != "examples"
    pure = pure and not loop.features & {"past", "idle", "frozen", "norm", "drop", "complex"}
    if pure and all(t.gate == "always" and not t.fault for t in loop.rounds):
        found.append("functional")
    return found


def groups_of(loop: TrainingLoop, named: list[tuple[str, Any]]) -> list[dict[str, Any]]:
    """The parameter groups: the second half of the tensors steps twice as far."""
    if loop.groups == 1:
        return [{"params": named, **loop.options}]
    half = len(named) // 2
    more = {**loop.options, "lr": 2 * loop.options["lr"]}
    return [{"params": named[:half], **loop.options}, {"params": named[half:], **more}]


def scheduler_of(loop: TrainingLoop, opt: Any) -> Callable[[int], None]:
    """What moves the options after each round."""
    of = torch.optim.lr_scheduler
    if loop.scheduler == "ReduceLROnPlateau":
        plateau = of.ReduceLROnPlateau(opt, patience=0, factor=0.5)
        return lambda k: plateau.step((1.0, 1.0, 0.5, 0.9, 0.8)[k])
    if not loop.scheduler:
        return lambda k: None
    made: Any = {
        "StepLR": lambda: of.StepLR(opt, 2, 0.5),
        "OneCycleLR": lambda: of.OneCycleLR(opt, 0.1, total_steps=8),
        "LambdaLR": lambda: of.LambdaLR(
            opt, [lambda k, i=i: 1 / (1 + i + k) for i in range(loop.groups)]
        ),
    }[loop.scheduler]()
    return lambda k: made.step()


class LoopRun:
    """A training loop, called in one way."""

    def __init__(self, loop: TrainingLoop, way: str, backend: str, context: str, saved: int):
        self.loop, self.way, self.backend, self.saved = loop, way, backend, saved
        self.context = CONTEXTS[context]
        self.cls = optc.loads(loop.text, guard=loop.guard)
        self.net = Net(loop.seed, loop.features)
        self.scaler = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=1000)
        self.opt = self.made()
        self.move = scheduler_of(loop, self.opt)

    def made(self) -> Any:
        named = list(self.net.named_parameters())
        opt = self.cls(
            groups_of(self.loop, named), backend=self.backend, maximize=self.loop.maximize
        )
        loop, net = self.loop, self.net
        objective = lambda batch: net.loss(batch, loop.kind)  # noqa: E731
        scaler = self.scaler if "scaled" in self.way else None
        if self.way == "without the model":
            opt.bind(objective=objective, modules=[net])
        elif self.way in ("bound", "bound scaled"):
            opt.bind(model=net, objective=objective, scaler=scaler)
        elif self.way == "bound and called":
            opt.bind(model=net)
        elif self.way == "scaled":
            opt.bind(model=net, scaler=scaler)
        return opt

    def closure(self, batch: Any, name: str = "") -> Callable[[], Tensor]:
        """A closure as loops write it, in many hands."""
        params = list(self.net.parameters())
        live = [p for p in params if p.requires_grad]
        flat: list[Tensor] = [torch.zeros_like(p) for p in params]

        def closure() -> Tensor:
            if self.way == "zeros":
                self.opt.zero_grad(set_to_none=False)
                self.net.zero_grad(set_to_none=False)
            elif self.way != "adds":
                self.net.zero_grad()
            losses = self.net.losses(batch)
            loss = losses[name] if name else losses["main"] + losses["other"]
            if self.way == "parts":
                losses["main"].backward(retain_graph=True)
                losses["other"].backward()
            elif self.way == "by hand":
                found = torch.autograd.grad(loss, live, allow_unused=True)
                for p, g in zip(live, found, strict=True):
                    p.grad = g
            elif self.way == "scaled":
                self.scaler.scale(loss).backward()
            else:
                loss.backward(create_graph=self.way == "graph")
            if self.way == "flat":
                whole = torch.zeros(sum(x.numel() for x in flat), dtype=torch.float64)
                at = 0
                for p in params:
                    if p.grad is not None and not p.is_complex():
                        view = whole[at : at + p.numel()].view_as(p)
                        p.grad = view.copy_(p.grad)
                    at += p.numel()
            return loss

        return closure

    def step(self, k: int) -> Any:
        """One step; what a loss raises leaves all as it was."""
        turn, batch = self.loop.rounds[k], batch_of(self.loop, k)
        if k == self.saved:
            self.through_a_file()
        self.net.begin(turn)
        self.net.zero_grad()
        if "raise" in turn.fault:
            before = self.everything()
            torch.manual_seed(self.loop.seed + k)
            random = torch.get_rng_state()
            try:
                self.ask(batch)
            except Lost:
                assert torch.equal(random, torch.get_rng_state())
                assert not left(before, self.everything())
                if self.scaler._per_optimizer_states:
                    self.scaler._per_optimizer_states.clear()
            else:
                return self.move(k)
            turn = copy.copy(turn)
            turn.fault = ""
            self.net.begin(turn)
        known = [self.statistics(), self.once(k, batch)]
        torch.manual_seed(self.loop.seed + k)
        self.ask(batch)
        if self.loop.kind != "examples":
            assert torch.equal(torch.get_rng_state(), known[1].pop("random")), "numbers drawn"
            now = self.statistics()
            assert any(not left(x, now) for x in known), "running statistics"
        if "scaled" in self.way:
            self.scaler.update()
        return self.move(k)

    def ask(self, batch: Any) -> Any:
        loop, net, opt = self.loop, self.net, self.opt
        if self.way in CLOSURES:
            closure: Any = self.closure(batch)
            if loop.kind == "pair":
                closure = {name: self.closure(batch, name) for name in ("main", "other")}
            with self.context():
                return opt.step(closure)
        with self.context():
            if "called" in self.way:
                return opt.step(objective=lambda b: net.loss(b, loop.kind), batch=batch)
            return opt.step(batch=batch)

    def through_a_file(self) -> None:
        """Saved, and loaded into a new optimizer."""
        self.opt = reopened(self.opt, self.made)
        settings = [{k: g[k] for k in g if k != "params"} for g in self.opt.param_groups]
        moved = self.move.__closure__[0].cell_contents if self.loop.scheduler else None
        if moved is not None:
            moved.optimizer = self.opt
        for group, own in zip(self.opt.param_groups, settings, strict=True):
            group.update(own)

    def everything(self) -> dict[str, Any]:
        """All that a step may write."""
        saved = self.opt.state_dict()
        found = {f"{i}.{k}": v.clone() for i, s in saved["state"].items() for k, v in s.items()}
        found |= {f"group {i}": {**g} for i, g in enumerate(saved["param_groups"])}
        found |= {
            f"gradient of {n}": None if p.grad is None else p.grad.clone()
            for n, p in self.net.named_parameters()
        }
        return found | {n: x.clone() for n, x in self.net.state_dict().items()}

    def held(self) -> list[Tensor]:
        return [p.detach().clone() for p in self.net.parameters()]

    def statistics(self) -> dict[str, Any]:
        return {n: b.clone() for n, b in self.net.named_buffers()}

    def once(self, k: int, batch: Any) -> dict[str, Any]:
        """The running statistics, and the state of chance, after one evaluation where it stands."""
        twin = copy.deepcopy(self.net)
        torch.manual_seed(self.loop.seed + k)
        with torch.no_grad():
            twin.losses(batch)
        found: dict[str, Any] = {n: b.clone() for n, b in twin.named_buffers()}
        return {**found, "random": torch.get_rng_state()}


def left(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What is no longer as it was; a state may have begun, where it would begin anyway."""
    return [
        name
        for name, x in before.items()
        if not (alike(x, after[name]) if isinstance(x, Tensor) else x == after[name])
    ]


def alike(a: Tensor, b: Any) -> bool:
    """To the bit; what is no number may be so."""
    return isinstance(b, Tensor) and torch.equal(a.nan_to_num(7.0), b.nan_to_num(7.0))


class LoopOracles(Oracles):
    """The losses of a loop for the interpreter, by autograd."""

    def __init__(self, loop: TrainingLoop):
        self.loop, self.k = loop, 0
        self.net = Net(loop.seed, loop.features)
        self.names = [n for n, p in self.net.named_parameters() if p.requires_grad]
        self.members: dict[str, list[int]] = {}
        self.several = loop.kind == "pair"

    def at(self, objective: str, points: Any, data: Any, wrt: str) -> tuple[Tensor, list[Tensor]]:
        leaves = [x.detach().clone().requires_grad_() for x in points[wrt]]
        given = dict(self.net.named_parameters())
        for target, xs in points.items():
            for i, x in zip(self.members[target], leaves if target == wrt else xs, strict=True):
                given[self.names[i]] = x
        if "past" in self.loop.features:
            self.net.past = list(given.values())
        torch.manual_seed(self.loop.seed + self.k)
        buffers = {n: b.clone() for n, b in self.net.named_buffers()}
        found = functional_call(
            _Asked(self.net, self.loop.kind),
            {f"net.{n}": x for n, x in (given | buffers).items()},
            (data,),
        )
        return (found[objective] if isinstance(found, dict) else found), leaves

    def gradient(self, objective: str, points: Any, data: Any, wrt: str) -> list[Any]:
        with torch.enable_grad():
            value, leaves = self.at(objective, points, data, wrt)
            rows = [
                torch.autograd.grad(v, leaves, retain_graph=True, allow_unused=True)
                for v in value.reshape(-1)
            ]
        found: list[Any] = []
        for p, gs in zip(leaves, zip(*rows, strict=True), strict=True):
            if all(g is None for g in gs):
                found.append(torch.zeros_like(p) if self.several else None)
            else:
                whole = torch.stack([torch.zeros_like(p) if g is None else g for g in gs])
                found.append(whole.reshape(*value.shape, *p.shape))
        return found

    def data(self, op: str, arguments: list[Any], attributes: dict[str, Any]) -> Any:
        x, y = arguments[0]
        n = len(x) if op == "each" else int(arguments[1])
        if not n:
            return []
        return list(zip(x.tensor_split(n), y.tensor_split(n), strict=True))

    def call(self, name: str, arguments: list[Any]) -> Any:
        raise RuntimeError(name)


class _Asked(torch.nn.Module):
    def __init__(self, net: Net, kind: str):
        super().__init__()
        self.net, self.kind = net, kind

    def forward(self, data: Any) -> Any:
        return self.net.loss(data, self.kind)


def interpreted(loop: TrainingLoop) -> list[list[Tensor]]:
    """The tensors after each round of the interpreter."""
    graph = driver.graph(Source("loop.opt", loop.text), library())
    graph = guard(graph) if loop.guard else graph
    oracles = LoopOracles(loop)
    named = list(oracles.net.named_parameters())
    members = groups_of(loop, named)
    place = {n: i for i, g in enumerate(members) for n, _ in g["params"]}
    own = dict(named)
    tensors = Tensors(
        oracles.names,
        [own[n].detach().clone() for n in oracles.names],
        [place[n] for n in oracles.names],
    )
    stand_in = torch.optim.SGD(
        [{"params": [torch.zeros(1)], "lr": g["lr"]} for g in members], momentum=0.9
    )
    move = scheduler_of(loop, stand_in)
    numbers = lambda how, stream, call, count: draw(how, 0, stream, call, count, 0)  # noqa: E731
    options = [{"lr": g["lr"]} for g in members]
    run = Interpreter(graph, tensors, options, oracles, numbers, maximize=loop.maximize)
    oracles.members = run.members
    found = []
    for k, turn in enumerate(loop.rounds):
        oracles.k = k
        with torch.no_grad():
            for n, x in zip(oracles.names, run.tensors(), strict=True):
                own[n].copy_(x)
        if "raise" in turn.fault:
            turn = copy.copy(turn)
            turn.fault = ""
        oracles.net.begin(turn)
        for o, group in zip(run.options, stand_in.param_groups, strict=True):
            o["lr"], o["momentum"] = group["lr"], group["momentum"]
        run.step(batch_of(loop, k))
        now = dict(zip(oracles.names, run.tensors(), strict=True))
        found.append([now.get(n, p.detach()).clone() for n, p in named])
        move(k)
    return found


def functionally(loop: TrainingLoop, whole: bool = False) -> list[list[Tensor]]:
    """The same by a pure step."""
    net = Net(loop.seed, loop.features)
    step = Step(optc.loads(loop.text, guard=loop.guard).program)
    w = {n: p.detach().clone() for n, p in net.named_parameters()}
    state = step.init(w, **loop.options)
    stand_in = torch.optim.SGD([torch.zeros(1)], lr=loop.options["lr"], momentum=0.9)
    move = scheduler_of(loop, stand_in)
    found = []
    for k, turn in enumerate(loop.rounds):
        net.begin(turn)
        asked, batch = _Asked(net, loop.kind), batch_of(loop, k)

        def loss(w: dict[str, Tensor], asked: Any = asked, batch: Any = batch) -> Tensor:
            return functional_call(asked, {f"net.{n}": x for n, x in w.items()}, (batch,))

        more: dict[str, Any] = {"loss": loss}
        if loop.kind == "pair":
            more = {"oracles": {n: lambda w, n=n, f=loss: f(w)[n] for n in ("main", "other")}}
        group = stand_in.param_groups[0]
        call = torch.compile(step, fullgraph=True, backend="eager") if whole else step
        w, state, _ = call(w, state, lr=group["lr"], momentum=group["momentum"], **more)
        found.append([x.detach() for x in w.values()])
        move(k)
    return found


def looped(
    loop: TrainingLoop, way: str, backend: str, context: str, saved: int
) -> list[list[Tensor]]:
    """The tensors after each round, in one way of calling."""
    if way == "functional":
        return functionally(loop)
    run = LoopRun(loop, way, backend, context, saved)
    found = []
    for k in range(len(loop.rounds)):
        run.step(k)
        found.append(run.held())
    return found
