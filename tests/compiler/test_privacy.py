"""The static check of differential privacy: what is proven, and every way around it."""

from __future__ import annotations

from pathlib import Path

import pytest

import optc
from optc.cli import main
from optc.compiler import driver
from optc.compiler.explain import sheet
from optc.compiler.privacy import Privacy, privacy
from optc.compiler.source import CompileError, Source
from optc.plugins.registry import library

HEAD = """rule r(lr = 0.1, c: positive = 1.0, z: nonnegative = 1.0, s: positive = 0.5, any = 1.0):
    state m = zeros(w)
    J = grad(w, on = each(batch))
    n = norm(J, over = model)
"""
CLIP = "J * min(1, c // n)"


def found(*lines: str) -> Privacy:
    text = HEAD + "".join(f"    {line}\n" for line in lines)
    return privacy(driver.graph(Source("r.opt", text), library()))


def told(clip: str, noise: str = "z * c * normal(w)") -> tuple[str, str] | None:
    result = found(f"w <- w - lr * (sum({clip}, over = examples) + {noise})")
    if not result.private:
        return None
    (release,) = result.releases
    return str(release.sensitivity), str(release.multiplier)


@pytest.mark.parametrize(
    ("clip", "sensitivity"),
    [
        (CLIP, "c"),
        ("J * min(1, c / (n + 1e-6))", "c"),
        ("J / max(1, n / c)", "c"),
        ("min(c / max(n, 1e-12), 1) * J", "c"),
        ("c * J / max(n, c)", "c"),
        ("J * (c / (n + 0.01))", "c"),
        ("-3 * (J / max(1, n / c))", "3 * c"),
        ("J * min(1, 2 // n) / 4", "0.5"),
        ("c * (J / max(1, n))", "c"),
        ("J / max(s, n / c)", "c"),
    ],
)
def test_forms_of_clipping(clip: str, sensitivity: str) -> None:
    result = told(clip)
    assert result is not None and result[0] == sensitivity


@pytest.mark.parametrize(
    "clip",
    [
        "J",
        "J * min(1, n / c)",
        "J * max(1, c // n)",
        "J * min(1, c / (n - 1))",
        "J * min(1, c // norm(J, over = tensor))",
        "J * min(1, c // norm(grad(w), over = model))",
        "(J + w) * min(1, c // n)",
        "J / max(1, n / any)",  # an option of any sign bounds nothing
        "J / min(1, n / c)",
        "J * min(1, c // sum(J * J, over = model))",
        "J^2 * min(1, c // n)",
        "J * min(any, c // n)",
        "where(n > c, J * c / n, J)",  # true, and not understood
        "J * min(1, c // n) * m",  # the state may be large
    ],
)
def test_what_is_not_clipped(clip: str) -> None:
    assert told(clip) is None


@pytest.mark.parametrize(
    ("noise", "multiplier"),
    [
        ("z * c * normal(w)", "z"),
        ("normal(w) * s", "s / c"),
        ("2 * c * normal(w) / 4", "0.5"),
        ("(-c) * normal(w)", "1"),
    ],
)
def test_the_noise_multiplier(noise: str, multiplier: str) -> None:
    assert told(CLIP, noise) == ("c", multiplier)


@pytest.mark.parametrize(
    "noise",
    [
        "0 * normal(w)",
        "z * rademacher(w)",
        "z * norm(grad(w), over = model) * normal(w)",  # its size tells of the data
        "m * normal(w)",  # not one size for all cells
        "z * c * normal()",  # one number for all cells
        "w",
    ],
)
def test_what_is_no_noise(noise: str) -> None:
    assert told(CLIP, noise) is None


def test_a_mean_and_two_releases() -> None:
    mean = found(f"w <- w - lr * (mean({CLIP}, over = examples) + s * normal(w))")
    assert mean.private and mean.releases[0].averaged == "mean"
    assert str(mean.releases[0].multiplier) == "s * size(examples) / c"
    two = found(
        f"a = sum({CLIP}, over = examples) + c * normal(w)",
        f"b = sum({CLIP}, over = examples) + 2 * c * normal(w)",
        "w <- w - lr * (a + b)",
    )
    assert two.private and [str(r.multiplier) for r in two.releases] == ["1", "2"]


