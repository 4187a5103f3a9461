"""Passes shown before and after as text: tests/cases/passes/*.opt and the *.txt beside each."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import optc
from optc.compiler import driver
from optc.compiler.ir import Graph, postorder
from optc.compiler.passes.specialise import conditions, specialise
from optc.compiler.pipeline import PASSES, run
from optc.compiler.primitive import NoLibrary, State, primitive
from optc.compiler.source import CompileError, Source
from optc.compiler.verify import verify
from optc.plugins.registry import library

CASES = sorted((Path(__file__).parents[1] / "cases" / "passes").glob("*.opt"))


def graph(text: str, after: str = "") -> Graph:
    return driver.graph(Source("case.opt", text), NoLibrary(), after=after)


@pytest.mark.parametrize("path", CASES, ids=lambda p: p.stem)
def test_the_graph_after_a_pass(path: Path, renew: bool) -> None:
    text = path.read_text(encoding="utf-8")
    after = text.splitlines()[0].strip("# ")
    assert after in PASSES
    found, golden = graph(text, after).text(), path.with_suffix(".txt")
    if renew:
        golden.write_text(found, encoding="utf-8")
    assert found == golden.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", CASES, ids=lambda p: p.stem)
def test_passes_are_done_after_one_run(path: Path) -> None:
    once = graph(path.read_text(encoding="utf-8"))
    assert run(once).text() == once.text()


def test_an_illegal_graph_is_a_bug_of_ours() -> None:
    made = graph(CASES[0].read_text(encoding="utf-8"))
    made.writes["w"] = made.const(1.0)
    with pytest.raises(AssertionError, match="is written"):
        verify(made)


def test_every_makes_two_variants() -> None:
    made = graph(
        "rule r(lr = 0.1):\n    state a = zeros(w)\n    every 5:\n"
        "        a <- grad(w + 0.1)\n    w <- w - lr * a\n"
    )
    (condition,) = conditions(made)
    due, idle = (specialise(made, {condition: bit}).text() for bit in (True, False))
    assert "evaluate" in due and "evaluate" not in idle


@primitive("precondition")
def blended(g, m: State, *, beta: unit = 0.5):  # type: ignore[no-untyped-def,name-defined] # noqa: F821
    """The sign of a blend."""
    return torch.sign(torch.lerp(g, m, beta)), torch.lerp(m, g, 1 - beta)


class WithPython(NoLibrary):
    def find(self, kind: str, name: str):  # type: ignore[no-untyped-def]
        return {"blended": blended, "strange": strange}.get(name)


@primitive("precondition")
def strange(g):  # type: ignore[no-untyped-def]
    """Something that has no node."""
    return torch.fft.fft(g)


def test_python_becomes_the_same_nodes() -> None:
    text = "rule r(lr = 0.1):\n    precondition blended(0.25)\n    step lr\n"
    made = driver.graph(Source("p.opt", text), WithPython())
    assert "python" not in made.text() and "sign" in made.text()
    assert "blended.m" in made.slots


def test_python_without_a_node_is_refused() -> None:
    text = "rule r(lr = 0.1):\n    precondition strange()\n    step lr\n"
    with pytest.raises(CompileError, match="E504.*fft"):
        driver.graph(Source("p.opt", text), WithPython())


def test_a_quotient_by_what_the_host_knows_is_a_product() -> None:
    """Not where a unit in the last place decides, nor by a number of the tensors."""
    from optc.compiler.passes.reciprocal import reciprocal

    body = "a = grad(w) / (1 - 0.9 ^ t)\n    b = w / norm(w, over = model)\n"
    body += "    w <- w - lr * (a + b + floor(w / lr) + w / 4)\n"
    graph = driver.graph(Source("r.opt", f"rule r(lr = 0.1):\n    {body}"), library())
    made = reciprocal(graph)
    kept = [n for n in postorder(made.roots()) if n.op == "div" and n.type.reach == "element"]
    assert sorted(n.inputs[1].op for n in kept) == ["option", "sqrt"]
    ones = [n for n in postorder(made.roots()) if n.op == "div" and n.type.reach != "element"]
    assert len(ones) == 1  # 1 / (1 - 0.9 ^ t); 1 / 4 is a constant


def test_a_tiny_divisor_of_the_tensors_still_divides() -> None:
    """Its reciprocal would be infinite."""
    p = torch.nn.Parameter(torch.zeros(3))
    rule = "rule r(lr = 1.0):\n    w <- w - lr * grad(w) / max(abs(grad(w)), over = model)\n"
    opt = optc.loads(rule)([p])
    p.grad = torch.tensor([1e-40, 5e-41, 0.0])
    opt.step()
    assert torch.allclose(p.detach(), torch.tensor([-1.0, -0.5, 0.0]), atol=1e-3)
