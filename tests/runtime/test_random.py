"""Random numbers: the published words, the same in C and torch, a function of the cell alone."""

from __future__ import annotations

import ctypes

import pytest
import torch

from optc.runtime import drawing, native, random

KERNEL = """
void words(uint64_t seed, uint32_t stream, uint64_t call, uint64_t cell, uint32_t draw,
           int64_t n, uint32_t *restrict out)
{
    const uint64_t key = optc_key(seed, stream);
    for (int64_t i = 0; i < n; i++) {
        const optc_words w = optc_philox(key, cell + (uint64_t)i, call, draw);
        out[i] = w.a, out[n + i] = w.b, out[2 * n + i] = w.c, out[3 * n + i] = w.d;
    }
}
#define DRAW(name)                                                                              \\
    void name(uint64_t seed, int64_t n, double *restrict wide, float *restrict narrow)          \\
    {                                                                                           \\
        const uint64_t key = optc_key(seed, 3);                                                 \\
        for (int64_t i = 0; i < n; i++) {                                                       \\
            const optc_words w = optc_philox(key, (uint64_t)i, 7, 0);                           \\
            wide[i] = optc_##name(w);                                                           \\
            narrow[i] = optc_##name##f(w);                                                      \\
        }                                                                                       \\
    }
DRAW(uniform) DRAW(normal) DRAW(rademacher)
#define CHANCE(k)                                                                               \\
    for (int64_t i = 0; i < n; i++)                                                             \\
        out[k * n + i] = optc_chance##k(optc_mixed(key, cell + (uint64_t)i));
void chances(uint64_t seed, uint32_t stream, uint64_t call, uint64_t cell, int64_t n, double *out)
{
    const uint64_t key = optc_call_key(optc_key(seed, stream), call);
    CHANCE(0) CHANCE(1) CHANCE(2) CHANCE(3) CHANCE(4) CHANCE(5) CHANCE(6) CHANCE(7)
}
float edge(uint32_t high, uint32_t low)
{
    optc_words w = {high, low, 0, 0};
    return optc_uniformf(w);
}
"""


@pytest.fixture(scope="module")
def library() -> ctypes.CDLL:
    if native.compiler() is None:
        pytest.skip("no C compiler")
    return native.load(native.header() + KERNEL)


