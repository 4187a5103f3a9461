"""A hand-written AdamW through table and launch: right numbers, same bits, honest versions."""

from __future__ import annotations

import ctypes
import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

from optc.runtime import launch, looking, native
from optc.runtime.launch import Launch, Reduction, increment_version
from optc.runtime.table import Table

pytestmark = pytest.mark.skipif(native.compiler() is None, reason="no C compiler")
F32, F64 = torch.float32, torch.float64
ADAMW = (Path(__file__).parent / "adamw.c").read_text()
NORMS = """
void norms(const optc_args *a, int64_t begin, int64_t end)
{
    for (int64_t chunk = begin; chunk < end; chunk++) {
        const int64_t r = a->chunk_row[chunk], n = optc_length(a, chunk);
        const float *restrict g = (const float *)a->addr[r] + a->chunk_start[chunk];
        double sum[OPTC_LANES] = {0}, most[OPTC_LANES], least[OPTC_LANES];
        for (int64_t lane = 0; lane < OPTC_LANES; lane++)
            most[lane] = -INFINITY, least[lane] = INFINITY;
        for (int64_t i = 0; i < n; i++) {
            const int64_t lane = i % OPTC_LANES;
            sum[lane] += (double)g[i] * g[i];
            most[lane] = optc_larger(most[lane], g[i]);
            least[lane] = optc_smaller(least[lane], g[i]);
        }
        double *partial = a->partials + chunk * a->reductions;
        const double found[3] = {
            optc_lanes_sum(sum), optc_lanes_max(most), optc_lanes_min(least)};
        for (int64_t k = 0; k < a->reductions; k++)
            partial[k] = found[k % 3];
    }
}
"""
FIELDS = "".join(
    f"size_t at_{name}(void) {{ return offsetof(optc_args, {name}); }}\n"
    for name, _ in launch.Args._fields_
)


@pytest.fixture(scope="module")
def library() -> ctypes.CDLL:
    return native.load(native.header() + "#include <stddef.h>\n" + ADAMW + NORMS + FIELDS)


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


class AdamW:
    """Just enough of an optimizer."""

    def __init__(self, library: ctypes.CDLL, parameters: list[Parameter]) -> None:
        self.m = [torch.zeros_like(p) for p in parameters]
        self.v = [torch.zeros_like(p) for p in parameters]
        self.table = Table([parameters, None, self.m, self.v], [F32] * 4)
        self.host = torch.zeros(1, 6, dtype=F64)
        self.launch = Launch(library.adamw, self.table, host=self.host)
        self.steps = 0

    def step(self, threads: int | None = None) -> None:
        self.steps += 1
        bias1, bias2 = 1 - 0.9**self.steps, 1 - 0.999**self.steps
        scalars = [0.9, 0.999, 1e-8, 1 - 1e-3 * 1e-2, 1e-3 / bias1, 1 / math.sqrt(bias2)]
        self.host[0] = torch.tensor(scalars, dtype=F64)
        self.table.refresh()
        self.launch.run(threads=threads)
        increment_version(self.table.parameters)
        self.table.release()


def parameters(seed: int = 0) -> list[Parameter]:
    """Small, odd, larger than a chunk, at an odd address, dense in another order, empty."""
    generator = torch.Generator().manual_seed(seed)
    made = [torch.randn(size, generator=generator) for size in ((), (3, 5), (40_001,), (0, 4))]
    made += [torch.randn(1001, generator=generator)[1:]]
    made += [torch.randn(30, 20, generator=generator).t()]
    return [Parameter(tensor) for tensor in made]


def twins(seed: int = 0) -> tuple[list[Parameter], list[Parameter]]:
    return parameters(seed), parameters(seed)


def give_gradients(*lists: list[Parameter], seed: int, skip: int = -1) -> None:
    for parameters in lists:
        generator = torch.Generator().manual_seed(seed)
        for i, p in enumerate(parameters):
            gradient = torch.randn(p.shape, generator=generator)
            p.grad = None if i == skip else gradient


def bits(tensors: list[Parameter] | list[Tensor]) -> list[list[int]]:
    return [t.detach().contiguous().view(torch.int32).flatten().tolist() for t in tensors]


