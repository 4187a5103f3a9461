"""Which tensors a step runs on: order, domains, groups, and the scalars of the host."""

from __future__ import annotations

import copy
import fnmatch
from collections.abc import Sequence
from operator import is_
from typing import Any

import torch
from torch import Tensor

from ..compiler.bounds import whole
from ..compiler.program import Host, Program
from .sharding import Shards
from .state import to_local

PARTITIONS = 8
"""Of a rule that takes another way every few steps, each way's own are kept."""


class Layout:
    """The tensors of an optimizer's groups in order, and where each belongs.

    Of parameters, those that are frozen belong nowhere: they have no state and are not read.
    """

    def __init__(
        self, program: Program, groups: Sequence[dict[str, Any]], parameters: bool = False
    ):
        self.program = program
        self.params: list[Tensor] = [p for g in groups for p in g["params"]]
        self.live = [p.requires_grad or not parameters for p in self.params]
        self.count = max(1, len(groups))
        self.groups = [k for k, g in enumerate(groups) for _ in g["params"]]
        self.names = [n for g in groups for n in g.get("param_names", [""] * len(g["params"]))]
        self.modules = [n for g in groups for n in g.get("module_types", [""] * len(g["params"]))]
        if not torch.compiler.is_compiling():  # an identity would be a guard, new at every step
            _refuse_twice(self.params, self.names)
        self.places = list(range(len(self.params)))
        self.members: dict[str, list[int]] = {}
        for name, domain in program.domains.items():
            everyone = [i for i, live in enumerate(self.live) if live]
            places = self.members[domain.parent] if domain.parent else everyone
            taken = {i for s in domain.siblings for i in self.members[s]}
            where = domain.where
            self.members[name] = [
                i
                for i in places
                if i not in taken and (where is None or where(self._facts(i, groups)))
            ]
        self.before: dict[str, int] = {}
        self._settle()

    def _settle(self) -> None:
        """What follows from the tensors at hand."""
        self.wrapped = any(to_local(p) is not p for p in self.params)
        self.shards = Shards(self.params) if self.wrapped else None
        self.first = {g: i for i, g in reversed(list(enumerate(self.groups)))}
        self._index: dict[Any, Any] = {}
        self._locals = None if self.wrapped else list(self.params)
        self._targets: dict[str, list[Any]] | None = None
        self._kinds: dict[int, Any] = {}

    def part(self, at: range) -> Layout:
        """The layout of tensors that follow each other; `before` are the cells of each domain
        before theirs, so that they draw the numbers that they draw among the others."""
        one = copy.copy(self)
        for name in ("params", "live", "groups", "names", "modules", "places"):
            setattr(one, name, [getattr(self, name)[i] for i in at])
        one._settle()
        one.members, one.before = {}, {}
        for domain, held in self.members.items():
            one.members[domain] = [i - at.start for i in held if i in at]
            one.before[domain] = sum(self.cells(i) for i in held if i < at.start)
        return one

    @property
    def device(self) -> torch.device:
        """Where values of the model are."""
        return self.params[0].device if self.params else torch.device("cpu")

    def cells(self, i: int) -> int:
        """How many cells the whole of a tensor has."""
        return self.shards.place(i)[1] if self.shards else self.params[i].numel()

    def total(self, domain: str) -> int:
        """How many cells a domain has; a complex number is two."""
        held = (self.params[i] for i in self.members[domain])
        return sum(p.numel() * (1 + p.is_complex()) for p in held)

    def _facts(self, i: int, groups: Sequence[dict[str, Any]]) -> Any:
        return lambda leaf: fact(leaf, self, i, groups[self.groups[i]])

    def current(self, groups: Sequence[dict[str, Any]]) -> bool:
        """Whether the groups still hold the same parameters, and the same ones are frozen."""
        params = [p for g in groups for p in g["params"]]
        same = len(params) == len(self.params) and all(map(is_, params, self.params))
        return same and [p.requires_grad for p in params] == self.live

    def index(self, key: Any, make: Any) -> list[int]:
        """A list that stays the same object while the partition is one of the last few."""
        if key not in self._index:
            if len(self._index) == PARTITIONS:
                del self._index[next(iter(self._index))]
            self._index[key] = make()
        return self._index[key]

    def kinds(self, host: Host, facts: list[Any]) -> tuple[list[Any], list[int], list[int]]:
        """For each tensor its group and facts, the first tensor of each kind, and whose kind is
        which; asked once, since neither changes."""
        known = self._kinds.get(id(host))
        if known is None or known[0] is not host:
            kinds = [
                (g, *(fact(leaf, self, i, {}) for leaf in facts)) for i, g in enumerate(self.groups)
            ]
            known = self._kinds[id(host)] = (host, kinds, *partition(kinds))
        return known[1:]

    def targets(self) -> dict[str, list[Any]]:
        if self._targets is None:
            held = self.program.targets
            self._targets = {t: [self.params[i] for i in self.members[t]] for t in held}
        return dict(self._targets)

    def locals(self) -> list[Tensor]:
        """The tensors as this process holds them, complex ones as pairs of reals."""
        return self._locals if self._locals is not None else [to_local(p) for p in self.params]

    def host(
        self, groups: Any, t: list[int] | int, call: int, steps: int, inputs: dict[str, Any]
    ) -> HostRows:
        return HostRows(self, groups, t, call, steps, inputs)


