"""The kernels' own mathematics: half an ulp, every special value, the same bits anywhere."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from optc.runtime import native

EXACT: dict[str, Callable[[Tensor], Tensor]] = {
    "exp": torch.exp,
    "exp2": torch.exp2,
    "log": torch.log,
    "log2": torch.log2,
    "log1p": torch.log1p,
    "expm1": torch.expm1,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "erf": torch.erf,
    "sin": torch.sin,
    "cos": torch.cos,
    "atan": torch.atan,
}
INF, NAN = math.inf, math.nan
SPECIAL = torch.tensor(
    [0.0, -0.0, INF, -INF, NAN, 1e-45, -1e-45, 1.17549435e-38, 3.4028235e38, -3.4028235e38]
    + [1.0, -1.0, 88.7, 88.8, 89.5, -87.3, -103.9, -104.1, 128.0, -149.0, -150.5]
    + [9.0, -9.1, 16.6, 17.4, 0.0625, -0.0625, 2.0**-10, 4.0, 3.99, 1e10, 1e38]
)
UNARY = "".join(
    f"""
void {name}_float(int64_t n, const float *restrict x, float *restrict y)
{{
    for (int64_t i = 0; i < n; i++)
        y[i] = optc_{name}f(x[i]);
}}
void {name}_double(int64_t n, const double *restrict x, double *restrict y)
{{
    for (int64_t i = 0; i < n; i++)
        y[i] = optc_{name}(x[i]);
}}
"""
    for name in EXACT
)
STORE = "".join(
    f"""
void load_{name}(int64_t n, const uint16_t *restrict x, float *restrict y)
{{
    for (int64_t i = 0; i < n; i++)
        y[i] = optc_load_{name}(x[i]);
}}
void store_{name}(int64_t n, const float *restrict x, uint16_t *restrict y)
{{
    for (int64_t i = 0; i < n; i++)
        y[i] = optc_store_{name}(x[i]);
}}
void stochastic_{name}(int64_t n, const float *restrict x, const uint32_t *restrict chance,
                       uint16_t *restrict y)
{{
    for (int64_t i = 0; i < n; i++)
        y[i] = optc_stochastic_{name}(x[i], chance[i]);
}}
"""
    for name in ("bf16", "f16")
)
OTHER = """
void power(int64_t n, const float *restrict x, const float *restrict z, float *restrict y)
{
    for (int64_t i = 0; i < n; i++)
        y[i] = optc_powf(x[i], z[i]);
}
void mod_float(int64_t n, const float *restrict x, const float *restrict z, float *restrict y)
{
    for (int64_t i = 0; i < n; i++)
        y[i] = optc_modf(x[i], z[i]);
}
void mod_double(int64_t n, const double *restrict x, const double *restrict z, double *restrict y)
{
    for (int64_t i = 0; i < n; i++)
        y[i] = optc_mod(x[i], z[i]);
}
void larger(int64_t n, const float *restrict x, const float *restrict z, float *restrict y)
{
    for (int64_t i = 0; i < n; i++)
        y[i] = optc_largerf(x[i], z[i]);
}
"""


@pytest.fixture(scope="module")
def library() -> ctypes.CDLL:
    if native.compiler() is None:
        pytest.skip("no C compiler")
    operations = native.text("operations.h")
    return native.load(native.header() + operations + UNARY + STORE + OTHER)


def run(function, *inputs: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    y = torch.empty(inputs[0].shape, dtype=dtype or inputs[0].dtype)
    places = [ctypes.c_void_p(t.data_ptr()) for t in (*inputs, y)]
    function(ctypes.c_int64(y.numel()), *places)
    return y


def grid() -> Tensor:
    """Every exponent with both signs, and a dense stretch where functions bend."""
    generator = torch.Generator().manual_seed(0)
    bits = torch.randint(0, 2**31, (20_000,), generator=generator, dtype=torch.int64)
    every = torch.cat([bits, bits | 1 << 31]).to(torch.int32).view(torch.float32)
    return torch.cat([every, torch.linspace(-20, 20, 20_001), torch.linspace(-1.1, 1.1, 5001)])


def ulps(found: Tensor, exact: Tensor) -> Tensor:
    """The distance to the exact value in units of a float's last place."""
    exponent = torch.frexp(exact).exponent.clamp(min=-125)
    unit = torch.ldexp(torch.ones_like(exact), exponent - 24)
    distance = (found.double() - exact).abs() / unit
    return torch.where(found.double() == exact.float().double(), distance.clamp(max=0.5), distance)


