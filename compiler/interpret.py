"""The meaning of a rule: its graph run node by node in float64.

Slow, plain, and independent of phases, kernels and printers: everything compiled is tested against
it.
"""

from __future__ import annotations

import fnmatch
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from . import cells, scalars, torch_ops, workers
from .ir import Graph, Node, Region, body_nodes, inputs_of, postorder
from .types import Axis

Cells = Any
"""One tensor (reach model), or a list with one entry a tensor or a group; None where absent."""

Points = dict[str, list[torch.Tensor]]


class Oracles(Protocol):
    """What a training loop supplies, one point and one batch at a time; results are float64."""

    def value(self, objective: str, points: Points, data: Any) -> torch.Tensor: ...

    def gradient(self, objective: str, points: Points, data: Any, wrt: str) -> list[Any]: ...

    def hvp(
        self, objective: str, points: Points, data: Any, wrt: str, of: str, v: list[Any]
    ) -> list[Any]: ...

    def jvp(
        self, objective: str, points: Points, data: Any, wrt: str, v: list[Any]
    ) -> torch.Tensor: ...

    def vjp(
        self, objective: str, points: Points, data: Any, wrt: str, u: torch.Tensor
    ) -> list[Any]: ...

    def call(self, name: str, arguments: list[Any]) -> Any: ...

    def data(self, op: str, arguments: list[Any], attributes: dict[str, Any]) -> Any: ...


@dataclass
class Mapped:
    """Data with axes: one batch for each place."""

    axes: tuple[Axis, ...]
    items: list[Any]


@dataclass
class Tensors:
    """The tensors of a target by name, in order, and the group of each."""

    names: list[str]
    values: list[torch.Tensor]
    groups: list[int] = field(default_factory=list)
    modules: list[str] = field(default_factory=list)
    dtypes: list[str] = field(default_factory=list)


Draw = Callable[[str, int, int, int], torch.Tensor]
"""Draw `count` numbers: (how, stream, call, count) -> float64."""


class Interpreter:
    """One run of a rule: the slots between steps and the step itself."""

    def __init__(
        self,
        graph: Graph,
        tensors: Tensors,
        options: Sequence[dict[str, Any]] | None = None,
        oracles: Oracles | None = None,
        draw: Draw | None = None,
        inputs: dict[str, Any] | None = None,
        maximize: bool = False,
    ):
        self.graph, self.oracles, self.draw, self.inputs = graph, oracles, draw, dict(inputs or {})
        self.maximize = maximize
        self.worker: Any = None
        self.coins = draw
        self.names = list(tensors.names)
        self.groups = list(tensors.groups) or [0] * len(self.names)
        self.modules = list(tensors.modules) or [""] * len(self.names)
        self.dtypes = list(tensors.dtypes) or ["float64"] * len(self.names)
        defaults = {o.name: o.default for o in graph.options.values()}
        self.options = [{**defaults, **o} for o in (options or [{}])]
        self.shapes = [v.shape for v in tensors.values]
        self.members = _members(self)
        self.slots: dict[str, Cells] = {}
        self.t = [1] * len(self.names)
        self.call, self.steps = 1, 1
        self.snapshots: list[tuple[dict[str, Cells], list[int], int]] = []
        for name, slot in graph.slots.items():
            if slot.kind == "target":
                self.slots[name] = [
                    tensors.values[i].double().clone() for i in self.members[slot.type.domain]
                ]
        self.metrics: dict[str, Any] = {}
        self.evals: dict[str, list[torch.Tensor]] = {}

    def tensors(self) -> list[torch.Tensor]:
        """The current values of all tensors, in their order."""
        result: list[Any] = [None] * len(self.names)
        for name, slot in self.graph.slots.items():
            if slot.kind == "target":
                for i, value in zip(self.members[slot.type.domain], self.slots[name], strict=True):
                    result[i] = value
        return result

    def step(self, batch: Any = None) -> dict[str, Any]:
        """Run the rule once. Returns the metrics."""
        turn = _Turn(self, batch)
        graph = self.graph
        if graph.workers:
            turn.meet([slot.init for s, slot in graph.slots.items() if s not in self.slots])
            turn.meet(graph.roots())
        outcome = self._outcome(turn)
        for ending in graph.outcomes:
            if ending.kind == "snapshot" and bool(turn.value(ending.when)):
                self.snapshots.append((dict(self.slots), list(self.t), self.steps))
        writes = {
            s: turn.value(n)
            for s, n in graph.writes.items()
            if outcome == "commit" or s in graph.always
        }
        self.metrics = {k: self._metric(n, turn.value(n)) for k, n in graph.metrics.items()}
        for slot in graph.slots:
            if slot not in self.slots and (outcome == "commit" or slot in graph.always):
                self.slots[slot] = turn.initial(slot)
        took = turn.took_part() if outcome == "commit" else [False] * len(self.names)
        if outcome.startswith("restore"):
            self._restore(int(outcome.split()[1]))
        for slot, value in writes.items():
            old = self.slots[slot]
            self.slots[slot] = (
                # stored without strides of its own, so that a library takes the same path again
                [o if v is None else v.contiguous() for v, o in zip(value, old, strict=True)]
                if isinstance(value, list)
                else value
            )
        if outcome == "commit":
            self.evals = {k: turn.value(n) for k, n in graph.evals.items()}
            self.t = [t + on for t, on in zip(self.t, took, strict=True)]
            self.steps += 1
        self.call += 1
        return self.metrics

    def _metric(self, node: Node, value: Cells) -> Cells:
        """What a step reports: of a value that each group has, a number if there is one group."""
        value = value[0] if node.type.reach == "group" and len(self.options) == 1 else value
        plain = isinstance(value, int | float)  # the size of an axis
        return torch.tensor(float(value), dtype=torch.float64) if plain else value

    def _outcome(self, turn: _Turn) -> str:
        for ending in self.graph.outcomes:
            if ending.kind == "snapshot":
                continue
            if bool(turn.flag(ending.when)):
                if ending.kind == "veto" or ending.count is None:
                    return "veto"
                return f"restore {int(turn.value(ending.count))}"
        return "commit"

    def _restore(self, back: int) -> None:
        if self.snapshots:
            slots, t, steps = self.snapshots[max(0, len(self.snapshots) - back)]
            self.slots, self.t, self.steps = dict(slots), list(t), steps