def _refuse_twice(params: list[Tensor], names: list[str]) -> None:
    seen: set[int] = set()
    for p, name in zip(params, names, strict=True):
        if id(p) in seen:
            raise ValueError(f"Invalid parameter: {name or 'a tensor'} is given twice")
        seen.add(id(p))


@torch.compiler.assume_constant_result
def _matches(text: str, patterns: tuple[str, ...]) -> bool:
    """Whether any pattern fits; a traced step has it as it is, since its names do not change."""
    return any(fnmatch.fnmatchcase(text, x) for x in patterns)


def fact(leaf: Any, layout: Layout, i: int, group: dict[str, Any]) -> Any:
    """A leaf of a host expression for tensor i: an option of its group, or a fact about it."""
    if leaf[0] == "option":
        return option(group, leaf)
    what, patterns, place = leaf[1], leaf[2], leaf[3]
    p = layout.params[i]
    if what in ("name", "module", "dtype"):
        text = {"name": layout.names[i], "module": layout.modules[i], "dtype": str(p.dtype)[6:]}[
            what
        ]
        if not text:
            raise ValueError(
                f"Invalid parameter: the rule asks for its {what}, and it came without: give "
                f"optc.parameters(model){' or model.named_parameters()' * (what == 'name')}"
            )
        return _matches(text, patterns)
    shape = p.shape
    rows = shape[0] if len(shape) else 1
    if what == "place":
        return float(layout.places[i])
    if what == "shape":
        return float(shape[place]) if place < len(shape) else 1.0
    return float(
        {"ndim": len(shape), "rows": rows, "cols": p.numel() // max(1, rows), "numel": p.numel()}[
            what
        ]
    )


def partition(keys: list[Any]) -> tuple[list[int], list[int]]:
    """The first place of each key, and for each place which of the keys it has."""
    first: dict[Any, int] = {}
    for i, key in enumerate(keys):
        first.setdefault(key, i)
    order = {key: n for n, key in enumerate(first)}
    return list(first.values()), [order[key] for key in keys]


def option(group: dict[str, Any], leaf: Any) -> Any:
    """An option's value; a tensor (a scheduled or capturable lr) is read."""
    value = group[leaf[1]]
    if leaf[2] >= 0:
        value = value[leaf[2]]
    if isinstance(value, Tensor):
        value = value.item()
    return value if isinstance(value, bool) else float(value)


class Rows:
    """Host scalars: `distinct` rows, and for each tensor which one is its own."""

    def __init__(self, distinct: list[tuple[Any, ...]], index: list[int]):
        self.distinct, self.index = distinct, index

    def __getitem__(self, i: int) -> tuple[Any, ...]:
        return self.distinct[self.index[i]]


