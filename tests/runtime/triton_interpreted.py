"""Triton's kernels on tensors of the CPU; `test_triton.py` runs this file under TRITON_INTERPRET=1.

Blocks of 8 elements, so that small tensors have whole blocks and a rest.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import optc
from optc.cli.contract import BOUND, gap, meaning, probed, runnable, trained
from optc.compiler.driver import program
from optc.compiler.emit.standalone import standalone
from optc.compiler.ir import Graph
from optc.compiler.ops import OPS, Op
from optc.compiler.program import Compute
from optc.compiler.syntax import KINDS
from optc.plugins.registry import library
from optc.runtime import optimizer, random, triton, withheld
from optc.runtime.optimizer import optimizer_class

from .compare import compiled, difference, interpreted, optimized
from .rules import ADAMW, CLIPPED, RULES

EVERY = [(kind, name) for kind in KINDS for name in library().names(kind)]
SHAPES = ((20, 3), (7,), (), (0, 3), (2, 3, 4), (16,))
BITS = {torch.float32: torch.int32, torch.float64: torch.int64}
BITS |= {torch.bfloat16: torch.int16, torch.float16: torch.int16}

pytestmark = pytest.mark.skipif(not triton.interpreted(), reason="TRITON_INTERPRET=1 is not set")


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(triton, "BLOCK", 8)
    launched.clear()
    run = triton.Launch.run

    def counted(self: triton.Launch, **options: Any) -> None:
        launched.append(self)
        run(self, **options)

    monkeypatch.setattr(triton.Launch, "run", counted)
    yield


launched: list[triton.Launch] = []
"""The launches of a test: what is compared to a kernel must have come from one."""


def element_wise(graph: Graph) -> bool:
    """Whether a step has a phase that is a kernel."""
    made = program(graph)
    phases = made.plan(tuple(True for _ in made.conditions.names)).phases
    return any(isinstance(p, Compute) and p.mode == "kernel" and p.space for p in phases)


@pytest.mark.parametrize(("kind", "name"), EVERY, ids=lambda x: x)
def test_every_primitive_has_its_meaning(kind: str, name: str) -> None:
    graph = probed(library().find(kind, name), library())  # type: ignore[arg-type]
    if graph is None or runnable(graph):
        pytest.skip("a function, or one that asks for what only its own loop supplies")
    if not element_wise(graph):
        pytest.skip("it has no element-wise phase")
    assert gap(trained(graph, "triton", steps=2), meaning(graph, steps=2)) <= BOUND


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", [n for n in RULES if n != "search"])
def test_rules_have_their_meaning(name: str, dtype: torch.dtype) -> None:
    meant = interpreted(RULES[name], 3)
    values, opt = optimized(RULES[name], 3, "triton", dtype)
    assert difference(values, meant.tensors()) < (1e-12 if dtype == torch.float64 else 2e-5)
    for key, value in meant.metrics.items():
        assert float(opt.metrics[key]) == pytest.approx(float(value), rel=1e-4, abs=1e-6)


NAMED = """
rule named(real = 0.1, tl = 0.5):
    state start = zeros(w), host = zeros(w), n = zeros(w)
    start <- tl * start + grad(w)
    host <- host + start
    n <- tl * n + host
    w <- w - real * n
"""


def test_names_of_a_rule_are_not_those_of_a_kernel() -> None:
    assert difference(optimized(NAMED, 3, "triton")[0], interpreted(NAMED, 3).tensors()) < 1e-12


# Operations -----------------------------------------------------------------------------------

WITHIN = {"sin": 1, "cos": 1, "erf": 1}
"""Operations whose float32 may be a neighbour of C's; all others have the same bits."""
LOOSE = {"pow": 1e-13}
"""Relative errors in float64; all others are within 2e-15."""


NAMED_OPS = [name for name in OPS if name not in ("copy", "f16", "dither_bf16", "dither_f16")]
"""Those that a rule can write; the others come with a schedule."""


