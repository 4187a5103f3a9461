"""What is wrong within a library points to the line of the rule that called it."""

from __future__ import annotations

import pytest

from optc.compiler import driver
from optc.compiler.privacy import require
from optc.compiler.source import CompileError, Source
from optc.plugins.registry import library

from .rich import graph, written

IN_A_LIBRARY = {
    "a metric of a turn": (
        "repeat turns:\n    monitor gradient_norm() as size\n    step lr",
        "monitor gradient_norm() as size",
    ),
    "data of an unknown size": (
        "smooth normalized_spider(large = norm(w, over = model))\nstep lr",
        "smooth normalized_spider",
    ),
    "a batch as a count": (
        "monitor moreau_stationarity(rho = 2.0, turns = batch)\nstep lr",
        "monitor moreau_stationarity",
    ),
    "within the backward pass": (
        "step lr\nclip global_norm(1)\nstep lr",
        "clip global_norm(1)",
        "run in_backward",
    ),
}
"""What a rule calls, the line at fault, a line of its schedule."""


@pytest.mark.parametrize("name", IN_A_LIBRARY)
def test_it_points_to_the_line_that_called_the_library(name: str) -> None:
    body, line, *schedule = IN_A_LIBRARY[name]
    text = written(body) + "".join(f"schedule r:\n    {x}\n" for x in schedule)
    with pytest.raises(CompileError) as found:
        driver.compile_source(Source("odd.opt", text), library())
    for wrong in found.value.diagnostics:
        assert wrong.span.source.path == "odd.opt"
        assert wrong.span.source.line(wrong.span.row).strip().startswith(line)
        assert wrong.met is not None and wrong.met.source.path.endswith(".opt")
        assert "met in" in str(wrong)


def test_workers_that_mix_in_a_library_are_seen_from_the_rule() -> None:
    text = """rule odd(lr = 0.1) over workers:
    repeat 50 until norm(w, over = model) < 1:
        communicate gossip(complete)
    step lr
"""
    with pytest.raises(CompileError, match=r"odd.opt:3:9: error\[E317\](.|\n)*met in .*gossip.opt"):
        driver.graph(Source("odd.opt", text), library())


def test_a_leak_in_a_library_is_seen_from_the_rule() -> None:
    rule = driver.graph(
        Source("odd.opt", written("monitor gradient_norm() as n\nstep lr")), library()
    )
    with pytest.raises(CompileError) as found:
        require(rule)
    assert {d.span.source.path for d in found.value.diagnostics} == {"odd.opt"}


@pytest.mark.parametrize(
    ("step", "help"),
    [
        ("combine dp_mean(1.0, 1.0)", "`batch = each(batch)` above it"),
        ("combine median_of_microbatches()", "`batch = split(batch, 4)` above it"),
        ("combine upgrad()", "such as `loss parts: model[losses]`"),
    ],
)
def test_what_lacks_an_axis_is_told_where_it_comes_from(step: str, help: str) -> None:
    with pytest.raises(CompileError) as found:
        graph(f"{step}\nstep lr")
    assert help in str(found.value)