class HostRows:
    """Evaluates host expressions: once for each different (group, t, facts) of a tensor."""

    def __init__(
        self,
        layout: Layout,
        groups: Any,
        t: list[int] | int,
        call: int,
        steps: int,
        inputs: dict[str, Any],
    ):
        self.layout, self.groups, self.t, self.call, self.steps = layout, groups, t, call, steps
        self.inputs = inputs
        self.done: dict[int, list[tuple[Any, ...]]] = {}

    def conditions(self) -> tuple[bool, ...]:
        host = self.layout.program.conditions
        if not host.names:
            return ()
        of_groups = [
            host.module.forward(*(self._leaf(v, g, None) for _, v in host.leaves))
            for g in range(len(self.groups))
        ]
        return tuple(any(map(bool, column)) for column in zip(*of_groups, strict=True))

    def rows(self, host: Host) -> Rows:
        """The distinct rows, and which of them is each tensor's."""
        layout, t = self.layout, self.t
        if not host.names:
            return Rows([()], layout.index("none", lambda: [0] * len(layout.params)))
        facts = [v for _, v in host.leaves if v[0] == "meta" and v[1] != "total"]
        if isinstance(t, int) and not facts:
            index = layout.index("groups", lambda: list(layout.groups))
            return Rows(self.group_rows(host), index)
        kinds, first, index = layout.kinds(host, facts)
        if not isinstance(t, int):
            every = list(range(len(t)))  # to tell symbols apart would fix each at a number
            keys = list(zip(kinds, t, strict=True))
            first, order = (every, every) if torch.compiler.is_compiling() else partition(keys)
            index = layout.index(tuple(order), lambda: order)
        return Rows(
            [host.module.forward(*self._leaves(host, layout.groups[i], i)) for i in first],
            index,
        )

    def group_rows(self, host: Host) -> list[tuple[Any, ...]]:
        """A row for each group, with the clocks of its first tensor."""
        if id(host) not in self.done:
            first = self.layout.first
            self.done[id(host)] = [
                tuple(host.module.forward(*self._leaves(host, g, first.get(g))))
                for g in range(len(self.groups))
            ]
            for place, what in host.counts:
                whole(self.done[id(host)][0][place], what)
        return self.done[id(host)]

    def _leaves(self, host: Host, g: int, i: int | None) -> list[Any]:
        """What a host expression reads, for a group and the clocks of a tensor."""
        group, values = self.groups[g], []
        for _, leaf in host.leaves:
            # most are plain numbers, and each function that is entered costs a microsecond
            plain = leaf[0] == "option" and leaf[2] < 0 and not leaf[3]
            value = group[leaf[1]] if plain else None
            values.append(value if type(value) is float else self._leaf(leaf, g, i))
        return values

    def _leaf(self, leaf: Any, g: int, i: int | None) -> Any:
        kind = leaf[0]
        if kind == "option":
            if leaf[3] and len({option(group, leaf) for group in self.groups}) > 1:
                raise ValueError(
                    f"the groups must agree on {leaf[1]!r}: the rule needs one value for all"
                )
            return option(self.groups[g], leaf)
        if kind == "clock":
            return self._clock(leaf, i)
        if kind == "input":
            return self._input(leaf[1])
        if leaf[1] == "total":
            return float(self.layout.total(leaf[2]))
        return fact(leaf, self.layout, i, self.groups[g]) if i is not None else 0.0

    def _clock(self, leaf: Any, i: int | None) -> Any:
        which = leaf[1]
        if which == "t":
            if isinstance(self.t, int):
                return float(self.t)
            return float(self.t[i]) if i is not None else float(self.steps)
        if which == "coin":
            from .random import number

            return number(int(self.groups[0]["seed"]), leaf[2], self.call)
        return float(self.call if which == "call" else self.steps)

    def _input(self, name: str) -> float:
        if name in self.inputs:
            value = self.inputs[name]
            return float(value.item() if isinstance(value, torch.Tensor) else value)
        per = self.inputs.get("steps_per_epoch")
        if name in ("epoch", "new_epoch") and per:
            return float(
                (self.call - 1) // int(per) if name == "epoch" else (self.call - 1) % int(per) == 0
            )
        raise RuntimeError(
            f"{self.layout.program.name} reads `{name}`: give it by optimizer.supply({name}=...)"
        )
