"""Slots kept in fewer bits: near to the meaning by a bound, and the same however they are run."""

from __future__ import annotations

import copy
import ctypes
import io
from typing import Any

import pytest
import torch
from torch import Tensor

import optc
from optc.compiler import cells, scalars
from optc.compiler.formats import Format
from optc.runtime import int8, native, random

ADAMW = """rule adamw(lr: positive = 1e-2, betas: unit_pair = (0.9, 0.999)):
    regularize   decoupled_decay(0.01)
    precondition adam(betas)
    step         lr
"""
SHAPES = ((33, 17), (1000,), (3, 4, 5), (17000,), ())
needs_c = pytest.mark.skipif(native.compiler() is None, reason="no C compiler")


def made(*lines: str, rule: str = ADAMW) -> Any:
    """The optimizer class of a rule with a schedule."""
    name = rule.split("(")[0].split()[-1]
    block = f"schedule {name}:\n" + "".join(f"    {line}\n" for line in lines) if lines else ""
    return optc.loads(rule + block)


def parameters(dtype: torch.dtype = torch.float32) -> list[Tensor]:
    g = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(s, generator=g).to(dtype)) for s in SHAPES]


def trained(optimizer: Any, params: list[Tensor], first: int = 0, last: int = 200) -> None:
    """Noisy steps towards other parameters."""
    for step in range(first, last):
        g = torch.Generator().manual_seed(step)
        for p in params:
            noise = 1 + 0.3 * torch.randn(p.shape, generator=g)
            p.grad = ((p.detach().double() - 0.5) * noise).to(p.dtype)
        optimizer.step()


def after(cls: Any, dtype: torch.dtype = torch.float32, **options: Any) -> list[Tensor]:
    params = parameters(dtype)
    trained(cls(params, **options), params)
    return [p.detach() for p in params]


def gap(one: list[Tensor], two: list[Tensor]) -> float:
    """The root of the mean square of what they differ in."""
    parts = [(a.double() - b.double()).flatten() for a, b in zip(one, two, strict=True)]
    return float(torch.cat(parts).detach().square().mean().sqrt())


BOUNDS = {
    ("store exp_avg as bf16",): 1e-3,
    ("store exp_avg as bf16(stochastic)", "store exp_avg_sq as bf16(stochastic)"): 3e-3,
    ("store exp_avg as f16(stochastic)", "store exp_avg_sq as f32"): 2e-4,
    ("store exp_avg as bf16(kahan)", "store exp_avg_sq as bf16(kahan)"): 1e-5,
    ("store exp_avg as int8",): 3e-2,
    ("store exp_avg as int8(block = 64)", "store exp_avg_sq as int8(block = 64)"): 3e-2,
}
"""How far 200 steps end from those in float64: a part of a step of 0.01, three of int8."""


@pytest.mark.parametrize("lines", BOUNDS, ids=" | ".join)
@pytest.mark.parametrize("backend", ["eager", pytest.param("c", marks=needs_c)])
def test_a_schedule_stays_near_the_meaning(lines: tuple[str, ...], backend: str) -> None:
    exact = after(made(), torch.float64)
    found = gap(after(made(*lines), backend=backend), exact)
    assert 0 < found < BOUNDS[lines]


def test_bfloat16_parameters_keep_small_steps() -> None:
    """Steps of 1e-4 are less than half a place of a bfloat16 near 1: rounding loses them."""
    exact = after(made(), lr=1e-4)
    plain = gap(after(made(), torch.bfloat16, lr=1e-4), exact)
    chance = gap(after(made("store w as bf16(stochastic)"), torch.bfloat16, lr=1e-4), exact)
    pair = gap(after(made("store w as bf16(kahan)"), torch.bfloat16, lr=1e-4), exact)
    assert plain > 0.015 and chance < 0.7 * plain and pair < 0.2 * plain


def test_a_pair_of_bfloat16_is_its_sum() -> None:
    params = parameters(torch.bfloat16)
    optimizer = made("store w as bf16(kahan)")(params)
    trained(optimizer, params, 0, 20)
    for p in params:
        rest = optimizer.state[p]["w.rest"]
        assert rest.dtype == torch.bfloat16
        assert bool((rest.float().abs() <= p.detach().float().abs() * 2**-8).all())


