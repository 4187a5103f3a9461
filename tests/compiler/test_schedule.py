"""A schedule is read, checked against the graph, and made part of it; nothing else changes."""

from __future__ import annotations

import pytest

from optc.cli import main
from optc.compiler import driver
from optc.compiler.analysis import bar_to_backward
from optc.compiler.emit.traffic import by_leaf
from optc.compiler.explain import sheet
from optc.compiler.schedule import illegal, read, schedules
from optc.compiler.source import CompileError, Source
from optc.plugins.registry import library

ADAM = "rule r(lr = 0.1):\n    precondition adam()\n    step lr\n"


def scheduled(*lines: str, rule: str = ADAM) -> object:
    text = rule + "\nschedule r:\n" + "".join(f"    {line}\n" for line in lines)
    source = Source("r.opt", text)
    return driver.scheduled(driver.graph(source, library()), source)


WRONG = {
    "store exp_av as bf16": ("E201", "did you mean `adam.exp_avg`?"),
    "store exp_avg as bf61": ("E201", "did you mean `bf16`?"),
    "store exp_avg as bf16(stochastik)": ("E203", "did you mean `stochastic`?"),
    "store exp_avg as bf16(block = 3)": ("E203", ""),
    "store exp_avg as int8(block = 100)": ("E208", ""),
    "store exp_avg as int8(power = 3)": ("E208", ""),
    "store w as int8": ("E403", ""),
    "run backwards": ("E201", ""),
    "run in_backward(bucket = 3)": ("E201", "write `run in_backward` or"),
    "run in_backward(bucket_mb = 0 - 1)": ("E208", ""),
    "run captured(3)": ("E201", "write `run captured`"),
    "run backend(gpu)": ("E201", "known here: auto, c, eager, inductor, triton"),
}


@pytest.mark.parametrize("line", WRONG)
def test_what_is_wrong_is_said_where_it_stands(line: str) -> None:
    with pytest.raises(CompileError) as error:
        scheduled(line)
    (found,) = error.value.diagnostics
    assert (found.code, found.span.row) == (WRONG[line][0], 6)
    assert WRONG[line][1] in found.help


def test_a_slot_has_one_format_and_a_rule_one_size_of_block() -> None:
    with pytest.raises(CompileError) as error:
        scheduled("store exp_avg as bf16", "store adam.exp_avg as f16")
    assert [d.code for d in error.value.diagnostics] == ["E204"]
    with pytest.raises(CompileError) as error:
        scheduled("store exp_avg as int8(block = 64)", "store exp_avg_sq as int8")
    assert [d.code for d in error.value.diagnostics] == ["E403"]


def test_a_state_that_nothing_reads_cannot_be_stored() -> None:
    rule = "rule r(lr = 0.1):\n    state v = zeros(w)\n    v <- grad(w)\n    w <- w - lr * v\n"
    with pytest.raises(CompileError, match="nothing reads what `v` held before: it is not kept"):
        scheduled("store v as bf16", rule=rule)


def test_a_matrix_is_not_said_to_be_a_number() -> None:
    rule = (
        "rule r(lr = 0.1):\n    state P: tensor[rows, rows'] = 0, n: tensor = 0\n"
        "    m = matrix(grad(w))\n    P <- P + m @ transpose(m)\n"
        "    n <- n + norm(w, over = tensor)\n"
        "    w <- w - lr * back(P @ m) / n\n"
    )
    with pytest.raises(CompileError, match=r"it is tensor\[rows, rows'\], and only what has"):
        scheduled("store P as int8(block = 16)", rule=rule)
    with pytest.raises(CompileError, match="it is one number a tensor, which costs nothing"):
        scheduled("store n as bf16", rule=rule)


def test_an_end_of_several_names_is_no_name() -> None:
    rule = (
        "rule r(lr = 0.1):\n    smooth momentum() as a\n    smooth momentum() as b\n    step lr\n"
    )
    slots = driver.graph(Source("r.opt", rule), library()).slots
    end = next(p for p in slots if p.startswith("a.")).partition(".")[2]
    with pytest.raises(CompileError, match=f"one of a.{end}, b.{end}"):
        scheduled(f"store {end} as bf16", rule=rule)


COARSE = {
    "state n: model = 0\nn <- n + 1\nw <- w - n": "it is one number a model",
    "state C: element[window(4)] = 0\nC[steps % 4] <- grad(w)\nw <- w - sum(C, over = window)": (
        "is converted inside of the pass"
    ),
}


@pytest.mark.parametrize("body", COARSE)
def test_what_is_no_number_a_cell_is_not_rounded_by_chance(body: str) -> None:
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    with pytest.raises(CompileError, match=COARSE[body]):
        name = body.split()[1].rstrip(":")
        scheduled(
            f"store {name} as bf16(stochastic)", rule=f"rule r(lr = 0.1):\n{lines}    step lr\n"
        )


BARS = {
    "clip global_norm()\nstep lr": "this needs all gradients of the model",
    "w <- w - lr * grad(w) / norm(grad(w), over = group)": "this needs all gradients of the group",
    "perturb sam()\nstep lr": "this needs all gradients of the model",
    "w <- w - lr * grad(w + 1)": "the loss is evaluated again",
    "step lr\nveto when call > 3": "a veto decides over the whole step",
    "state n: model = 0\nn <- n + 1\nstep lr / n": "`n` is written once a step, not once a tensor",
    "step lr\nmetric size = norm(w, over = model)": "this needs all gradients of the model",
}


