"""`optc verify`: the same steps by everything that can run a rule, side by side."""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .files import read_source
from .settings import add_set, settings
from .terminal import UsageError, paint

if TYPE_CHECKING:
    from torch import Tensor

HELP = """Run a rule in every way and say how far the results are apart.

On a small random problem (matrices, a vector, a scalar, an empty tensor, a transposed one, one
without gradient) it takes the same steps with the float64 interpreter, which is the meaning of the
rule; with plain torch operations; with compiled kernels; with the standalone module; and with
torch's own implementation, where one exists. Status 1 if a difference is above its tolerance."""

DTYPES = ("float64", "float32", "bfloat16", "float16")
SHAPES = {
    "body.weight": (6, 4),
    "head.weight": (3, 6),
    "bias": (6,),
    "scale": (),
    "empty": (0, 3),
    "turned": (5, 7),
    "unused": (4,),
}
TURNED, UNUSED = "turned", "unused"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="a .opt or .yaml file, or -")
    parser.add_argument("--rule", default="", metavar="NAME", help="which rule of the file")
    parser.add_argument("--steps", type=int, default=10, metavar="N", help="how many steps (10)")
    parser.add_argument(
        "--dtype", action="append", choices=DTYPES, help="a type of the parameters; may be repeated"
    )
    parser.add_argument(
        "--inductor", action="store_true", help="torch.compile too (slow; needs a C++ compiler)"
    )
    add_set(parser, "--set", "an option of the rule, as in --set lr=0.01")
    parser.add_argument("--json", action="store_true", help="the differences, for a program")


@dataclass
class Row:
    """Two ways, and how far apart they end in each type: None where that cannot be compared."""

    first: str
    second: str
    gaps: dict[str, float | None]
    bounds: dict[str, float]
    note: str = ""

    @property
    def wrong(self) -> bool:
        pairs = ((g, self.bounds[d]) for d, g in self.gaps.items() if g is not None)
        return any(not gap <= bound for gap, bound in pairs)


def run(args: argparse.Namespace) -> int:
    from ..compiler import driver
    from ..plugins.registry import library

    if args.steps < 1:
        raise UsageError("--steps is at least 1")
    source = read_source(args.file)
    graph = driver.graph(source, library(), args.rule)
    program = driver.program(graph, source)
    if program.workers:
        raise UsageError(f"{program.name} is over workers, and verify's problem has but one")
    options = {**program.options, **settings(args.set)}
    if unknown := [n for n in options if n not in program.options]:
        takes = ", ".join(program.options)
        raise UsageError(f"{program.name} has no option {unknown[0]!r}; it takes {takes}")
    missing = [n for n, v in options.items() if v is None]
    if missing:
        raise UsageError(f"{program.name} needs the option `{missing[0]}`: --set {missing[0]}=...")
    ways = Ways(graph, program, settings(args.set), args.steps)
    rows = compare(ways, args.dtype or list(DTYPES[:3]), args.inductor)
    report = {
        "rule": program.name,
        "steps": args.steps,
        "rows": [row.__dict__ | {"wrong": row.wrong} for row in rows],
    }
    print(json.dumps(report, indent=2) if args.json else _table(program.name, args.steps, rows))
    return 1 if any(row.wrong for row in rows) else 0


# The problem ----------------------------------------------------------------------------------


def start(dtype: Any) -> dict[str, Tensor]:
    """The parameters before the first step, the same in every run."""
    import torch

    generator = torch.Generator().manual_seed(7)
    values = {
        name: torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
        for name, shape in SHAPES.items()
    }
    values[TURNED] = values[TURNED].t()
    return values


def loss(tensors: dict[str, Tensor]) -> Tensor:
    """Smooth, not quadratic, its curvature different for each tensor; computed in float64."""
    import torch

    total = torch.zeros((), dtype=torch.float64)
    for k, (name, x) in enumerate(tensors.items()):
        if name != UNUSED:
            y = x.double()
            total = total + (0.5 + 0.3 * k) * (y**2).sum() + 0.1 * torch.sin(2 * y).sum()
    return total