def test_parameters_have_the_type_that_is_stored() -> None:
    with pytest.raises(ValueError, match="stores w as bf16, and parameter 0 is float32"):
        params = parameters()
        trained(made("store w as bf16(kahan)")(params), params, 0, 1)


STORES = (
    *("store exp_avg as bf16(stochastic)", "store exp_avg_sq as int8(block = 64)"),
    "store w as bf16(kahan)",
)


@pytest.mark.parametrize("backend", ["eager", pytest.param("c", marks=needs_c)])
def test_a_resumed_run_is_the_same_run(backend: str) -> None:
    cls = made(*STORES)
    whole = parameters(torch.bfloat16)
    trained(cls(whole, backend=backend), whole, 0, 12)
    part = parameters(torch.bfloat16)
    first = cls(part, backend=backend)
    trained(first, part, 0, 5)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = cls(part, backend=backend)
    second.load_state_dict(torch.load(file, weights_only=True))
    kinds = {k: v.dtype for k, v in second.state[part[0]].items()}
    assert kinds["adam.exp_avg"] == kinds["w.rest"] == torch.bfloat16
    assert kinds["adam.exp_avg_sq"] == torch.int8
    assert kinds["adam.exp_avg_sq.size"] == torch.float32
    trained(second, part, 5, 12)
    assert all(map(torch.equal, part, whole))


@needs_c
def test_draws_depend_on_no_thread() -> None:
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = after(made("store exp_avg as bf16(stochastic)"), seed=3)
        torch.set_num_threads(2)
        two = after(made("store exp_avg as bf16(stochastic)"), seed=3)
    finally:
        torch.set_num_threads(threads)
    assert all(map(torch.equal, one, two))
    assert not all(map(torch.equal, one, after(made("store exp_avg as bf16(stochastic)"), seed=4)))


def test_optimizers_with_a_schedule_are_copied_and_pickled() -> None:
    import pickle

    cls, params = made(*STORES[:2]), parameters()
    optimizer = cls(params)
    trained(optimizer, params, 0, 3)
    for twin in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        own = [p for g in twin.param_groups for p in g["params"]]
        assert twin.state[own[0]]["adam.exp_avg_sq"].dtype == torch.int8
        trained(twin, own, 3, 6)
    trained(optimizer, params, 3, 6)
    assert all(map(torch.equal, own, params))


PARTS = """rule parts(lr = 0.01):
    for params where ndim == 2:
        smooth momentum(0.9) as a
        step lr
    for other params:
        smooth momentum(0.9) as b
        step lr / 2
    veto when call == 3
    snapshot when call == 4
    restore 1 when call == 7
"""


@pytest.mark.parametrize("format", ["bf16(kahan)", "bf16(stochastic)", "f16", "int8"])
def test_routes_vetoes_and_snapshots_know_formats(format: str) -> None:
    slots = optc.loads(PARTS).program.slots
    lines = [f"store {p} as {format}" for p, x in slots.items() if x.kind == "state"]
    target = [f"store w as {format}"] if "kahan" in format else []
    dtype = torch.bfloat16 if target else torch.float32
    exact, found = parameters(torch.float64), parameters(dtype)
    plain, kept = made(rule=PARTS)(exact), made(*lines, *target, rule=PARTS)(found)
    for step in range(9):
        before = [p.detach().clone() for p in found]
        trained(plain, exact, step, step + 1)
        trained(kept, found, step, step + 1)
        assert (step == 2) == all(map(torch.equal, before, found))
    assert gap(exact, found) < 5e-3


# The formats themselves -----------------------------------------------------------------------


@pytest.mark.parametrize("power", [1, 2, 4])
def test_codes_are_off_by_no_more_than_their_bound(power: int) -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(1000, generator=g) * torch.logspace(-6, 3, 1000)
    format = Format("int8", block=64, power=power)
    codes = torch.empty(1000, dtype=torch.int8)
    sizes = int8.sizes_like(codes, format)
    int8.encode(x, codes, sizes, format)
    near = int8.decode(codes, sizes, format)
    size = sizes.repeat_interleave(64)[:1000]
    assert bool(((near - x).abs() <= power * size / 254 * (1 + 1e-6)).all())
    assert power == 1 or bool((near != 0).all())
    again = torch.empty_like(codes)
    int8.encode(near, again, sizes.clone(), format)
    assert torch.equal(codes, again)  # what is kept stays as it is


