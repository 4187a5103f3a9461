"""What the host rules out for a tensor is not computed for it: dear work is spread over steps."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

import optc
from optc.compiler import driver
from optc.compiler.emit.standalone import standalone
from optc.compiler.interpret import Interpreter, Tensors
from optc.compiler.source import Source
from optc.plugins.registry import library

WHITEN = """precondition whiten(g; k = 3):
    state P: tensor[rows, rows'] = 0
    m = matrix(g)
    if t == 1 or (call - 1 + place) % k == 0:
        values, vectors = eigh(m @ transpose(m) + 0.1 * eye(rows))
        P <- vectors * values'^-0.5 @ transpose(vectors)
    return back(P @ m)
rule spread(lr = 0.1):
    precondition whiten()
    step lr
"""
SHAPES = [(4, 5)] * 5 + [(3, 3)] + [(4, 5)]


def tensors() -> list[torch.Tensor]:
    make = torch.Generator().manual_seed(0)
    return [torch.randn(*s, generator=make, dtype=torch.float64) for s in SHAPES]


def gradients(steps: int) -> list[list[torch.Tensor | None]]:
    make = torch.Generator().manual_seed(1)
    given: list[list[torch.Tensor | None]] = [
        [torch.randn(*s, generator=make, dtype=torch.float64) for s in SHAPES] for _ in range(steps)
    ]
    given[0][2] = None  # its first step is the second of the others
    given[2][0] = None
    return given


class Given:
    """The gradients of the loop, for the interpreter."""

    now: list[torch.Tensor | None]

    def gradient(self, objective: str, points: Any, data: Any, wrt: str) -> list[Any]:
        return list(self.now)


def interpreted(text: str, steps: int) -> list[torch.Tensor]:
    loop, own = Given(), tensors()
    names = [f"p{i}" for i in range(len(own))]
    run = Interpreter(
        driver.graph(Source("x.opt", text), library()), Tensors(names, own), oracles=loop
    )
    for now in gradients(steps):
        loop.now = now
        run.step()
    return run.slots["w"]


def trained(cls: Any, steps: int) -> list[torch.Tensor]:
    params = [torch.nn.Parameter(x) for x in tensors()]
    opt = cls(params)
    for now in gradients(steps):
        for p, g in zip(params, now, strict=True):
            p.grad = g
        opt.step()
    return [p.detach() for p in params]


def test_it_means_what_the_interpreter_says() -> None:
    for a, b in zip(interpreted(WHITEN, 7), trained(optc.loads(WHITEN), 7), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-11)


def test_a_standalone_module_does_the_same(tmp_path: Path) -> None:
    (tmp_path / "spread.opt").write_text(WHITEN, encoding="utf-8")
    path = tmp_path / "spread_module.py"
    path.write_text(standalone(optc.compile(tmp_path / "spread.opt")), encoding="utf-8")
    spec = importlib.util.spec_from_file_location("spread_module", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for a, b in zip(trained(module.Spread, 5), trained(optc.loads(WHITEN), 5), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_the_work_of_a_step_is_level(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twelve tensors and every sixth step: two eigendecompositions a step, each of them once."""
    done: list[int] = []
    plain = torch.linalg.eigh

    def eigh(x: torch.Tensor) -> Any:
        done.append(1)
        return plain(x)

    monkeypatch.setattr(torch.linalg, "eigh", eigh)
    params = [torch.nn.Parameter(torch.randn(4 + i, 5)) for i in range(12)]
    opt = optc.loads(WHITEN.replace("k = 3", "k = 6"))(params)
    counts = []
    for _ in range(13):
        for p in params:
            p.grad = torch.randn_like(p)
        done.clear()
        opt.step()
        counts.append(len(done))
    assert counts == [12] + [2] * 12


def test_two_conditions_have_four_graphs() -> None:
    text = WHITEN.replace(
        "    return back(P @ m)",
        "    if rows > 4:\n        P <- 2 * P\n    return back(P @ m)",
    )
    opt = optc.loads(text)([torch.nn.Parameter(x) for x in tensors()])
    phases = [p for p in opt._plan(()).phases if getattr(p, "tests", ())]
    assert len(phases) == 1 and len(phases[0].each_side()) == 4
    for a, b in zip(interpreted(text, 5), trained(optc.loads(text), 5), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-11)


def test_states_whose_names_differ_in_case_alone_stay_apart() -> None:
    """torch.fx names its values without case: `V` must not be read for `v`."""
    text = (
        "precondition p(g):\n    state V: tensor[rows, cols] = 1, v: tensor[rows, cols] = 3\n"
        "    m = matrix(g)\n    V <- V + 0 * m\n    v <- v + 0 * m\n    return back(m * V / v)\n"
        "rule r(lr = 1.0):\n    precondition p()\n    step lr\n"
    )
    p = torch.nn.Parameter(torch.zeros(2, 3))
    p.grad = torch.ones(2, 3)
    optc.loads(text)([p]).step()
    torch.testing.assert_close(p.detach(), torch.full((2, 3), -1 / 3))
