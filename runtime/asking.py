"""What a step asks the loop: objectives at points, data, functions, and random numbers."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..compiler import cells, workers
from ..compiler.program import Call, Evaluate, Read
from .frame import Frame, truth, working, working_type
from .loop import Question, stack
from .losses import unused
from .tensors import local, real


def evaluate(phase: Evaluate, frame: Frame) -> None:
    """Ask the loop at a point, once for each place of the axes that point and data have."""
    if phase.when is not None and truth(frame.get(phase.when[0])) != phase.when[1]:
        return _unasked(phase, frame)
    data = frame.get(phase.data)
    plain = phase.reads[0].what in ("value", "gradient")
    empty = isinstance(data, Mapped) and not data.items or _of_no_tensors(phase, frame)
    if len(phase.axes) == 1 and plain and not empty:
        return _keep(phase, frame, _of_examples(phase, data, frame, _many(phase, data, frame)))
    if not phase.axes:
        points = {t: frame.get(v) if v else None for t, v in phase.points.items()}
        return _keep(phase, frame, _ask(phase, points, data, {}, frame))
    sizes = []
    for axis in phase.axes:
        if isinstance(data, Mapped) and axis in data.axes:
            sizes.append(len(data.items))
        else:
            sizes.append(
                frame.size(phase.sizes[axis])
                if phase.sizes[axis] is not None
                else _found(phase, axis, frame)
            )
    if 0 in sizes:
        return _keep(phase, frame, [_nowhere(r, sizes, frame) for r in phase.reads])
    answers = []
    for place in itertools.product(*(range(n) for n in sizes)):
        where = dict(zip(phase.axes, place, strict=True))
        points = {t: _pick(v, phase, where, frame) if v else None for t, v in phase.points.items()}
        chosen = data.items[where[data.axes[0]]] if isinstance(data, Mapped) else data
        answers.append(_ask(phase, points, chosen, where, frame))
    parts = [[a[at] for a in answers] for at in range(len(phase.reads))]
    _keep(phase, frame, [stacked(p, sizes) for p in parts])


def _of_no_tensors(phase: Evaluate, frame: Frame) -> bool:
    """Whether a point with an axis is of a target without tensors: it is the same at each place."""
    named = (v for v in phase.points.values() if v in phase.layouts)
    return any(not frame.get(v) for v in named)


def _of_examples(phase: Evaluate, data: Any, frame: Frame, answers: list[Any]) -> list[Any]:
    """In a rule that was proven private no gradient of examples is absent: which tensors they use
    is their own affair, so all have the noise."""
    if not (frame.program.private and isinstance(data, Mapped) and data.examples):
        return answers
    filled, count = [], len(data.items)
    for read, value in zip(phase.reads, answers, strict=True):
        if isinstance(value, list):
            held = [frame.tensors[i] for i in frame.members[read.wrt]]
            value = [
                x.new_zeros(count, *x.shape) if v is None else v
                for v, x in zip(value, held, strict=True)
            ]
        filled.append(value)
    return filled


def _nowhere(read: Read, sizes: list[int], frame: Frame) -> Any:
    """The answers of an axis without places: all cells, where a part has no tensors."""
    if read.what in ("value", "jvp"):
        return torch.zeros(sizes, dtype=torch.float64, device=frame.device)
    held = (frame.tensors[i] for i in frame.members[read.wrt])
    return [torch.zeros(*sizes, *x.shape, dtype=x.dtype, device=x.device) for x in held]


def _many(phase: Evaluate, data: Any, frame: Frame) -> list[Any]:
    """One axis, of points or of the data: the loop may map over it at once."""
    axis = phase.axes[0]
    points: dict[str, Any] = {}
    over = []
    for target, name in phase.points.items():
        point: Any = frame.get(name) if name else None
        if name and axis in phase.layouts.get(name, ()):
            over.append(target)
            members = frame.members[target]
            count = next((len(p) for p in point if p is not None), 1)
            point = [
                frame.tensors[i].expand(count, *frame.tensors[i].shape)
                if p is None
                else p.to(frame.tensors[i].dtype)
                for p, i in zip(point, members, strict=True)
            ]
        elif point is not None:
            point = _in_type(point, target, frame)
        points[target] = point
    pieces = data.pieces if isinstance(data, Mapped) else data
    return _answers(phase, frame.loop.evaluate_many, points, pieces, tuple(over))


def _answers(
    phase: Evaluate, evaluate: Any, points: Any, data: Any, over: tuple[str, ...] = ()
) -> list[Any]:
    """What a phase reads of an objective: its value and its gradients, asked for at once."""
    reads = phase.reads
    value = any(r.what == "value" for r in reads)
    wrt = tuple(dict.fromkeys(r.wrt for r in reads if r.what == "gradient"))
    found, gradients = evaluate(Question(phase.objective, points, data, value, wrt, over))
    return [found if r.what == "value" else gradients[r.wrt] for r in reads]


def _keep(phase: Evaluate, frame: Frame, answers: list[Any]) -> None:
    """Give the loop's answers their names: gradients as real local tensors, of descent."""
    for read, value in zip(phase.reads, answers, strict=True):
        if frame.wrapped and isinstance(value, list):
            value = [None if v is None else real(local(v)) for v in value]
        came = (*phase.axes, *(a for a in read.axes if a not in phase.axes))
        if came != read.axes and set(came) == set(read.axes):
            value = _in_order(value, [came.index(a) for a in read.axes])
        axes = _axes(phase.objective, read, value, frame)
        for label, n in zip(read.axes, axes, strict=False):
            frame.sizes[label.rstrip("'")] = n
        for label in read.axes[len(axes) :]:
            frame.unused[label.rstrip("'")] = unused(phase.objective)
        if read.what == "value":
            value = value.double()
        if read.what == "gradient" and any(frame.maximize):
            value = [
                v if v is None or not frame.maximize[frame.groups[i]] else -v
                for v, i in zip(value, frame.members[read.wrt], strict=True)
            ]
        frame.values[read.value] = value