class Plain:
    """What the interpreter asks of a training loop, by autograd in float64."""

    def __init__(self, names: list[str]):
        self.names = names
        self.run: Any = None

    def _whole(self, points: Any) -> dict[str, list[Tensor]]:
        """Points with the held value where a tensor has none of its own."""
        held = self.run.slots
        return {
            t: [h if x is None else x for x, h in zip(xs, held[t], strict=True)]
            for t, xs in points.items()
        }

    def _at(self, points: dict[str, list[Tensor]]) -> dict[str, Tensor]:
        flat: dict[int, Tensor] = {}
        for target, xs in points.items():
            places = self.run.members[self.run.graph.slots[target].type.domain]
            flat.update(zip(places, xs, strict=True))
        return {self.names[i]: flat[i] for i in sorted(flat)}

    def value(self, objective: str, points: Any, data: Any) -> Tensor:
        return loss(self._at(self._whole(points))).detach()

    def gradient(self, objective: str, points: Any, data: Any, wrt: str) -> list[Any]:
        import torch

        points = self._whole(points)
        with torch.enable_grad():
            leaves = [x.detach().clone().requires_grad_() for x in points[wrt]]
            value = loss(self._at({**points, wrt: leaves}))
            return list(torch.autograd.grad(value, leaves, allow_unused=True))

    def hvp(self, objective: str, points: Any, data: Any, wrt: str, of: str, v: Any) -> list[Any]:
        import torch

        points = self._whole(points)

        def slope(chosen: list[Tensor]) -> Any:
            at = {**points, wrt: chosen}
            inner = torch.func.grad(lambda o: loss(self._at({**at, of: o})))(at[of])
            pairs = zip(inner, v, strict=True)  # what is absent in the vector is zero
            return sum(((a * b).sum() for a, b in pairs if b is not None), torch.zeros(()))

        return list(torch.func.grad(slope)(list(points[wrt])))

    def __getattr__(self, name: str) -> Any:
        raise UsageError(f"the rule asks for `{name}`, which verify's problem does not have")


# The ways -------------------------------------------------------------------------------------


class Ways:
    """Runs a rule on the problem: each method is a way, and gives the parameters at the end."""

    def __init__(self, graph: Any, program: Any, options: dict[str, Any], steps: int):
        self.graph, self.program, self.options, self.steps = graph, program, options, steps
        self.inputs = {n: 0.5 for n in program.inputs if n not in ("epoch", "new_epoch")}
        self.inputs["steps_per_epoch"] = 4

    def interpreter(self, dtype: Any) -> list[Tensor]:
        from ..compiler.interpret import Interpreter, Tensors
        from ..runtime.random import draw

        begin = start(dtype)
        kinds = [str(dtype).removeprefix("torch.")] * len(begin)
        tensors = Tensors(list(begin), list(begin.values()), dtypes=kinds)
        oracles: Any = Plain(list(begin))
        run = oracles.run = Interpreter(
            self.graph,
            tensors,
            [self.options],
            oracles,
            lambda how, stream, call, n: draw(how, 0, stream, call, n, 0),
            self.inputs,
        )
        for target in self.program.targets:
            if not run.slots[target]:
                raise UsageError(f"verify's problem has no parameters for the target `{target}`")
        for _ in range(self.steps):
            run.step()
        return list(run.tensors())

    def optimizer(self, dtype: Any, backend: str, cls: Any = None) -> list[Tensor]:
        """With the optimizer of the rule, or another class of the same face."""
        from ..runtime.optimizer import optimizer_class

        named = _parameters(dtype)
        opt = (cls or optimizer_class(self.program))(named, backend=backend, **self.options)
        opt.supply(**self.inputs)
        if self.program.level == "objective":
            opt.bind(objective=dict.fromkeys(self.program.objectives, lambda: loss(dict(named))))
        return self._train(named, [opt], self.program.level != "objective")

    def standalone(self, dtype: Any, backend: str) -> list[Tensor]:
        from ..compiler.emit.standalone import class_name, standalone

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "optc_verified.py"
            path.write_text(standalone(self.program), encoding="utf-8")
            spec = importlib.util.spec_from_file_location(path.stem, path)
            assert spec is not None and spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules[path.stem] = module
            try:
                spec.loader.exec_module(module)
                cls = getattr(module, class_name(self.program.name))
                return self.optimizer(dtype, backend, cls)
            finally:
                del sys.modules[path.stem]

    def reference(self, dtype: Any, found: Any) -> list[Tensor]:
        named = _parameters(dtype)
        return self._train(named, found.make(named, {**self.program.options, **self.options}), True)

    def _train(self, named: Any, optimizers: list[Any], closure: bool) -> list[Tensor]:
        tensors = dict(named)

        def evaluate() -> Tensor:
            for optimizer in optimizers:
                optimizer.zero_grad()
            value = loss(tensors)
            value.backward()
            return value

        closures = dict.fromkeys(self.program.objectives, evaluate)
        for _ in range(self.steps):
            if len(optimizers) == 1:
                asked = closures if len(closures) > 1 else evaluate
                optimizers[0].step(*([asked] if closure else []))
            else:
                evaluate()
                for optimizer in optimizers:
                    optimizer.step()
        return [p.detach() for p in tensors.values()]


