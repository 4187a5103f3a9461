"""Whole steps have the bits of C: types, groups, reductions, chunks."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from optc.runtime import triton
from optc.runtime.optimizer import optimizer_class

from ..compare import compiled
from ..rules import ADAMW, CLIPPED
from .parameters import misaligned, parameters, same_bits


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
def test_adamw_has_the_bits_of_c(dtypes: Any, place: Any, launched: Any) -> None:
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
def test_schedules_have_the_bits_of_c(formats: tuple[str, str], launched: Any) -> None:
    text = ADAMW + SCHEDULED.format(*formats)
    ours, theirs = parameters((torch.float32,)), parameters((torch.float32,))
    steps(text, ours, "triton"), steps(text, theirs, "c")
    same_bits(ours, theirs)
    assert launched


def test_one_launch_serves_all_tensors_of_a_signature(launched: Any) -> None:
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
def test_ends_of_reductions(how: str, over: str, bad: bool, launched: Any) -> None:
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