@needs_c
@pytest.mark.parametrize("power", [1, 2, 4])
def test_codes_are_the_same_in_c(power: int) -> None:
    text = native.header() + (
        "void both(const float *x, long n, int8_t *c, float *s, float *y) {"
        f" optc_encode(x, n, c, s, {power});"
        f" for (long i = 0; i < n; i++) y[i] = optc_decode(c[i], *s, {power}); }}"
    )
    both, format = native.load(text).both, Format("int8", block=256, power=power)
    both.argtypes = [ctypes.c_void_p, ctypes.c_long, *[ctypes.c_void_p] * 3]
    g = torch.Generator().manual_seed(power)
    blocks = torch.randn(50, 256, generator=g) * torch.rand(50, 256, generator=g) ** 8
    blocks[0], blocks[1, 3], blocks[2, 5], blocks[3, 7] = 0, torch.nan, torch.inf, -0.0
    for x in blocks:
        codes, sizes = torch.empty(256, dtype=torch.int8), torch.zeros(1)
        int8.encode(x, codes, sizes, format)
        mine, size, cell = torch.empty_like(codes), torch.zeros(1), torch.zeros(256)
        both(x.data_ptr(), 256, mine.data_ptr(), size.data_ptr(), cell.data_ptr())
        assert torch.equal(mine, codes) and torch.allclose(size, sizes, 0, 0, equal_nan=True)
        near = int8.decode(codes, sizes, format)
        assert torch.equal(cell, near) or (bool(cell.isnan().all()) and bool(near.isnan().all()))


@pytest.mark.parametrize("name", ["bf16", "f16"])
def test_rounding_by_chance_keeps_the_mean_and_what_is_exact(name: str) -> None:
    dtype, dither = {"bf16": torch.bfloat16, "f16": torch.float16}[name], f"dither_{name}"
    round_by = getattr(cells, dither)
    x = torch.tensor([1.0 + 2**-12, -3.14159, 1e-3, 0.0, 2.0**-20])
    exact = x.to(dtype).float()
    chance = random.draw("chance5", 0, 7, 1, 20000).float()
    many = torch.stack([round_by(torch.full_like(chance, float(v)), chance) for v in x])
    assert torch.equal(many.to(dtype).float(), many)
    place = (many.max(1).values - many.min(1).values).clamp(min=1e-12)
    assert bool(((many.mean(1) - x).abs() < 0.02 * place).all())
    same = round_by(exact[:, None].expand(-1, 20000).contiguous(), chance.expand(5, -1))
    assert torch.equal(same, exact[:, None].expand(-1, 20000))


@needs_c
@pytest.mark.parametrize("name", ["bf16", "f16"])
def test_rounding_is_the_same_in_c_and_on_the_host(name: str) -> None:
    text = native.header() + (
        "void both(const float *x, const float *u, long n, float *y) {"
        f" for (long i = 0; i < n; i++) y[i] = optc_dither_{name}(x[i], u[i]); }}"
    )
    both = native.load(text).both
    both.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_long, ctypes.c_void_p]
    g = torch.Generator().manual_seed(1)
    x = torch.randn(4096, generator=g) * torch.logspace(-9, 4, 4096)
    chance = random.draw("chance2", 1, 2, 3, 4096).float()
    y = torch.empty_like(x)
    both(x.data_ptr(), chance.data_ptr(), 4096, y.data_ptr())
    assert torch.equal(y, getattr(cells, f"dither_{name}")(x, chance))
    nearest = getattr(cells, name)(x)
    assert nearest.tolist() == [getattr(scalars, name)(v) for v in x.tolist()]


KEPT = """rule kept(lr = 0.0):
    state m = zeros(w)
    g = grad(w)
    w <- w - lr * m
    m <- g
"""