def _parameters(dtype: Any) -> list[tuple[str, Any]]:
    import torch

    return [(name, torch.nn.Parameter(value)) for name, value in start(dtype).items()]


# The comparison -------------------------------------------------------------------------------


def compare(ways: Ways, dtypes: list[str], inductor: bool) -> list[Row]:
    """All pairs that say something, in all types."""
    from ..runtime import native
    from .references import reference

    bounds = {d: _bound(d, ways.steps) for d in dtypes}
    exact = dict.fromkeys(dtypes, 0.0)
    compiled = native.compiler() is not None
    fast = "c" if compiled else "eager"
    meant = _runs(ways.interpreter, dtypes)
    eager = _runs(lambda d: ways.optimizer(d, "eager"), dtypes)
    rows = [Row("interpreter", "eager", _gaps(meant, eager), bounds)]
    best = eager
    if compiled:
        best = _runs(lambda d: ways.optimizer(d, "c"), dtypes)
        rows.append(Row("interpreter", "c", _gaps(meant, best), bounds))
    if inductor:
        made = _runs(lambda d: ways.optimizer(d, "inductor"), dtypes)
        rows.append(Row("interpreter", "inductor", _gaps(meant, made), bounds))
    alone = _runs(lambda d: ways.standalone(d, fast), dtypes)
    rows.append(Row(fast, "standalone module", _gaps(best, alone), exact))
    found = reference(ways.program.name, {**ways.program.options, **ways.options})
    if found is not None:
        wide = [d for d in dtypes if d in ("float64", "float32")]
        gaps = _gaps(_runs(lambda d: ways.reference(d, found), wide), best)
        loose = {d: 0.05 for d in dtypes} if found.loose else bounds
        rows.append(
            Row(fast, found.name, {d: gaps.get(d) for d in dtypes}, loose, note=found.loose)
        )
    return rows


def _bound(dtype: str, steps: int) -> float:
    """The rounding of so many steps: of the arithmetic, and of what is kept in a narrow type."""
    import torch

    eps = float(torch.finfo(getattr(torch, dtype)).eps)
    return eps * {"float64": 450, "float32": 16}.get(dtype, 1) * max(10, steps)


def _runs(way: Callable[[Any], list[Tensor]], dtypes: list[str]) -> dict[str, list[Tensor]]:
    import torch

    try:
        return {d: way(getattr(torch, d)) for d in dtypes}
    except (RuntimeError, TypeError, ValueError) as error:
        raise UsageError(f"the rule fails on verify's problem: {error}") from error


def _gaps(a: dict[str, list[Tensor]], b: dict[str, list[Tensor]]) -> dict[str, float | None]:
    import torch

    found: dict[str, float | None] = {}
    for d in a:
        begin = start(getattr(torch, d)).values()
        found[d] = max(map(_gap, a[d], b[d], begin))
    return found


def _gap(a: Tensor, b: Tensor, begin: Tensor) -> float:
    """The largest difference, relative to the largest value that the tensor begins or ends with."""
    import torch

    x, y = a.detach().double(), b.detach().double()
    if not torch.equal(x.isnan(), y.isnan()):
        return float("inf")
    if not x.numel():
        return 0.0
    x, y = x.nan_to_num(0.0), y.nan_to_num(0.0)
    size = max(float(z.abs().max()) for z in (x, y, begin.double()))
    return float((x - y).abs().max()) / max(size, 1e-30)


def _table(rule: str, steps: int, rows: list[Row]) -> str:
    dtypes = list(rows[0].gaps)
    pairs = [f"{row.first} - {row.second}" for row in rows]
    wide = max(map(len, pairs))
    lines = [
        f"{rule}: {steps} steps on {len(SHAPES)} tensors; largest relative difference",
        "",
        " ".join([" " * wide, *(f"{d:>10}" for d in dtypes)]),
    ]
    for pair, row in zip(pairs, rows, strict=True):
        cells = [_cell(row.gaps[d], row.bounds[d]) for d in dtypes]
        lines.append(
            " ".join([f"{pair:<{wide}}", *cells]) + (f"  ({row.note})" if row.note else "")
        )
    bounds = [f"{rows[0].bounds[d]:>10.1e}" for d in dtypes]
    lines.append(paint(" ".join([f"{'tolerance':<{wide}}", *bounds]), "dim"))
    wrong = [pair for pair, row in zip(pairs, rows, strict=True) if row.wrong]
    lines += ["", f"above the tolerance: {', '.join(wrong)}" if wrong else "all agree"]
    return "\n".join(lines)


def _cell(gap: float | None, bound: float) -> str:
    if gap is None:
        return f"{'-':>10}"
    text = f"{'0' if gap == 0 else f'{gap:.1e}':>10}"
    return text if gap <= bound else paint(text, "red")