def expression(op: Op) -> str:
    """The operation on g and w, as a number."""
    if op.name in ("and", "or"):
        text = f"(g < 0) {op.name} (w < 1)"
    elif op.name == "not":
        text = "not (g < w)"
    elif op.name == "where":
        text = "where(g < w, g, w)"
    elif op.symbol:
        text = f"g {op.symbol} w" if op.arity == 2 else f"{op.symbol}g"
    else:
        text = f"{op.name}({', '.join(('g', 'w')[: op.arity])})"
    return f"where({text}, 1, 0)" if op.logical else text


def operations() -> str:
    """Each operation into a state of its own, which the next step reads: others are dropped."""
    states = ", ".join(f"s_{name} = zeros(w)" for name in NAMED_OPS)
    lines = [f"s_{name} <- {expression(OPS[name])}" for name in NAMED_OPS]
    used = " + ".join(f"s_{name}" for name in NAMED_OPS)
    body = [f"state {states}", "g = grad(w)", f"w <- w + zero * ({used})", *lines]
    return "rule every(zero = 0.0):\n" + "".join(f"    {line}\n" for line in body)


def grid(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    special = [0.0, -0.0, 1.0, -1.0, 0.5, -2.5, 3.0, 1e-3, 1e30, -1e30]
    special += [float("inf"), -float("inf"), float("nan")]
    a, b = (x.flatten() for x in torch.meshgrid(*[torch.tensor(special)] * 2, indexing="ij"))
    generator = torch.Generator().manual_seed(2)
    many = torch.randn(2, 3000, generator=generator, dtype=torch.float64) * 3
    return torch.cat([a, many[0]]).to(dtype), torch.cat([b, many[1]]).to(dtype)


def computed(backend: str, dtype: torch.dtype) -> dict[str, Tensor]:
    first, second = grid(dtype)
    p = torch.nn.Parameter(second)
    p.grad = first
    opt = optimizer_class(compiled(operations()))([p], backend=backend)
    opt.step()
    return {name: opt.state[p][f"s_{name}"] for name in NAMED_OPS}


@pytest.fixture(scope="module")
def floats() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    return computed("triton", torch.float32), computed("c", torch.float32)


@pytest.fixture(scope="module")
def doubles() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    return computed("triton", torch.float64), computed("eager", torch.float64)


def ordered(x: Tensor) -> Tensor:
    """Neighbouring floats have neighbouring numbers."""
    bits = x.view(BITS[x.dtype]).long()
    return torch.where(bits < 0, -(bits & (2**31 - 1)), bits)


@pytest.mark.parametrize("name", NAMED_OPS)
def test_float32_operations_have_the_bits_of_c(name: str, floats: Any) -> None:
    ours, theirs = floats[0][name], floats[1][name]
    assert torch.equal(ours.isnan(), theirs.isnan())
    kept = ~theirs.isnan()
    assert int((ordered(ours) - ordered(theirs))[kept].abs().max()) <= WITHIN.get(name, 0)


@pytest.mark.parametrize("name", NAMED_OPS)
def test_float64_operations_agree_with_torch(name: str, doubles: Any) -> None:
    """Except for the sign of a NaN, which is NaN."""
    ours, theirs = doubles[0][name], doubles[1][name]
    a, b = grid(torch.float64)
    kept = ~a.isnan() if name == "sign" else torch.full_like(a, True, dtype=torch.bool)
    bound = 0 if name == "mod" else LOOSE.get(name, 2e-15)
    torch.testing.assert_close(ours[kept], theirs[kept], rtol=bound, atol=1e-300, equal_nan=True)


# Random numbers -------------------------------------------------------------------------------

DRAWN = """
rule drawn(lr = 1.0):
    state a = zeros(w), b = zeros(w), c = zeros(w)
    a <- normal(w) + 0.5 * a
    b <- uniform(w) + 0.5 * b
    c <- rademacher(w) + 0.5 * c
    w <- w - lr * (grad(w) + a + b + c)
"""


def drawn(backend: str, dtype: torch.dtype, seed: int) -> list[dict[str, Tensor]]:
    params = [torch.nn.Parameter(torch.ones(n, dtype=dtype)) for n in (37, 5)]
    for p in params:
        p.grad = torch.zeros_like(p)
    opt = optimizer_class(compiled(DRAWN))(params, backend=backend, seed=seed)
    opt.step()
    opt.step()
    return [{k: opt.state[p][k] for k in ("a", "b", "c")} for p in params]


@pytest.mark.parametrize("seed", [0, 2**64 - 3])
def test_random_numbers_have_the_bits_of_c(seed: int) -> None:
    for ours, theirs in zip(
        drawn("triton", torch.float32, seed), drawn("c", torch.float32, seed), strict=True
    ):
        for name, value in ours.items():
            assert torch.equal(value, theirs[name]), name
            assert value.unique().numel() > 1


def test_random_doubles_are_those_of_torch() -> None:
    for ours, theirs in zip(
        drawn("triton", torch.float64, 5), drawn("eager", torch.float64, 5), strict=True
    ):
        for name, value in ours.items():
            torch.testing.assert_close(value, theirs[name], rtol=1e-12, atol=1e-12)


def test_cells_beyond_32_bits_draw_other_numbers() -> None:
    kernel = triton.build(
        "@triton.jit\n"
        "def phase(out, key, cell):\n"
        "    k = tl.load(key).to(tl.uint64, bitcast=True)\n"
        "    i = tl.arange(0, 8)\n"
        "    tl.store(out + i, optc_uniform(k, tl.load(cell) + i, tl.load(cell), tl.float64))\n",
        "uniform",
    )
    key, cell = random.key(9, 4), 2**33 + 5
    out = torch.zeros(8, dtype=torch.float64)
    kernel[(1,)](out, torch.tensor([triton.signed(key)]), torch.tensor([cell]))
    assert torch.equal(out, random.uniform(9, 4, cell, 8, cell))


# Whole steps ----------------------------------------------------------------------------------


def parameters(dtypes: Any, sizes: Any = SHAPES) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(4)
    return [
        torch.nn.Parameter(torch.randn(s, generator=generator).to(dtypes[k % len(dtypes)]))
        for k, s in enumerate(sizes)
    ]


def misaligned(params: list[torch.nn.Parameter]) -> list[torch.nn.Parameter]:
    """The same values, one element away from where memory was given out."""
    made = []
    for p in params:
        room = torch.empty(p.numel() + 1, dtype=p.dtype)
        made.append(torch.nn.Parameter(room[1:].view(p.shape).copy_(p.detach())))
        assert p.numel() == 0 or made[-1].data_ptr() % 16 == p.element_size()
    return made


def steps(
    text: str, params: list[torch.nn.Parameter], backend: str, groups: int = 1, gaps: bool = True
) -> Any:
    """Steps over gradients that, with gaps, are absent now and then."""
    given = [{"params": params[k::groups]} for k in range(groups)]
    opt = optimizer_class(compiled(text))(given, backend=backend)
    for step in range(4):
        for k, p in enumerate(params):
            absent = gaps and (step + k) % 5 == 3
            p.grad = None if absent else torch.sin(3 * p.detach().float() + step).to(p.dtype)
        opt.step()
    return opt


def same_bits(ours: Any, theirs: Any) -> None:
    for p, q in zip(ours, theirs, strict=True):
        assert torch.equal(p.detach(), q.detach())


@pytest.mark.parametrize(
    "dtypes",
    [
        (torch.float32,),
        (torch.bfloat16,),
        (torch.float16,),
        (torch.bfloat16, torch.float32, torch.float64),
    ],
    ids=str,
)
@pytest.mark.parametrize("place", [list, misaligned], ids=["aligned", "misaligned"])
def test_adamw_has_the_bits_of_c(dtypes: Any, place: Any) -> None:
    ours, theirs = place(parameters(dtypes)), place(parameters(dtypes))
    a, b = steps(ADAMW, ours, "triton", groups=2), steps(ADAMW, theirs, "c", groups=2)
    same_bits(ours, theirs)
    for p, q in zip(ours, theirs, strict=True):
        for key, value in a.state[p].items():
            assert torch.equal(value, b.state[q][key]), key
    assert launched


SCHEDULED = """
schedule adamw:
    store exp_avg as {}
    store exp_avg_sq as {}
"""


@pytest.mark.parametrize(
    "formats", [("bf16(stochastic)", "f16"), ("f16(stochastic)", "bf16(kahan)")], ids=" ".join
)
def test_schedules_have_the_bits_of_c(formats: tuple[str, str]) -> None:
    text = ADAMW + SCHEDULED.format(*formats)
    ours, theirs = parameters((torch.float32,)), parameters((torch.float32,))
    steps(text, ours, "triton"), steps(text, theirs, "c")
    same_bits(ours, theirs)
    assert launched


def test_one_launch_serves_all_tensors_of_a_signature() -> None:
    steps(ADAMW, parameters((torch.float32,)), "triton", gaps=False)
    assert len(launched) == 4 and len(set(launched)) == 1
    launched.clear()
    steps(ADAMW, parameters((torch.float32, torch.bfloat16)), "triton", gaps=False)
    assert len(launched) == 8 and len(set(launched)) == 2


def test_tensors_of_several_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton, "BLOCK", 4096)
    sizes = ((triton.CHUNK * 2 + 5,), (triton.CHUNK,), (3,))
    ours, theirs = parameters((torch.float32,), sizes), parameters((torch.float32,), sizes)
    steps(ADAMW, ours, "triton"), steps(ADAMW, theirs, "c")
    same_bits(ours, theirs)
    a, b = (steps(CLIPPED, p, x) for p, x in ((ours, "triton"), (theirs, "c")))
    assert float(a.metrics["norm"]) == pytest.approx(float(b.metrics["norm"]), rel=1e-13)