def test_what_follows_a_release_is_free() -> None:
    result = found(
        f"g = (sum({CLIP}, over = examples) + z * c * normal(w)) / size(examples)",
        "m <- 0.9 * m + g",
        "metric size = norm(g, over = model)",
        "veto when norm(g, over = model) > 100",
        "w <- w - lr * m / (sqrt(g^2) + 1e-8)",
    )
    assert result.private


RELEASE = f"g = sum({CLIP}, over = examples) + z * c * normal(w)"
LEAKS = {
    "metric f = loss(w)": ("raw loss", "the metric `f`"),
    "metric n = max(n, over = examples)": ("not bounded", "the metric `n`"),
    "m <- m + mean(J, over = examples)": ("not bounded", "`m`"),
    "m <- m + sum(J * min(1, s // n), over = examples)": ("no noise", "`m`"),
    "veto when loss(w) > 10": ("raw loss", "the veto of the step"),
    "state first = grad(w)\nm <- first": ("raw gradient", "the first `first`"),
    "b = grad(w, on = draw(other))\nm <- m + b": ("raw gradient", "`m`"),
    "if loss(w) > 1:\n        m <- g": ("raw loss", "`m`"),
    "repeat 40:\n        m <- m + grad(m)": ("raw data", "`m`"),
}


@pytest.mark.parametrize("line", LEAKS)
def test_every_way_around_is_found_at_its_place(line: str) -> None:
    result = found(RELEASE, *line.splitlines(), "w <- w - lr * (g + m)")
    why, sink = LEAKS[line]
    assert result.releases and not result.private
    leak = next(x for x in result.leaks if x.sink == sink)
    assert why in leak.why
    assert 6 <= leak.at.span.row <= 7


def test_noise_that_is_read_twice_is_none() -> None:
    twice = found(
        "u = z * c * normal(w)",
        f"w <- w - lr * (sum({CLIP}, over = examples) + u)",
        "m <- u",
        "metric size = norm(m, over = model)",
    )
    assert not twice.releases and not twice.private
    kept = found(
        "u = normal(w)",
        f"w <- w - lr * (sum({CLIP}, over = examples) + c * u)",
        "state a = u",
        "m <- a",
        "metric size = norm(m, over = model)",
    )
    assert not kept.private


DP = (Path(__file__).parents[2] / "examples" / "dp_sgd.opt").read_text(encoding="utf-8")


def test_the_library_and_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = tmp_path / "good.opt", tmp_path / "bad.opt"
    good.write_text(DP, encoding="utf-8")
    bad.write_text(DP + "    metric f = loss(w)\n", "utf-8")
    assert main(["check", "--private", str(good)]) == 0
    assert main(["explain", "--cost", str(good)]) == 0
    told = capsys.readouterr().out
    assert "sensitivity max_norm, noise multiplier noise_multiplier" in told
    assert main(["check", str(bad)]) == 0
    assert main(["check", "--private", str(bad)]) == 1
    assert "E601" in "".join(capsys.readouterr())
    assert optc.load(good, private=True) is not None
    with pytest.raises(CompileError, match=r"bad.opt:\d+:\d+.*E601.*raw loss"):
        optc.load(bad, private=True)
    with pytest.raises(CompileError, match="E601"):
        optc.loads("rule r(lr = 0.1):\n    w <- w - lr * normal(w)\n", private=True)


def test_rules_without_such_noise_are_not_bothered() -> None:
    text = "rule r(lr = 0.1):\n    w <- w - lr * (grad(w) + normal(w))\n"
    graph = driver.graph(Source("r.opt", text), library())
    assert "private" not in sheet(graph) and not privacy(graph).private