def test_the_structs_agree(library: ctypes.CDLL):
    for name, _ in launch.Args._fields_:
        function = getattr(library, f"at_{name}")
        function.restype = ctypes.c_size_t
        assert function() == getattr(launch.Args, name).offset
    fields = [name for name, _ in looking.Described._fields_]
    checks = looking.source() + "".join(
        f"size_t at_{name}(void) {{ return offsetof(table, {path}); }}\n"
        for name, path in (
            (name, {"device_type": "device.type", "device_id": "device.id"}.get(name, name))
            for name in fields
        )
    )
    checked = native.load(checks, kind=ctypes.PyDLL)
    for name in fields:
        function = getattr(checked, f"at_{name}")
        function.restype = ctypes.c_size_t
        assert function() == getattr(looking.Described, name).offset


def test_adamw_is_torchs(library: ctypes.CDLL):
    ours, theirs = twins()
    mine, reference = AdamW(library, ours), torch.optim.AdamW(theirs, lr=1e-3, weight_decay=1e-2)
    for step in range(10):
        give_gradients(ours, theirs, seed=step)
        mine.step()
        reference.step()
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=2e-6, atol=1e-7)


def test_a_tensor_without_gradient_is_left_alone(library: ctypes.CDLL):
    ours, theirs = twins()
    mine = AdamW(library, ours)
    give_gradients(ours, seed=1, skip=2)
    mine.step()
    assert torch.equal(ours[2], theirs[2]) and not mine.m[2].any()
    assert not torch.equal(ours[4], theirs[4])


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("loop", ["torch", "own"])
def test_the_same_bits_for_any_threads(
    library: ctypes.CDLL, loop: str, monkeypatch: pytest.MonkeyPatch
):
    if loop == "own":
        monkeypatch.setattr(launch, "parallel_loop", lambda: None)
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        ours = [*parameters(), *(Parameter(torch.ones(50_000)) for _ in range(3))]
        mine = AdamW(library, ours)
        for step in range(3):
            give_gradients(ours, seed=step)
            mine.step()
        found.append((bits(ours), bits(mine.m), bits(mine.v)))
    assert found[0] == found[1] == found[2]


def test_torch_exports_its_loop():
    """Since 2.10; before, our own threads run the chunks."""
    known = tuple(int(part) for part in torch.__version__.split(".")[:2]) >= (2, 10)
    assert (launch.parallel_loop() is not None) or not known


@pytest.mark.usefixtures("two_threads")
def test_a_forked_child_steps(library: ctypes.CDLL):
    """The child has no worker threads: with two it would wait for them for ever."""
    ours, theirs = twins()
    ours.append(Parameter(torch.ones(200_000)))
    mine = AdamW(library, ours)
    give_gradients(ours, seed=0)
    mine.step()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            give_gradients(ours, seed=1)
            mine.step()
            status = 0 if mine.m[0].isfinite() and not torch.equal(ours[1], theirs[1]) else 2
        finally:
            os._exit(status)
    for _ in range(200):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        time.sleep(0.05)
    else:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert done and os.waitstatus_to_exitcode(status) == 0


@pytest.mark.usefixtures("two_threads")
def test_a_step_from_an_autograd_thread(library: ctypes.CDLL):
    """Optimizer in backward: the hook of the last gradient steps."""
    ours, theirs = twins()
    mine = AdamW(library, ours)
    seen = []

    def step(_: Tensor) -> None:
        seen.append(threading.get_ident())
        mine.step()

    ours[2].register_post_accumulate_grad_hook(step)
    (ours[2] ** 2).sum().backward()
    assert len(seen) == 1 and not torch.equal(ours[2], theirs[2])


def test_a_stale_graph_raises(library: ctypes.CDLL):
    (p,) = ours = [Parameter(torch.ones(4))]
    mine = AdamW(library, ours)
    stale = (p * p).sum()
    p.grad = torch.ones(4)
    mine.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        stale.backward()


def test_a_raw_write_alone_lies_to_autograd(library: ctypes.CDLL):
    """Why increment_version is there; fails should torch learn to see such writes."""
    (p,) = ours = [Parameter(torch.ones(4))]
    mine = AdamW(library, ours)
    mine.host[0] = torch.tensor([0.9, 0.999, 1e-8, 0.5, 0.0, 1.0], dtype=F64)
    stale = (p * p).sum()
    mine.table.refresh({1: [torch.zeros(4)]})
    mine.launch.run()
    (gradient,) = torch.autograd.grad(stale, p)
    assert gradient.tolist() == [1.0] * 4


def test_a_released_table_is_not_launched(library: ctypes.CDLL):
    mine = AdamW(library, parameters())
    with pytest.raises(RuntimeError, match="refresh it"):
        mine.launch.run()