@pytest.mark.parametrize("dtypes", [(torch.float32,), (torch.float32, torch.bfloat16)], ids=str)
def test_the_norm_of_the_model_clips(dtypes: Any) -> None:
    """Sums are added in another order than in C: doubles, so parameters agree to an ulp."""
    ours, theirs = parameters(dtypes), misaligned(parameters(dtypes))
    a, b = steps(CLIPPED, ours, "triton"), steps(CLIPPED, theirs, "c")
    assert float(a.metrics["norm"]) == pytest.approx(float(b.metrics["norm"]), rel=1e-13)
    assert a.metrics["norm"].dtype == torch.float64
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=2e-7 if p.dtype == torch.float32 else 8e-3, atol=0)


@pytest.mark.parametrize("bad", [False, True], ids=["numbers", "nan"])
@pytest.mark.parametrize("over", ["tensor", "group", "model"])
@pytest.mark.parametrize("how", ["sum", "max", "min", "any", "all"])
def test_ends_of_reductions(how: str, over: str, bad: bool) -> None:
    what = "g > 2" if how in ("any", "all") else "g"
    value = f"{how}({what}, over = {over})"
    text = "rule ends(lr = 1.0):\n    g = grad(w)\n    r = {}\n    w <- w - lr * r * g\n".format(
        f"where({value}, 1, 2)" if how in ("any", "all") else value
    )
    results = []
    for backend in ("triton", "eager"):
        params = parameters((torch.float64,), ((9, 4), (8,), (3,), (30,), (1,)))
        for k, p in enumerate(params):
            p.grad = p.detach() * (k + 1)
        if bad:
            params[1].grad[5] = float("nan")
        params[2].grad = None
        groups = [{"params": params[:3]}, {"params": params[3:], "lr": 0.5}]
        optimizer_class(compiled(text))(groups, backend=backend).step()
        results.append(params)
    for p, q in zip(*results, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-13, atol=1e-13, equal_nan=True)
    assert launched