def _members(run: Interpreter) -> dict[str, list[int]]:
    """The places of the tensors that belong to each domain."""
    result: dict[str, list[int]] = {}
    for name, domain in run.graph.domains.items():
        places = result[domain.parent] if domain.parent else list(range(len(run.names)))
        taken = {i for s in domain.siblings for i in result[s]}
        places = [i for i in places if i not in taken]
        if domain.where is not None:
            where = domain.where
            places = [i for i in places if bool(meta(run, where, i))]
        result[name] = places
    return result


def meta(run: Any, node: Node, i: int) -> Any:
    """What the host knows of tensor i: its name, shape, type; and functions of it."""
    if node.op == "meta" and node["what"] == "place":
        return float(i)
    if node.op == "meta":
        return describe(node, run.names[i], run.shapes[i], run.modules[i], run.dtypes[i])
    if node.op == "const":
        return node["value"]
    if node.op == "option":
        return option(run.options[run.groups[i]], node)
    return scalars.HOST[node.op](*(meta(run, x, i) for x in node.inputs))


def describe(node: Node, name: str, shape: Sequence[int], module: str, dtype: str) -> Any:
    """A fact about one tensor: `ndim`, `rows`, `named("*bias")`, ..."""
    what = node["what"]
    if what in ("name", "module", "dtype"):
        text = {"name": name, "module": module, "dtype": dtype}[what]
        return any(fnmatch.fnmatchcase(text, p) for p in node["patterns"])
    count = 1
    for n in shape:
        count *= n
    rows = shape[0] if len(shape) else 1
    if what == "shape":
        return shape[node["place"]] if node["place"] < len(shape) else 1
    return {"ndim": len(shape), "rows": rows, "cols": count // rows if rows else 0, "numel": count}[
        what
    ]


def option(options: dict[str, Any], node: Node) -> Any:
    """The value of an option node in one group."""
    value = options[node["name"]]
    place = node.get("place", -1)
    value = value[place] if place >= 0 else value
    return value if isinstance(value, bool) else float(value)