@pytest.mark.parametrize("name", EXACT)
def test_half_an_ulp(library: ctypes.CDLL, name: str):
    x = grid()
    found, exact = run(getattr(library, f"{name}_float"), x), EXACT[name](x.double())
    assert torch.equal(found.isnan(), exact.isnan())
    finite = exact.isfinite() & exact.float().isfinite()
    assert torch.equal(found[~finite & ~exact.isnan()], exact.float()[~finite & ~exact.isnan()])
    assert ulps(found[finite], exact[finite]).max() < 0.51


@pytest.mark.parametrize("name", EXACT)
def test_special_values(library: ctypes.CDLL, name: str):
    """Bit for bit, so with the sign of a zero; the exact value is rounded once."""
    found = run(getattr(library, f"{name}_float"), SPECIAL)
    exact = EXACT[name](SPECIAL.double()).float()
    nan = exact.isnan()
    assert torch.equal(found.isnan(), nan)
    assert torch.equal(found[~nan].view(torch.int32), exact[~nan].view(torch.int32))


@pytest.mark.parametrize("name", EXACT)
def test_the_same_bits_at_every_offset(library: ctypes.CDLL, name: str):
    x = torch.linspace(-8, 8, 67)
    function = getattr(library, f"{name}_float")
    whole = run(function, x).view(torch.int32)
    for offset in range(1, 20):
        assert torch.equal(run(function, x[offset:]).view(torch.int32), whole[offset:])


@pytest.mark.parametrize("name", EXACT)
def test_double(library: ctypes.CDLL, name: str):
    x = torch.cat([grid().double(), SPECIAL.double()])
    x = x[x.abs().nan_to_num(0) < 1e5]
    found, exact = run(getattr(library, f"{name}_double"), x), EXACT[name](x)
    torch.testing.assert_close(found, exact, rtol=1e-15, atol=0, equal_nan=True)


def test_power(library: ctypes.CDLL):
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(50_000, generator=generator) * 10
    y = torch.rand(50_000, generator=generator) * 80 - 40
    found, exact = run(library.power, x, y), torch.pow(x.double(), y.double())
    finite = exact.float().isfinite()
    assert torch.equal(found[~finite], exact.float()[~finite])
    assert ulps(found[finite], exact[finite]).max() < 0.51


def test_power_of_special_values(library: ctypes.CDLL):
    values = [0.0, -0.0, 1.0, -1.0, 2.0, -2.0, 0.5, -0.5, 3.0, -3.0, 2.5, -2.5, INF, -INF, NAN]
    values += [16777216.0, 16777215.0, -16777215.0, 1e30, 1e-45]
    x, y = (t.flatten().clone() for t in torch.meshgrid(*[torch.tensor(values)] * 2, indexing="ij"))
    found, exact = run(library.power, x, y), torch.pow(x.double(), y.double()).float()
    nan = exact.isnan()
    assert torch.equal(found.isnan(), nan)
    # One case lies as good as in the middle between two floats: the last bit is open there.
    assert (found[~nan].view(torch.int32) - exact[~nan].view(torch.int32)).abs().max() <= 1
    edge = (exact == 0) | exact.isinf() | (exact.abs() == 1)
    assert torch.equal(found[edge].view(torch.int32), exact[edge].view(torch.int32))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float", "double"])