@pytest.mark.parametrize("backend", ["eager", pytest.param("c", marks=needs_c)])
def test_kernels_count_cells_as_they_lie_when_they_round_by_chance(backend: str) -> None:
    """Which neighbour a cell of a transposed tensor gets is then another draw, as right a one."""
    cls = made("store m as bf16(stochastic)", rule=KEPT)
    gradient = torch.randn(64, 48, generator=torch.Generator().manual_seed(2))

    def rounded(x: Tensor) -> Tensor:
        p = torch.nn.Parameter(torch.zeros_like(x))
        p.grad = x
        optimizer = cls([p], backend=backend)
        optimizer.step()
        return optimizer.state[p]["m"]

    found = rounded(gradient.t().contiguous().t())
    plain, turned = rounded(gradient), rounded(gradient.t().contiguous()).t()
    assert torch.equal(found, turned if backend == "c" else plain) and not torch.equal(
        plain, turned
    )
    for kept in (found, plain):
        off = kept.float() - gradient
        place = 2.0 ** (gradient.abs().log2().floor() - 7)
        assert bool((off.abs() < place).all()) and float((off / place).mean().abs()) < 0.03


def test_codes_are_not_read_as_numbers_nor_numbers_as_codes() -> None:
    plain, coded = (c(parameters()) for c in (made(), made("store exp_avg as int8")))
    for optimizer in (plain, coded):
        trained(optimizer, [p for g in optimizer.param_groups for p in g["params"]], 0, 1)
    for one, other in ((plain, coded), (coded, plain)):
        with pytest.raises(ValueError, match=r"`adam.exp_avg` was saved as .* load the rule with"):
            one.load_state_dict(copy.deepcopy(other.state_dict()))


@pytest.mark.parametrize("format", ["bf16", "f16", "f32", "int8(block = 16)"])
@pytest.mark.parametrize("backend", ["eager", pytest.param("c", marks=needs_c)])
def test_what_is_kept_in_fewer_bits_is_not_computed_in_them(format: str, backend: str) -> None:
    """torch gives a product with a number the type of what is kept."""
    types = {"bf16": torch.bfloat16, "f16": torch.float16}
    p = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
    rule = KEPT.replace("lr * m", "m * 0.1")
    optimizer = made(f"store m as {format}", rule=rule)([p], backend=backend)
    for _ in range(2):
        p.grad = torch.full_like(p, 0.3)
        optimizer.step()
    kept = p.grad.to(types.get(format, torch.float32)).double()
    assert torch.allclose(p, 1 - kept * 0.1, rtol=1e-15, atol=0)


@pytest.mark.parametrize("shape", [(3,), (37,), (16, 16), (70, 300)])
def test_a_pass_that_sums_writes_codes_too(shape: tuple[int, ...]) -> None:
    rule = """rule kept(lr = 0.01):
    state m = zeros(w)
    m <- 0.9 * m + grad(w)
    n = norm(m, over = model)
    w <- w - lr * m / (1 + n)
    metric n = n
"""
    found = []
    for backend in ("eager", *(["c"] if native.compiler() else [])):
        g = torch.Generator().manual_seed(0)
        p = torch.nn.Parameter(torch.randn(shape, generator=g))
        optimizer = made("store m as int8(block = 16)", rule=rule)([p], backend=backend)
        trained(optimizer, [p], last=4)
        found.append((p.detach(), optimizer.state[p]["m"], float(optimizer.metrics["n"])))
    for p, codes, n in found:
        assert n == pytest.approx(found[0][2], rel=1e-6)
        assert torch.allclose(p, found[0][0], atol=1e-6)
        assert int((codes.int() - found[0][1].int()).abs().max()) <= 1


@pytest.mark.parametrize("backend", ["eager", pytest.param("c", marks=needs_c)])
@pytest.mark.parametrize("format", ["bf16(kahan)", "int8(block = 16)"])
def test_first_values_read_slots_that_are_kept_in_two(format: str, backend: str) -> None:
    """The mean begins where the first step ends, which the buffer and its rest say."""
    rule = """rule kept(lr = 0.1):
    smooth momentum(0.9)
    step lr
    average ema_of_weights()
"""
    cls = made(f"store momentum_buffer as {format}", rule=rule)
    params = [torch.nn.Parameter(torch.ones(n)) for n in (3, 4)]
    optimizer = cls(params[:1], backend=backend)
    for turn, ends in enumerate((0.9, 0.71, 0.439)):
        if turn == 2:
            optimizer.add_param_group({"params": params[1:]})
        for p in params:
            p.grad = torch.ones_like(p)
        optimizer.step()
        assert torch.allclose(params[0], torch.full((3,), ends), atol=1e-2)
    assert torch.allclose(params[1], torch.full((4,), 0.9), atol=1e-2)