def reduced(library: ctypes.CDLL, lists: list[list[Tensor]], reach: str, **options) -> Tensor:
    """Sum of squares, maximum and minimum over several tables."""
    values = {
        "group": torch.full((3, 2), 9.0, dtype=F64),
        "model": torch.full((3,), 9.0, dtype=F64),
    }
    reductions = [Reduction(op, reach, k) for k, op in enumerate(launch.OPERATIONS)]
    for i, tensors in enumerate(lists):
        made = Table([tensors], [F32], fresh=())
        each = torch.full((3, len(tensors)), 9.0, dtype=F64)
        runs = Launch(
            *(library.norms, made),
            tensor_values=each,
            group_values=values["group"],
            model_values=values["model"],
            group_of_row=[row % 2 for row in range(len(tensors))],
            reductions=reductions,
        )
        runs.run(first=i == 0, **options)
    return each if reach == "tensor" else values[reach]


def exact(tensors: list[Tensor]) -> list[float]:
    whole = torch.cat([t.flatten() for t in tensors]).double()
    return [float((whole**2).sum()), float(whole.max()), float(whole.min())]


def test_reductions_of_every_reach(library: ctypes.CDLL):
    tensors = [p.detach() for p in parameters() if p.numel()]
    each = reduced(library, [tensors], "tensor")
    assert torch.allclose(each.t(), torch.tensor([exact([t]) for t in tensors], dtype=F64))
    groups = reduced(library, [tensors], "group")
    expected = [exact(tensors[0::2]), exact(tensors[1::2])]
    assert torch.allclose(groups.t(), torch.tensor(expected, dtype=F64), rtol=1e-14)
    model = reduced(library, [tensors], "model")
    assert torch.allclose(model, torch.tensor(exact(tensors), dtype=F64), rtol=1e-14)


def test_a_reduction_goes_on_over_tables(library: ctypes.CDLL):
    first, second = ([p.detach() for p in parameters(seed) if p.numel()] for seed in (1, 2))
    model = reduced(library, [first, second], "model")
    assert torch.allclose(model, torch.tensor(exact(first + second), dtype=F64), rtol=1e-14)


@pytest.mark.usefixtures("two_threads")
def test_reductions_have_the_same_bits_for_any_threads(library: ctypes.CDLL):
    tensors = [torch.randn(100_000) for _ in range(5)] + [torch.randn(7) for _ in range(50)]
    one, two = (reduced(library, [tensors], "model", threads=threads) for threads in (1, 2))
    assert torch.equal(one.view(torch.int64), two.view(torch.int64))


def test_a_nan_reaches_every_result(library: ctypes.CDLL):
    tensors = [torch.ones(20_000), torch.ones(3)]
    tensors[0][17_000] = math.nan
    assert reduced(library, [tensors], "model").isnan().all()
    assert reduced(library, [tensors], "group").isnan().tolist() == [[True, False]] * 3


def test_an_empty_reduction_has_its_identity(library: ctypes.CDLL):
    assert reduced(library, [[torch.zeros(0)]], "model").tolist() == [0, -math.inf, math.inf]


def test_more_chunks_than_before_have_room_for_their_partials(library: ctypes.CDLL):
    parameters = [torch.zeros(3), torch.zeros(100_000)]
    made, values = Table([parameters, None], [F32] * 2), torch.zeros(1, dtype=F64)
    reductions = [Reduction("sum", "model")]
    runs = Launch(library.norms, made, model_values=values, reductions=reductions)
    for p in parameters:
        p += 1
    for gradients, expected in (([parameters[0], None], 3), (parameters, 100_003)):
        made.refresh({1: gradients})
        runs.run()
        assert values.tolist() == [expected]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reductions": [Reduction("sum", "model")]}, "has no slot"),
        ({"host": torch.zeros(1, 6)}, "float64"),
        ({"host": torch.zeros(1, 6, dtype=F64), "host_row": [1]}, "below 1"),
        ({"tensor_values": torch.zeros(1, 3, dtype=F64)}, "tensor_values must be"),
        ({"group_values": torch.zeros(2, 4, dtype=F64).t()}, "contiguous"),
    ],
)
def test_what_would_be_read_beyond_its_end_is_refused(library: ctypes.CDLL, options, message: str):
    made = Table([[torch.zeros(3)]], [F32], fresh=())
    with pytest.raises(ValueError, match=message):
        Launch(library.norms, made, **options)


def test_launch_runs_once(library: ctypes.CDLL):
    made, values = Table([[torch.full((3,), 2.0)]], [F32], fresh=()), torch.zeros(1, dtype=F64)
    reductions = [Reduction("sum", "model")]
    launch.launch(library.norms, made, model_values=values, reductions=reductions)
    assert values.tolist() == [12]