class _Turn:
    """One step: values of nodes, computed when asked for."""

    def __init__(self, run: Interpreter, batch: Any):
        self.run, self.batch = run, batch
        self.memo: dict[Node, Cells] = {}

    def flag(self, node: Node) -> torch.Tensor:
        value = self.value(node)
        return (
            torch.stack([torch.as_tensor(v) for v in value]).any()
            if isinstance(value, list)
            else value
        )

    def value(self, root: Node) -> Cells:
        """The value of a node. Of `where` over the whole step only the side taken is computed."""
        stack = [root]
        while stack:
            node = stack[-1]
            if node in self.memo:
                stack.pop()
                continue
            needs = self._needs(node)
            missing = [n for n in needs if n not in self.memo]
            if missing:
                stack.extend(missing)
            else:
                self.memo[node] = self._compute(node)
                stack.pop()
        return self.memo[root]

    def _needs(self, node: Node) -> Sequence[Node]:
        if self._lazy(node):
            condition = node.inputs[0]
            if condition not in self.memo:
                return (condition,)
            return (node.inputs[1] if bool(self.memo[condition]) else node.inputs[2],)
        return inputs_of(node) if node.op == "loop" else node.inputs

    @staticmethod
    def _lazy(node: Node) -> bool:
        condition = node.inputs[0].type if node.op == "where" else None
        return condition is not None and condition.reach == "model" and not condition.axes

    def meet(self, roots: Sequence[Node | None]) -> None:
        """Compute all that workers exchange, in the same order at each of them."""
        for node in list(postorder([r for r in roots if r is not None])):
            body = body_nodes(node["body"]) if node.op == "loop" else [node]
            if any(n.kind == "comm" for n in body):
                self.value(node)

    def initial(self, slot: str) -> Cells:
        """A slot's first version: its declared beginning."""
        spec = self.run.graph.slots[slot]
        assert spec.init is not None
        return self.value(spec.init)

    # One node -----------------------------------------------------------------------------

    def _compute(self, node: Node) -> Cells:
        special = getattr(self, f"_{node.op}", None) if node.op in _SPECIAL else None
        if special is not None:
            return special(node)
        if node.op == "flat":
            type = node.inputs[0].type
            parts = self._cells_of(node, self.memo[node.inputs[0]], type)
            lead = next((p.shape[:-1] for p in parts if p is not None), ())
            sizes = [self.run.shapes[i].numel() for i in self.run.members[type.domain]]
            parts = [
                torch.zeros(*lead, n, dtype=torch.float64) if p is None else p
                for n, p in zip(sizes, parts, strict=True)
            ]
            return torch.cat(parts, dim=-1)
        if self._lazy(node):
            chosen = node.inputs[1] if bool(self.memo[node.inputs[0]]) else node.inputs[2]
            return self._spread(node, chosen)
        if node.op in ("reduce", "contract") and node["over"] in ("tensor", "group", "model"):
            return self._reduce_cells(node)
        return self._cellwise(node)

    def _spread(self, node: Node, chosen: Node) -> Cells:
        """The chosen side at the type of the `where`."""
        places = self._places(node)
        if places is None:
            return torch_ops.align(self.memo[chosen], chosen.type, node.type, None)
        result: list[Any] = []
        for k, i in enumerate(places):
            x = self._at(chosen, k, i, node.type.reach)
            like = self._like(i) if node.type.reach != "group" else None
            result.append(x if x is None else torch_ops.align(x, chosen.type, node.type, like))
        return result

    def _places(self, node: Node) -> list[int] | None:
        """The places that a value has: tensors, groups, or None for the model."""
        if node.type.reach == "model":
            return None
        if node.type.reach == "group":
            return list(range(len(self.run.options)))
        return self.run.members[node.type.domain]

    def _at(self, node: Node, k: int, i: int, reach: str) -> Any:
        """The part of a value that concerns place k (tensor i, or group i)."""
        value = self.memo[node]
        if node.type.reach == "model":
            return value
        if node.type.reach == "group":
            return value[i if reach == "group" else self.run.groups[i]]
        return value[k]

    def _like(self, i: int) -> torch.Tensor:
        return torch.empty(self.run.shapes[i], dtype=torch.float64)

    def _cellwise(self, node: Node) -> Cells:
        places = self._places(node)
        if places is None and any(x.type.reach not in ("model", "group") for x in node.inputs):
            raise AssertionError(f"{node.op} makes {node.type} of finer values")
        if places is None:
            if any(x.type.reach == "group" for x in node.inputs):
                inputs = [
                    self.memo[x][0] if x.type.reach == "group" else self.memo[x]
                    for x in node.inputs
                ]
            else:
                inputs = [self.memo[x] for x in node.inputs]
            return torch_ops.apply(node, inputs, None, self._size)
        result: list[Any] = []
        for k, i in enumerate(places):
            inputs = [self._at(x, k, i, node.type.reach) for x in node.inputs]
            if any(x is None for x in inputs):
                result.append(None)
                continue
            group = node.type.reach == "group"
            like, sizes = (None, self._size) if group else (self._like(i), self._sizes(i))
            if node.op == "back" and node.inputs[0].type.reach == "model":
                inputs = [self._slice(node, k, inputs[0])]
            result.append(torch_ops.apply(node, inputs, like, sizes))
        return result

    def _slice(self, node: Node, k: int, flat: torch.Tensor) -> torch.Tensor:
        sizes = [self.run.shapes[i].numel() for i in self.run.members[node.type.domain]]
        start = sum(sizes[:k])
        return flat[..., start : start + sizes[k]]

    def _cells_of(self, node: Node, value: Cells, type: Any) -> list[Any]:
        members = self.run.members[type.domain]
        return [
            None if v is None else torch_ops.apply(node, [v], self._like(i), self._sizes(i))
            for i, v in zip(members, value, strict=True)
        ]

    def _reduce_cells(self, node: Node) -> Cells:
        """Reduce over the cells of each tensor, then over tensors, in order."""
        source = next(
            (x for x in node.inputs if x.type.reach not in ("model", "group")), node.inputs[0]
        )
        over = node["over"]
        if source.type.reach in ("model", "group"):
            return self._reduce_groups(node)
        parts = []
        members = self.run.members[source.type.domain]
        for k, i in enumerate(members):
            inputs = [self._at(x, k, i, "tensor") for x in node.inputs]
            absent = any(x is None for x in inputs)
            parts.append(
                None if absent else torch_ops.apply(node, inputs, self._like(i), self._sizes(i))
            )
        if over == "tensor":
            return parts
        if over == "model":
            return self._combine(node, parts)
        return [
            self._combine(
                node, [p for p, i in zip(parts, members, strict=True) if self.run.groups[i] == g]
            )
            for g in range(len(self.run.options))
        ]

    def _reduce_groups(self, node: Node) -> Cells:
        value = self.memo[node.inputs[0]]
        return self._combine(node, value) if isinstance(value, list) else value

    def _combine(self, node: Node, parts: list[Any]) -> torch.Tensor:
        present = [p for p in parts if p is not None]
        if not present:
            shape = [self._size(a) for a in node.type.axes]
            empty = cells.EMPTY.get(node.get("how", "sum"), 0.0)
            full = torch.full(shape, empty, dtype=torch.float64)
            return full.bool() if node.type.logical else full
        return cells.combine(node.get("how", "sum"), present)

    def _sizes(self, i: int) -> Callable[[Axis], int]:
        """The numbers of places of axes, as tensor i has them."""
        like, own = self._like(i), cells.SIDES
        return lambda axis: own[axis.name](like) if axis.name in own else self._size(axis)

    def _size(self, axis: Axis) -> int:
        """How many places an axis has: constant, computed, or read off a value that has it."""
        if isinstance(axis.size, int):
            return axis.size
        if isinstance(axis.size, Node):
            value = self.value(axis.size)
            return int(value[0] if isinstance(value, list) else value)
        if axis.name == "all":
            return sum(shape.numel() for shape in self.run.shapes)
        for node, value in self.memo.items():
            for at, a in enumerate(node.type.axes):
                first = value[0] if isinstance(value, list) and value else value
                if a.name == axis.name and isinstance(first, torch.Tensor) and first.dim() > at:
                    return int(first.shape[at])
        bearer = self._bearer(axis.name)
        if bearer is None or bearer in self.memo:
            raise AssertionError(f"nothing says how many places the axis {axis.name} has")
        self.value(bearer)
        return self._size(axis)

    def _bearer(self, axis: str) -> Node | None:
        """A value that comes with an axis: what is asked of the loop, or an input."""
        for node in postorder(self.run.graph.roots()):
            if node.type.axis(axis) and (node.op == "input" or node.op in ("value", "gradient")):
                return node
        return None

    # Leaves and what is no arithmetic -------------------------------------------------------

    def _const(self, node: Node) -> Cells:
        return torch.tensor(node["value"], dtype=torch.bool if node.type.logical else torch.float64)

    def _option(self, node: Node) -> Cells:
        if node.type.reach == "model":
            values = {option(o, node) for o in self.run.options}
            if len(values) > 1:
                raise ValueError(
                    f"the groups must agree on `{node['name']}`: the rule needs one for the model"
                )
            return torch.tensor(
                values.pop(), dtype=torch.bool if node.type.logical else torch.float64
            )
        return [
            torch.tensor(option(o, node), dtype=torch.bool if node.type.logical else torch.float64)
            for o in self.run.options
        ]

    def _input(self, node: Node) -> Cells:
        name = node["name"]
        if name in ("epoch", "new_epoch", "progress") and name not in self.run.inputs:
            per = self.run.inputs.get("steps_per_epoch")
            if per is not None:
                done = (self.run.call - 1) // int(per)
                fresh = float((self.run.call - 1) % int(per) == 0)
                return torch.tensor(float(done) if name == "epoch" else fresh, dtype=torch.float64)
        if name not in self.run.inputs:
            raise ValueError(f"the rule reads the input `{name}`, and the loop does not supply it")
        value = self.run.inputs[name]
        if node.type.reach in ("model", "group"):
            return torch.as_tensor(value, dtype=torch.float64)
        return [torch.as_tensor(v, dtype=torch.float64) for v in value]

    def _clock(self, node: Node) -> Cells:
        which = node["which"]
        if which == "t":
            return [
                torch.tensor(float(self.run.t[i]), dtype=torch.float64)
                for i in self.run.members[node.type.domain]
            ]
        if which == "coin":
            assert self.run.coins is not None
            return self.run.coins("uniform", node["stream"], self.run.call, 1)[0]
        return torch.tensor(
            float(self.run.call if which == "call" else self.run.steps), dtype=torch.float64
        )

    def _meta(self, node: Node) -> Cells:
        return [
            torch.tensor(
                meta(self.run, node, i), dtype=torch.bool if node.type.logical else torch.float64
            )
            for i in self.run.members[node.type.domain]
        ]

    def _read(self, node: Node) -> Cells:
        slot = node["slot"]
        if slot not in self.run.slots:
            return self.initial(slot)
        return self.run.slots[slot]

    def _restrict(self, node: Node) -> Cells:
        source = self.memo[node.inputs[0]]
        places = self.run.members[node.inputs[0].type.domain]
        return [source[places.index(i)] for i in self.run.members[node.type.domain]]

    def _merge(self, node: Node) -> Cells:
        result = list(self.memo[node.inputs[0]])
        places = self.run.members[node.type.domain]
        for domain, part in zip(node["domains"], node.inputs[1:], strict=True):
            for i, value in zip(self.run.members[domain], self.memo[part], strict=True):
                result[places.index(i)] = value
        return result

    def _random(self, node: Node) -> Cells:
        draw = self.run.draw
        assert draw is not None, "the rule draws numbers"
        stream = node["stream"]
        for x in node.inputs:  # turns of a loop draw different numbers
            stream = stream * 1_000_003 + 1 + int(self.memo[x])
        axes = node.type.axes
        if node.type.reach in ("model", "group"):
            lead = [self._size(a) for a in axes]
            count = torch.Size(lead).numel()
            return draw(node["how"], stream, self.run.call, count).reshape(lead)
        members = self.run.members[node.type.domain]
        shapes = [
            torch.Size(
                [*map(self._sizes(i), axes), *cells.extent(self.run.shapes[i], node.type.reach)]
            )
            for i in members
        ]
        numbers = draw(node["how"], stream, self.run.call, sum(s.numel() for s in shapes))
        parts = torch.split(numbers, [s.numel() for s in shapes])
        return [p.reshape(s) for p, s in zip(parts, shapes, strict=True)]

    def _loop(self, node: Node) -> Cells:
        region: Region = node["body"]
        count = self.memo[node.inputs[0]]
        count = int(count[0] if isinstance(count, list) else count)
        carried = [self.memo[x] for x in node.inputs[1:]]
        inside = body_nodes(region)
        for turn in range(count):
            for n in inside:
                self.memo.pop(n, None)
            self.memo.update(zip(region.parameters, carried, strict=True))
            self.memo[region.index] = torch.tensor(float(turn), dtype=torch.float64)
            for n in inside:
                if n.kind == "comm":
                    self.value(n)
            frozen = None
            if region.until is not None:
                frozen = self.value(region.until)
                if _everywhere(frozen):
                    break
            new = [self.value(n) for n in region.outputs]
            if (
                frozen is not None
                and region.until is not None
                and (region.until.type.axes or isinstance(frozen, list))
            ):
                new = [
                    self._freeze(region.until, frozen, p, old, value)
                    for p, old, value in zip(region.parameters, carried, new, strict=True)
                ]
            carried = new
        return carried

    def _freeze(self, until: Node, frozen: Cells, p: Node, old: Cells, new: Cells) -> Cells:
        """Cells whose condition is reached keep their value."""
        if not isinstance(new, list):
            return torch.where(torch_ops.align(frozen, until.type, p.type, None), old, new)
        members = self.run.members.get(p.type.domain, [])
        return [
            torch.where(
                torch_ops.align(
                    frozen[k] if isinstance(frozen, list) else frozen,
                    until.type,
                    p.type,
                    self._like(i),
                ),
                o,
                n,
            )
            for k, (i, o, n) in enumerate(zip(members, old, new, strict=True))
        ]

    def _mix(self, node: Node) -> Cells:
        if self.run.worker is None:
            raise ValueError("the rule is over workers: run it by `interpret.together`")
        places = self._places(node)
        likes = [torch.empty((), dtype=torch.float64)] * (1 if places is None else len(places))
        if node.type.reach == "element":
            likes = [self._like(i) for i in places or ()]
        values = [_doubles(self.memo[x]) for x in node.inputs]
        return workers.mix(self.run.worker, values[0], node["weights"], likes, *values[1:])

    def _out(self, node: Node) -> Cells:
        source = self.memo[node.inputs[0]]
        return source[node["index"]]

    # Oracles --------------------------------------------------------------------------------

    def _evaluate(self, node: Node) -> Cells:
        return node

    def _ask(self, node: Node, read: Callable[[Points, Any, list[Any]], Any]) -> Cells:
        """Ask the loop at a point, once for each place of the axes that point and data have."""
        at = node.inputs[0]
        targets = at["targets"]
        extra = node.inputs[1:]
        own = [
            a
            for a in node.type.axes
            if any(a.same(b) for b in at.type.axes)
            or any(a.same(b) for x in extra for b in x.type.axes)
            and node.op in ("hvp", "jvp")
        ]
        data = self.memo[at.inputs[len(targets)]]
        sizes = []
        for a in own:
            in_data = isinstance(data, Mapped) and any(x.same(a) for x in data.axes)
            sizes.append(len(data.items) if in_data else self._size(a))
        results = []
        for place in itertools.product(*(range(n) for n in sizes)):
            where = dict(zip([a.name + "'" * a.primes for a in own], place, strict=True))
            points = {
                t: self._standing(t, self._pick(x, where))
                for t, x in zip(targets, at.inputs, strict=False)
            }
            chosen = data
            if isinstance(data, Mapped):
                key = data.axes[0].name + "'" * data.axes[0].primes
                chosen = data.items[where[key]]
            results.append(read(points, chosen, [self._pick(x, where) for x in extra]))
        if not own:
            return results[0]
        return _stacked(results, sizes)

    def _standing(self, target: str, point: Any) -> Any:
        """A point; where it is absent, the target stands as the step found it."""
        if not isinstance(point, list) or None not in point:
            return point
        held = self.run.slots[target]
        return [h if x is None else x for x, h in zip(point, held, strict=True)]

    def _pick(self, node: Node, where: dict[str, int]) -> Any:
        """The value at one place of the mapped axes."""

        def one(x: Any) -> Any:
            if x is None:
                return None
            for d in range(len(node.type.axes) - 1, -1, -1):
                name = node.type.axes[d].name + "'" * node.type.axes[d].primes
                if name in where:
                    x = x.select(d, where[name])
            return x

        value = self.memo[node]
        return [one(x) for x in value] if isinstance(value, list) else one(value)

    def _value(self, node: Node) -> Cells:
        name = node.inputs[0]["objective"]
        return self._ask(node, lambda p, d, _: self._loop_oracles().value(name, p, d))

    def _gradient(self, node: Node) -> Cells:
        name, wrt = node.inputs[0]["objective"], node["wrt"]
        g = self._ask(node, lambda p, d, _: self._loop_oracles().gradient(name, p, d, wrt))
        return [None if x is None else -x for x in g] if self.run.maximize else g

    def _hvp(self, node: Node) -> Cells:
        name = node.inputs[0]["objective"]
        return self._ask(
            node,
            lambda p, d, e: self._loop_oracles().hvp(name, p, d, node["wrt"], node["of"], e[0]),
        )

    def _jvp(self, node: Node) -> Cells:
        name = node.inputs[0]["objective"]
        return self._ask(
            node, lambda p, d, e: self._loop_oracles().jvp(name, p, d, node["wrt"], e[0])
        )

    def _vjp(self, node: Node) -> Cells:
        name = node.inputs[0]["objective"]
        return self._ask(
            node, lambda p, d, e: self._loop_oracles().vjp(name, p, d, node["wrt"], e[0])
        )

    def _loop_oracles(self) -> Oracles:
        if self.run.oracles is None:
            raise ValueError("the rule evaluates the loss, and the loop supplies none")
        return self.run.oracles

    def _oracle(self, node: Node) -> Cells:
        name, arguments = node["name"], [self.memo[x] for x in node.inputs]
        if not name.endswith(".vjp"):
            return self._loop_oracles().call(name, arguments)
        first, *rest, weights = arguments
        plain = name.removesuffix(".vjp")
        _, back, *_ = torch.func.vjp(lambda x: self._loop_oracles().call(plain, [x, *rest]), first)
        return back(weights)[0]

    _extern = _oracle

    def _batch(self, node: Node) -> Cells:
        return self.batch

    def _data_op(self, node: Node) -> Cells:
        memo = [self.memo[x] for x in node.inputs]
        # an option that the groups agree on
        values = [
            v[0] if x.type.reach == "group" else v for x, v in zip(node.inputs, memo, strict=True)
        ]
        result = self._loop_oracles().data(node.op, values, dict(node.attrs))
        return Mapped(node.type.axes, list(result)) if node.op in ("split", "each") else result

    _draw = _split = _each = _subset = _data_op

    def took_part(self) -> list[bool]:
        """Which tensors this step wrote."""
        run = self.run
        took = [False] * len(run.names)
        for slot, node in run.graph.writes.items():
            if run.graph.slots[slot].kind == "target":
                for i, value in zip(run.members[node.type.domain], self.value(node), strict=True):
                    took[i] = took[i] or value is not None
        return took