def place(tensor: torch.Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


@pytest.mark.parametrize(
    ("key", "cell", "call", "draw", "expected"),
    [
        (0, 0, 0, 0, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        (2**64 - 1, -1, 2**32 - 1, 2**32 - 1, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            0x299F31D0A4093822,
            0x85A308D3243F6A88 - 2**64,
            0x13198A2E,
            0x03707344,
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_known_answers(key, cell, call, draw, expected, monkeypatch: pytest.MonkeyPatch):
    """The vectors published with the generator (Random123, kat_vectors)."""
    monkeypatch.setattr(random, "key", lambda seed, stream: seed)
    words = random.philox(key, 0, call, 1, cell, draw=draw)
    assert " ".join(f"{int(word):08x}" for word in words) == expected


@pytest.mark.parametrize(
    ("seed", "stream", "call", "cell", "draw"),
    [(0, 0, 0, 0, 0), (2**64 - 5, 2**32 - 1, 2**40 + 3, 2**32 - 10, 7), (-1, 12345, 9, 1, 1)],
)
def test_the_same_words_in_c(library: ctypes.CDLL, seed, stream, call, cell, draw):
    n = 133
    out = torch.zeros(4, n, dtype=torch.int32)
    whole = ctypes.c_uint64
    library.words(
        *(whole(seed), ctypes.c_uint32(stream), whole(call), whole(cell), ctypes.c_uint32(draw)),
        *(ctypes.c_int64(n), place(out)),
    )
    expected = torch.stack(random.philox(seed, stream, call, n, cell, draw=draw))
    assert torch.equal(out.long() & 0xFFFFFFFF, expected)


@pytest.mark.parametrize("name", ["uniform", "normal", "rademacher"])
def test_the_same_numbers_in_c(library: ctypes.CDLL, name: str):
    n = 5000
    wide, narrow = torch.zeros(n, dtype=torch.float64), torch.zeros(n)
    getattr(library, name)(ctypes.c_uint64(11), ctypes.c_int64(n), place(wide), place(narrow))
    expected = getattr(random, name)(11, 3, 7, n)
    torch.testing.assert_close(wide, expected, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(narrow.double(), expected, rtol=6e-8, atol=1e-11)


def test_the_ends_of_the_interval_are_left_out(library: ctypes.CDLL):
    library.edge.restype = ctypes.c_float
    library.edge.argtypes = [ctypes.c_uint32] * 2
    assert 0 < library.edge(0, 0) < library.edge(2**32 - 1, 2**32 - 1) < 1


def test_a_cell_does_not_depend_on_its_neighbours():
    whole = random.normal(1, 2, 3, 100)
    parts = [random.normal(1, 2, 3, 37), random.normal(1, 2, 3, 63, 37)]
    assert torch.equal(whole, torch.cat(parts))


def test_seed_stream_call_and_draw_all_matter():
    drawn = [
        random.uniform(1, 0, 0, 8),
        random.uniform(0, 1, 0, 8),
        random.uniform(0, 0, 1, 8),
        random.uniform(0, 0, 0, 8, draw=1),
        random.uniform(0, 0, 0, 8),
    ]
    assert len({tuple(x.tolist()) for x in drawn}) == len(drawn)


def test_moments():
    n = 200_000
    u, z, r = (f(5, 6, 7, n) for f in (random.uniform, random.normal, random.rademacher))
    error = 5 / n**0.5
    assert 0 < u.min() and u.max() < 1
    assert abs(u.mean() - 0.5) < error and abs(u.var() - 1 / 12) < error
    assert abs(z.mean()) < error and abs(z.var() - 1) < 2 * error
    assert abs((z**4).mean() - 3) < 20 * error
    assert set(r.tolist()) == {-1.0, 1.0} and abs(r.mean()) < error
    assert abs((z[1:] * z[:-1]).mean()) < error


@pytest.mark.parametrize(
    ("seed", "stream", "call", "cell"),
    [(0, 0, 0, 0), (2**64 - 5, 2**32 - 1, 2**40 + 3, 2**32 - 10), (7, 12345, 9, 2**33)],
)
def test_the_same_chances_in_c(library: ctypes.CDLL, seed, stream, call, cell):
    n = 133
    out = torch.zeros(8, n, dtype=torch.float64)
    whole = ctypes.c_uint64
    library.chances(
        *(whole(seed), ctypes.c_uint32(stream), whole(call), whole(cell)),
        *(ctypes.c_int64(n), place(out)),
    )
    expected = [random.draw(f"chance{k}", seed, stream, call, n, cell) for k in range(8)]
    assert torch.equal(out, torch.stack(expected))


def test_chances_are_even_and_do_not_follow_each_other():
    """Means, every bit, neighbours, calls, streams and the eight of a cell: to five sigma."""
    n = 1 << 18
    rows = [random.draw(f"chance{k}", 1, 2, 3, n) for k in range(8)]
    rows += [random.draw("chance0", 1, 2, 4, n), random.draw("chance0", 1, 3, 3, n)]
    rows += [random.draw("chance0", 2, 2, 3, n), random.draw("chance0", 1, 2, 3, n, n)]
    x = torch.stack(rows) / 65536 - 0.5
    bound = 5 / n**0.5
    assert x.mean(1).abs().max() < bound * 0.289
    bits = torch.stack([torch.stack(rows).long() >> b & 1 for b in range(16)]).double()
    assert (bits.mean(2) - 0.5).abs().max() < bound * 0.5
    alike = (x @ x.T / n - torch.eye(len(x)) / 12).abs()
    assert alike.max() < bound / 12
    for lag in (1, 2, 3, 8, 64, 256):
        assert (x[:, lag:] * x[:, :-lag]).mean(1).abs().max() < bound / 12


@pytest.mark.parametrize("how", ["uniform", "normal", "rademacher", "chance5"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_phases_of_torch_operations_draw_in_c_what_they_would(how: str, dtype: torch.dtype) -> None:
    for seed, stream, call, offset in ((0, 0, 0, 0), (-3, 2**32 - 1, 2**33 + 5, 2**32 - 50)):
        found = drawing.draw(how, seed, stream, call, 1000, offset, dtype)
        wanted = random.draw(how, seed, stream, call, 1000, offset, dtype)
        bound = {torch.float64: 4e-15, torch.float32: 1e-6}.get(dtype, 0.01)
        torch.testing.assert_close(found, wanted, rtol=bound, atol=bound)
        assert found.dtype == dtype
        if how != "normal":
            assert torch.equal(found, wanted) or (how, dtype) == ("uniform", torch.float32)


def test_without_a_compiler_torch_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "compiler", lambda: None)
    monkeypatch.setattr(drawing, "library", None)
    assert torch.equal(drawing.draw("normal", 1, 2, 3, 4), random.draw("normal", 1, 2, 3, 4))


@pytest.mark.parametrize(("seed", "stream", "call"), [(0, 0, 0), (-3, 2**32 - 1, 2**33 + 5)])
def test_one_number_is_the_first(seed: int, stream: int, call: int) -> None:
    assert random.number(seed, stream, call) == float(random.uniform(seed, stream, call, 1)[0])