def test_a_remainder_is_that_of_torch(library: ctypes.CDLL, dtype: torch.dtype):
    """Bit for bit, however large the quotient; torch's for vectors of floats is NaN there."""
    x = torch.cat([grid(), SPECIAL]).to(dtype)
    x = torch.cat([x, x[:2000].double().tan().to(dtype)])
    for shift in (1, 777, 20_000):
        y = x.roll(shift)
        function = library.mod_float if dtype == torch.float32 else library.mod_double
        found, exact = run(function, x, y), torch.remainder(x.double(), y.double()).to(dtype)
        assert torch.equal(found.isnan(), exact.isnan())
        kept = ~exact.isnan()
        bits = torch.int32 if dtype == torch.float32 else torch.int64
        assert torch.equal(found[kept].view(bits), exact[kept].view(bits))


def test_a_nan_wins(library: ctypes.CDLL):
    x, y = torch.tensor([1.0, NAN, 2.0, NAN]), torch.tensor([NAN, 1.0, 3.0, NAN])
    torch.testing.assert_close(run(library.larger, x, y), torch.maximum(x, y), equal_nan=True)


LOW = {"bf16": torch.bfloat16, "f16": torch.float16}


@pytest.mark.parametrize("name", LOW)
def test_every_low_precision_number_is_loaded(library: ctypes.CDLL, name: str):
    every = torch.arange(2**16).to(torch.int16)
    found = run(getattr(library, f"load_{name}"), every, dtype=torch.float32)
    exact = every.view(LOW[name]).float()
    nan = exact.isnan()
    assert torch.equal(found.isnan(), nan)
    assert torch.equal(found[~nan].view(torch.int32), exact[~nan].view(torch.int32))


@pytest.mark.parametrize("name", LOW)
def test_stores_round_to_nearest_even(library: ctypes.CDLL, name: str):
    low = torch.arange(2**16).to(torch.int16).view(LOW[name]).float()
    low = low[low.isfinite()].sort().values
    middle = ((low[1:].double() + low[:-1].double()) / 2).float()
    around = [torch.nextafter(middle, torch.tensor(end)) for end in (INF, -INF)]
    x = torch.cat([grid(), SPECIAL, low, middle, *around, torch.tensor([65519.9, 65520.0, 7e4])])
    found = run(getattr(library, f"store_{name}"), x, dtype=torch.int16)
    exact = x.to(LOW[name])
    nan = exact.isnan()
    assert torch.equal(found.view(LOW[name]).isnan(), nan)
    assert torch.equal(found[~nan], exact[~nan].view(torch.int16))


@pytest.mark.parametrize("name", LOW)
@pytest.mark.parametrize("value", [1.0009, -3.14159, 1e-6, 60000.7, 3e-8])
def test_stochastic_stores_are_right_on_average(library: ctypes.CDLL, name: str, value: float):
    n = 40_000
    chance = (torch.arange(n, dtype=torch.int64) * 2654435761 % 2**32).to(torch.int32)
    x = torch.full((n,), value)
    bits = run(getattr(library, f"stochastic_{name}"), x, chance, dtype=torch.int16)
    found = bits.view(LOW[name]).double()
    assert len(set(found.tolist())) <= 2
    spread = float(found.max() - found.min())
    assert found.min() <= x[0] <= found.max()
    assert abs(float(found.mean() - x[0].double())) <= spread * 0.01


@pytest.mark.parametrize("name", LOW)
def test_stochastic_stores_keep_what_is_exact(library: ctypes.CDLL, name: str):
    x = torch.arange(2**16).to(torch.int16).view(LOW[name]).float()
    chance = torch.full(x.shape, -1, dtype=torch.int32)
    bits = run(getattr(library, f"stochastic_{name}"), x, chance, dtype=torch.int16)
    nan = x.isnan()
    assert torch.equal(bits.view(LOW[name]).isnan(), nan)
    assert torch.equal(bits[~nan].view(LOW[name]).float(), x[~nan])