@pytest.mark.parametrize("body", BARS)
def test_the_backward_pass_is_barred_by_a_line(body: str) -> None:
    rule = "rule r(lr = 0.1):\n" + "".join(f"    {line}\n" for line in body.splitlines())
    with pytest.raises(CompileError) as error:
        scheduled("run in_backward", rule=rule)
    (found,) = error.value.diagnostics
    assert found.code == "E402" and BARS[body] in found.message
    assert found.span.row > 0 and "in_backward" in found.help
    assert BARS[body] in sheet(driver.graph(Source("r.opt", rule), library()))


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("perturb sam()\nstep lr", "the loss is evaluated within the step"),
        ("step lr\nsnapshot when call > 3\nrestore 1 when call > 9", "is the host's to decide"),
    ],
)
def test_a_graph_is_barred_by_a_line(body: str, why: str) -> None:
    rule = "rule r(lr = 0.1):\n" + "".join(f"    {line}\n" for line in body.splitlines())
    with pytest.raises(CompileError) as error:
        scheduled("run captured", rule=rule)
    (found,) = error.value.diagnostics
    assert found.code == "E402" and why in found.message and found.span.row > 0
    assert scheduled("run captured").captured  # type: ignore[attr-defined]
    with pytest.raises(CompileError, match="a graph cannot hold the hooks"):
        scheduled("run captured", "run in_backward")


def test_what_stays_within_a_tensor_is_legal() -> None:
    for body in ("step lr", "precondition adam()\n    step lr", "w <- w - lr * sign(grad(w))"):
        graph = driver.graph(Source("r.opt", f"rule r(lr = 0.1):\n    {body}\n"), library())
        assert bar_to_backward(graph) is None
    rule = "rule r(lr = 0.1):\n    w <- w - lr * grad(w) / norm(grad(w), over = tensor)\n"
    assert scheduled("run in_backward", rule=rule).in_backward  # type: ignore[attr-defined]


def test_a_schedule_computes_nothing_and_a_rule_says_not_how() -> None:
    for text in (f"{ADAM}\nschedule r:\n    w <- w\n", "rule r():\n    run in_backward\n"):
        with pytest.raises(CompileError) as error:
            driver.tree(Source("r.opt", text))
        assert [d.code for d in error.value.diagnostics] == ["E101"]


def test_a_schedule_of_no_rule_is_found() -> None:
    file = driver.tree(Source("r.opt", f"{ADAM}\nschedule s:\n    run in_backward\n"))
    graph = driver.graph(Source("r.opt", ADAM), library())
    assert [d.code for d in illegal(file, [graph])] == ["E201"]
    assert read(None, graph).stores == {} and list(schedules(file)) == ["s"]


FUSED = """rule r(lr = 0.1):
    clip         global_norm(1.0)
    regularize   decoupled_decay(0.01)
    precondition adam()
    state ema = w
    step         lr
    ema <- 0.9 * ema + 0.1 * w
    eval ema

schedule r:
    store w as bf16(kahan)
    store ema as bf16(stochastic)
"""


def test_conversions_fuse_into_the_pass_of_the_step() -> None:
    """Clipping reads the gradient once more; all else is one pass over each slot."""
    source = Source("r.opt", FUSED)
    made = driver.graph(source, library())
    schedule = driver.scheduled(made, source)
    compiled = driver.program(made, source, schedule)
    moved = by_leaf(compiled, compiled.plan(()))
    # in bfloat16: g, g again, w and its rest and ema read and written; exp_avg and its square in 4
    assert moved == {"w": 2 + 2 + 3 * 2 * 2 + 2 * 2 * 4}
    assert "32 bytes a bf16 parameter at least, 32 by the emitted code" in sheet(
        made, moved, schedule=schedule
    )


@pytest.mark.parametrize("format", ["int8", "bf16(kahan)"])
def test_what_evaluation_holds_is_one_plain_number(format: str) -> None:
    with pytest.raises(CompileError, match="evaluation takes it as it is kept"):
        scheduled(f"store ema as {format}", rule=FUSED.partition("schedule")[0])


def test_a_file_of_schedules_alone_is_checked_as_far_as_it_goes() -> None:
    text = "schedule r:\n    store m as bf61\n    run backend(gpu)\n    store m as bf16\n"
    found = illegal(driver.tree(Source("s.opt", text)), [])
    assert [(d.code, d.span.row) for d in found] == [("E201", 2), ("E201", 3)]


def test_bytes_follow_the_formats(tmp_path, capsys) -> None:
    rule, other = tmp_path / "r.opt", tmp_path / "small.opt"
    rule.write_text(ADAM)
    other.write_text("schedule r:\n    store exp_avg as bf16\n    store exp_avg_sq as bf16\n")
    assert main(["explain", "--cost", str(rule), "--schedule", str(other)]) == 0
    shown = capsys.readouterr().out
    # w 4 + 4, gradient 4, two slots read and written in two bytes each
    assert "20 bytes a float32 parameter at least, 20 by the emitted code" in shown
    assert "state                                 4 bytes" in shown
    assert "bf16 (the schedule)" in shown
    assert main(["explain", "--cost", str(rule)]) == 0
    shown = capsys.readouterr().out
    assert "28 bytes a float32 parameter at least, 28 by the emitted code" in shown
    assert "(default)" in shown