class NoReading(TorchDispatchMode):
    """Raises where a number is read from a tensor, which on a GPU waits for it."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func is not torch.ops.aten._local_scalar_dense.default, "a step reads a number"
        return func(*args, **(kwargs or {}))


def test_nothing_is_read_back_and_tables_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    params = parameters((torch.float32,))
    opt = optimizer_class(compiled(CLIPPED))(params, backend="triton")
    for p in params:
        p.grad = torch.ones_like(p)
    opt.step()
    tables = [launch.addr.there for launch in launched]
    known = [launch.addr.known for launch in launched]
    places = [[x.data_ptr() for x in launch.cut] for launch in launched]
    launched.clear()
    with NoReading():
        opt.step()
    assert [launch.addr.there for launch in launched] == tables
    assert all(a.addr.known is b for a, b in zip(launched, known, strict=True))
    assert [[x.data_ptr() for x in launch.cut] for launch in launched] == places


def test_a_standalone_module_brings_its_kernels(tmp_path: Path) -> None:
    (tmp_path / "alone.py").write_text(standalone(compiled(CLIPPED)))
    spec = importlib.util.spec_from_file_location("alone", tmp_path / "alone.py")
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    spec.loader.exec_module(module)  # type: ignore[union-attr]
    results = []
    for make in (module.Clipped, optimizer_class(compiled(CLIPPED))):
        params = parameters((torch.float32, torch.bfloat16))
        opt = make(params, backend="triton")
        for _ in range(2):
            for p in params:
                p.grad = torch.sin(p.detach())
            opt.step()
        results.append(params)
    same_bits(*results)
    assert len(launched) == 8, "the module has a runtime of its own"


# Writes that the device withholds -------------------------------------------------------------


def guarded_steps(text: str, spoilt: set[int], recorded: Recorded | None = None) -> Any:
    params = parameters((torch.float32, torch.bfloat16))
    opt = optc.loads(text, guard=True)(params, backend="triton")
    for p in params:
        p.grad = torch.zeros_like(p)
    for step in range(6):
        for p in params:
            p.grad.copy_(torch.sin(p.detach().float() * (step + 1)))
        if step in spoilt:
            params[0].grad.fill_(float("nan"))
        if recorded is not None and step == 2:
            with recorded:
                opt.step()
        opt.param_groups[0]["lr"] = 0.1 / (step + 1)
        if recorded is not None and step >= 2:
            opt.advance()
            recorded.replay()
        else:
            opt.step()
    return opt


def same_optimizer(a: Any, b: Any) -> None:
    one, two = a.state_dict(), b.state_dict()
    assert one["param_groups"] == two["param_groups"]
    for x, y in zip(one["state"].values(), two["state"].values(), strict=True):
        assert all(torch.equal(x[key], y[key]) for key in x)
    same_bits(*(o.param_groups[0]["params"] for o in (a, b)))


@pytest.mark.parametrize("spoilt", [{0}, {1, 3}, {5}, set()], ids=str)
@pytest.mark.parametrize("text", [ADAMW, CLIPPED], ids=["adamw", "clipped"])
def test_kernels_withhold_what_a_veto_takes_back(
    text: str, spoilt: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    host = guarded_steps(text, spoilt)
    for module in (withheld, optimizer):
        monkeypatch.setattr(module, "waited_for", lambda device: True)
    device = guarded_steps(text, spoilt)
    assert device._withheld is not None
    same_optimizer(host, device)
    assert device.param_groups[0]["steps"] == 6 - len(spoilt)


# Graphs ---------------------------------------------------------------------------------------

NOISE = """
rule noise(lr: nonnegative = 0.1):
    w <- w - lr / t * (grad(w) + normal(w))