def _in_order(value: Any, order: list[int]) -> Any:
    """An answer whose axes are those of its type in another order."""
    if isinstance(value, list):
        return [_in_order(v, order) for v in value]
    if value is None or value.dim() < len(order):
        return value
    return value.permute(*order, *range(len(order), value.dim()))


def _axes(objective: str, read: Read, answer: Any, frame: Frame) -> tuple[int, ...]:
    """How many places each axis of an answer has: what the loss has are those that it declares."""
    if not isinstance(answer, list):
        found = tuple(answer.shape)
    else:
        at = next((k for k, v in enumerate(answer) if v is not None), None)
        if at is None:
            return ()
        cells = frame.tensors[frame.members[read.wrt][at]].dim()
        found = tuple(answer[at].shape[: answer[at].dim() - cells])
    if read.what in ("value", "gradient") and len(found) != len(read.axes):
        wanted = f"the axes [{', '.join(read.axes)}]" if read.axes else "one number"
        raise RuntimeError(
            f"the loss `{objective}` is {wanted} by the rule, and it was given with the shape "
            f"{list(found)}" + ("" if read.axes else ": take its mean")
        )
    return found


def _unasked(phase: Evaluate, frame: Frame) -> None:
    """Stand-ins for answers that a selection will not take."""
    for read in phase.reads:
        if read.what in ("value", "jvp"):
            frame.values[read.value] = torch.zeros((), dtype=torch.float64)
        else:
            frame.values[read.value] = [frame.tensors[i] for i in frame.members[read.wrt]]


def _found(phase: Evaluate, axis: str, frame: Frame) -> int:
    for name, layout in phase.layouts.items():
        if axis in layout:
            value = frame.get(name)
            first = value[0] if isinstance(value, list) else value
            return int(first.shape[layout.index(axis)])
    raise RuntimeError(f"nothing says how many places the axis {axis} has")


def _pick(name: str, phase: Evaluate, where: dict[str, int], frame: Frame) -> Any:
    value = frame.get(name)
    layout = phase.layouts.get(name, ())

    def one(x: Any) -> Any:
        for d in range(len(layout) - 1, -1, -1):
            if layout[d] in where and x is not None:
                x = x.select(d, where[layout[d]])
        return x

    return [one(x) for x in value] if isinstance(value, list) else one(value)


def _ask(phase: Evaluate, points: Any, data: Any, where: dict[str, int], frame: Frame) -> list[Any]:
    try:
        return _told(phase, points, data, where, frame)
    except RuntimeError as error:
        if frame.loop.level != "objective" or "graph a second time" not in str(error):
            raise
        raise RuntimeError(
            f"the objective `{phase.objective}` calls backward: it only runs the model forward and "
            "returns the loss, and optimizer.step() takes the gradients"
        ) from error


def _told(
    phase: Evaluate, points: Any, data: Any, where: dict[str, int], frame: Frame
) -> list[Any]:
    loop, first = frame.loop, phase.reads[0]
    loop.again = phase.again
    points = {t: None if p is None else _in_type(p, t, frame) for t, p in points.items()}
    if first.what in ("value", "gradient"):
        return _answers(phase, loop.evaluate, points, data)
    vector = _pick(first.vector, phase, where, frame)
    if first.what == "hvp":
        vector = _in_type(vector, first.of, frame)
        return [loop.hvp(phase.objective, points, data, first.wrt, first.of, vector)]
    if first.what == "jvp":
        return [
            loop.jvp(phase.objective, points, data, first.wrt, _in_type(vector, first.wrt, frame))
        ]
    return [loop.vjp(phase.objective, points, data, first.wrt, vector)]


def _in_type(point: list[Any], target: str, frame: Frame) -> list[Tensor]:
    """A point as tensors like the parameters; an absent part stands where it is held."""
    held = [frame.tensors[i] for i in frame.members[target]]
    return [h if p is None else _like(p, h) for p, h in zip(point, held, strict=True)]