def together(runs: Sequence[Interpreter], batches: Sequence[Any] = ()) -> list[dict[str, Any]]:
    """One step of all workers of a rule `over workers`. Returns the metrics of each."""

    def step(seat: workers.Seat) -> dict[str, Any]:
        run = runs[seat.rank]
        run.worker, run.coins = seat, runs[0].draw
        return run.step(batches[seat.rank] if batches else None)

    return workers.Meeting(len(runs)).run(step)


_SPECIAL = {
    "mix",
    "const",
    "option",
    "input",
    "clock",
    "meta",
    "read",
    "restrict",
    "merge",
    "random",
    "loop",
    "out",
    "evaluate",
    "value",
    "gradient",
    "hvp",
    "jvp",
    "vjp",
    "oracle",
    "extern",
    "batch",
    "draw",
    "split",
    "each",
    "subset",
}


def _doubles(value: Cells) -> Cells:
    if isinstance(value, list):
        return [None if x is None else x.double() for x in value]
    return value.double()


def _everywhere(c: Cells) -> bool:
    return all(bool(x.all()) for x in c if x is not None) if isinstance(c, list) else bool(c.all())


def _stacked(results: list[Any], sizes: list[int]) -> Cells:
    def stack(parts: list[Any]) -> Any:
        if parts[0] is None:
            return None
        whole = torch.stack(parts)
        return whole.reshape(*sizes, *whole.shape[1:])

    if isinstance(results[0], list):
        return [stack([r[k] for r in results]) for k in range(len(results[0]))]
    return stack(results)