"""


class Again(TorchDispatchMode):
    """Keeps torch's operations, to run them once more into the memory of their first results."""

    def __init__(self, calls: list[Any]):
        super().__init__()
        self.calls = calls

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        first = func(*args, **kwargs)

        def again() -> None:
            new = func(*args, **kwargs)
            if isinstance(first, Tensor) and first.data_ptr() != new.data_ptr():
                first.copy_(new)

        self.calls.append(again)
        return first


class Recorded:
    """The launches of a step, kept instead of run; torch's own operations run, and are kept."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.calls: list[Any] = []
        self.patch = monkeypatch
        self.operations = Again(self.calls)

    def __enter__(self) -> Recorded:
        from triton.runtime.interpreter import GridExecutor

        def record(executor: Any, *args: Any, **options: Any) -> None:
            self.calls.append(lambda: run(executor, *args, **options))

        run = GridExecutor.__call__
        self.context = self.patch.context()
        patch = self.context.__enter__()
        patch.setattr(GridExecutor, "__call__", record)
        for module in (triton, optimizer):
            patch.setattr(module, "capturing", lambda device: True)
        self.operations.__enter__()
        return self

    def __exit__(self, *why: Any) -> None:
        self.operations.__exit__(*why)
        self.context.__exit__(*why)

    def replay(self) -> None:
        for call in self.calls:
            call()


@pytest.mark.parametrize("text", [ADAMW, NOISE], ids=["adamw", "noise"])
def test_replays_are_steps(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    for replayed in (False, True):
        params = parameters((torch.float32, torch.bfloat16))
        opt = optimizer_class(compiled(text))(params, backend="triton", seed=3)
        for p in params:
            p.grad = torch.zeros_like(p)
        recorded = Recorded(monkeypatch)
        for step in range(5):
            for p in params:
                p.grad.copy_(torch.sin(p.detach().float() * (step + 1)))
            if replayed and step == 2:
                with recorded:
                    opt.step()
                assert recorded.calls
            opt.param_groups[0]["lr"] = 0.1 / (step + 1)
            if replayed and step >= 2:
                opt.advance()
                recorded.replay()
            else:
                opt.step()
        made.append((params, opt))
    same_bits(made[0][0], made[1][0])
    one, two = (x.state_dict() for _, x in made)
    assert one["param_groups"] == two["param_groups"]
    for a, b in zip(one["state"].values(), two["state"].values(), strict=True):
        assert all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("spoilt", [{0, 3}, {2, 5}, set()], ids=str)
def test_replays_withhold_what_a_veto_takes_back(
    spoilt: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    host = guarded_steps(ADAMW, spoilt)
    for module in (withheld, optimizer):
        monkeypatch.setattr(module, "waited_for", lambda device: True)
    recorded = Recorded(monkeypatch)
    same_optimizer(host, guarded_steps(ADAMW, spoilt, recorded))
    assert recorded.calls


def test_a_graph_refuses_what_it_cannot_follow(monkeypatch: pytest.MonkeyPatch) -> None:
    params = parameters((torch.float32,))
    opt = optimizer_class(compiled(ADAMW))(params, backend="triton")
    with pytest.raises(RuntimeError, match="no step was captured"):
        opt.advance()
    for p in params:
        p.grad = torch.zeros_like(p)
    opt.step()
    held = params[0].grad
    params[0].grad = torch.ones_like(held)
    with Recorded(monkeypatch), pytest.raises(RuntimeError, match="a tensor has moved"):
        opt.step()
    params[0].grad = None
    with Recorded(monkeypatch), pytest.raises(RuntimeError, match="another set of tensors"):
        opt.step()
    values, veto = optimized(RULES["veto"], 1, "triton")
    with Recorded(monkeypatch), pytest.raises(RuntimeError, match="which the host decides"):
        veto.step()
    assert values