def _like(x: Tensor, held: Tensor) -> Tensor:
    """A tensor in the type and shape of another; as it is where it has them."""
    same = x.dtype == held.dtype and x.shape == held.shape
    return x if same else x.to(held.dtype).reshape(held.shape)


@dataclass
class Mapped:
    """Data with an axis: one batch for each place, or one example."""

    axes: tuple[str, ...]
    pieces: Any
    examples: bool = False

    @property
    def items(self) -> list[Any]:
        return list(getattr(self.pieces, "items", self.pieces))


def stacked(parts: list[Any], sizes: list[int]) -> Any:
    """The answers of all places as one value with the axes first."""

    def shaped(xs: list[Any]) -> Any:
        whole = stack(xs)
        return None if whole is None else whole.reshape(*sizes, *whole.shape[1:])

    if isinstance(parts[0], list):
        return [shaped([p[k] for p in parts]) for k in range(len(parts[0]))]
    return shaped(parts)


def call(phase: Call, frame: Frame) -> None:
    if phase.op == "batch":
        frame.values[phase.output] = frame.batch
    elif phase.op == "random":
        frame.values[phase.output] = _random(phase, frame)
    elif phase.op == "mix":
        frame.values[phase.output] = _mix(phase, frame)
    elif phase.op in ("oracle", "extern"):
        arguments = [frame.get(x) for x in phase.inputs]
        frame.values[phase.output] = answer(frame.loop, phase.attributes["name"], arguments)
    else:
        # an option of the groups is a list, and so may a batch be
        arguments = [
            frame.get(x)[0] if x.startswith("host:") and x.endswith("#") else frame.get(x)
            for x in phase.inputs
        ]
        result = frame.loop.data(phase.op, arguments, phase.attributes)
        if phase.op in ("split", "each"):
            axes = tuple(a for a, _ in phase.attributes["axes"])
            result = Mapped(axes, result, phase.op == "each")
        frame.values[phase.output] = result


def _mix(phase: Call, frame: Frame) -> Any:
    """The weighted mean among the workers, in the type that is computed with."""
    a = phase.attributes
    values = [_mixable(frame.get(x)) for x in phase.inputs]
    likes = [torch.empty((), dtype=torch.float64)]
    if a["reach"] == "element":
        likes = [working(frame.tensors[i]) for i in frame.members[a["domain"]]]
    elif isinstance(values[0], list):
        likes *= len(values[0])
    return workers.mix(frame.worker, values[0], a["weights"], likes, *values[1:])


def _mixable(value: Any) -> Any:
    if isinstance(value, list):
        return [None if x is None else _mixable(x) for x in value]
    return working(value.double() if value.dtype == torch.bool else value)


def answer(loop: Any, name: str, arguments: list[Any]) -> Any:
    """A function of the user's, or its transposed derivative by the first argument."""
    if not name.endswith(".vjp"):
        return loop.call(name, arguments)
    first, *rest, weights = arguments

    def of(x: Any) -> Any:
        return loop.call(name.removesuffix(".vjp"), [x, *rest])

    result, back, *_ = torch.func.vjp(of, first)
    return back(weights.to(result.dtype))[0]


def places_of(frame: Frame, axes: Any, like: Tensor | None = None) -> list[int]:
    """How many places axes have; the sides of a matrix are those of the tensor `like`."""
    found = []
    for name, size in axes:
        plain = name.rstrip("'")
        side = size if isinstance(size, str) else plain
        if like is not None and side in cells.SIDES:
            found.append(cells.SIDES[side](like))
        else:
            found.append(frame.places(plain) if size is None else frame.size(size))
    return found


def _random(phase: Call, frame: Frame) -> Any:
    a = phase.attributes
    stream = a["stream"]
    for x in phase.inputs:  # turns of a loop draw different numbers
        stream = stream * 1_000_003 + 1 + int(frame.get(x))
    if a["reach"] in ("model", "group"):
        lead = places_of(frame, a["axes"])
        numbers = frame.draw(a["how"], frame.seed, stream, frame.call, torch.Size(lead).numel())
        return numbers.reshape(lead).to(frame.device, non_blocking=True)
    reach, domain = a["reach"], a["domain"]
    result, drawn = [], 0
    for i in frame.members[domain]:
        t = frame.tensors[i]
        lead, own = places_of(frame, a["axes"], t), cells.extent(t.shape, reach)
        first, whole = frame.place(i) if reach == "element" else (0, math.prod(own))
        if frame.place(i)[1] != t.numel() and (lead and own or reach in ("row", "column")):
            raise RuntimeError(
                "parameters are sharded, and the rule draws numbers for rows, for columns, or "
                "several for a cell"
            )
        shape, places = torch.Size([*lead, *own]), math.prod(lead)
        start = places * frame.before.get(domain, 0) + drawn + first
        kind = working_type(t)
        numbers = frame.draw(a["how"], frame.seed, stream, frame.call, shape.numel(), start, kind)
        drawn += places * whole
        result.append(numbers.reshape(shape).to(t.device, non_blocking=True))
    return result
