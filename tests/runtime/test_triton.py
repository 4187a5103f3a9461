"""The Triton printer: its meaning in an interpreter, and what is made of it for Hopper.

No test needs a GPU; none has run on one.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from optc.compiler.driver import graph, program
from optc.compiler.emit.kernel import print_kernel
from optc.compiler.emit.standalone import standalone
from optc.compiler.primitive import NoLibrary
from optc.compiler.program import Compute
from optc.compiler.source import Source
from optc.runtime import triton as runtime

from .rules import ADAMW, CLIPPED, NOISY

real = pytest.importorskip("triton", reason="Triton is not installed")
INTERPRETED = Path(__file__).parent / "triton_interpreted"
DOUBLES = {"host", "tensor_values", "group_values", "model_values", "partials"}


def test_meaning_in_the_interpreter() -> None:
    """In a process of its own: Triton reads the variable when it is imported."""
    files = [str(f) for f in INTERPRETED.glob("*.py") if f.name != "conftest.py"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", *sorted(files)],
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        cwd=INTERPRETED.parents[2],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert re.search(r"\d{3} passed", done.stdout), done.stdout[-300:]


def phases(text: str) -> list[Compute]:
    return phases_of(program(graph(Source("rule.opt", text), NoLibrary())))


def phases_of(made: Any) -> list[Compute]:
    plan = made.plan(tuple(True for _ in made.conditions.names))
    return [p for p in plan.phases if isinstance(p, Compute) and p.mode == "kernel" and p.space]


def compiled(kernel: Any) -> str:
    """The PTX of a kernel for Hopper, and what `ptxas` makes of it."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    if runtime.interpreted():
        pytest.skip("TRITON_INTERPRET is set: nothing is compiled")
    names = kernel.arg_names
    constants = {"BLOCK": runtime.BLOCK, "CHUNK": runtime.CHUNK}
    whole = ("rows", "groups", "width", "chunks", "count", "first")
    signature = {
        n: "constexpr"
        if n in constants
        else "i32"
        if n in whole
        else "*fp64"
        if n in DOUBLES
        else "*i64"
        for n in names
    }
    source = ASTSource(
        kernel,
        signature,
        constexprs={(names.index(n),): constants[n] for n in names if n in constants},
    )
    made = real.compile(
        source,
        target=GPUTarget("cuda", 90, 32),
        options={"num_warps": runtime.WARPS, "enable_fp_fusion": False},
    )
    assert made.asm["cubin"]
    return str(made.asm["ptx"])


def ptx_of(text: str, work: str, *columns: str) -> list[str]:
    result = []
    for phase in phases(text):
        kinds = [columns[k % len(columns)] for k in range(len(phase.columns()[0]))]
        source = print_kernel(phase, (work, *kinds), "triton")
        result.append(compiled(runtime.build(source, phase.name)))
    return result


def accesses(ptx: str) -> Counter[str]:
    return Counter(re.findall(r"(?:ld|st)\.global\.\S+", ptx))


def test_aligned_tensors_are_read_and_written_128_bits_at_once() -> None:
    """Four columns are read, three written, 8 elements a thread: two vectors of float32 each."""
    (ptx,) = ptx_of(ADAMW, "f32", "f32")
    found = accesses(ptx)
    assert found["ld.global.v4.b32"] == 8 and found["st.global.v4.b32"] == 6
    # The rest of a chunk, and misaligned tensors: a promise of 4 bytes, element by element.
    assert found["ld.global.b32"] == 32 and found["st.global.b32"] == 24
    assert ".local" not in ptx, "registers spill"


def test_16_bit_tensors_are_read_and_written_128_bits_at_once() -> None:
    (phase,) = phases(ADAMW)
    names, _ = phase.columns()
    kinds = ["bf16" if n == "slot:w" or not n.startswith("slot:") else "f32" for n in names]
    assert kinds.count("bf16") == 2
    found = accesses(ptx_of(ADAMW, "f32", *kinds)[0])
    assert found["ld.global.v4.b32"] == 2 * 1 + 2 * 2 and found["st.global.v4.b32"] == 1 + 2 * 2
    assert found["ld.global.b16"] == 16 and found["st.global.b16"] == 8


def test_arithmetic_is_not_contracted_nor_approximate() -> None:
    for ptx in ptx_of(ADAMW, "f32", "f32") + ptx_of(NOISY, "f32", "f32"):
        assert not re.search(r"fma|approx|div\.full", ptx)


def test_reductions_are_double_and_every_kernel_is_built() -> None:
    for work, columns in (("f32", ("f32", "bf16")), ("f32", ("f16",)), ("f64", ("f64",))):
        for ptx in ptx_of(CLIPPED, work, *columns):
            assert "v4" in "".join(accesses(ptx)) or work == "f64"
    norm, _ = ptx_of(CLIPPED, "f32", "f32")
    assert re.search(r"add(\.rn)?\.f64", norm) and not re.search(r"\b(atom|red)\.", norm)
    from optc.runtime.triton_reduction import finish

    assert not re.search(r"\b(atom|red)\.", compiled(finish))


@pytest.mark.parametrize("work", ["f32", "f64"])
def test_every_operation_compiles(work: str) -> None:
    from .triton_interpreted.operations import NAMED_OPS, operations

    assert sum(ptx.count("st.global") for ptx in ptx_of(operations(), work, work)) > len(NAMED_OPS)


@pytest.mark.parametrize("form", ["bf16(stochastic)", "f16(stochastic)", "bf16(kahan)"])
def test_stores_of_a_schedule_compile(form: str) -> None:
    import optc

    from .triton_interpreted.steps import SCHEDULED

    made = optc.loads(ADAMW + SCHEDULED.format(form, "f16")).program
    (phase,) = phases_of(made)
    kinds = ["f32"] * len(phase.columns()[0])
    source = print_kernel(phase, ("f32", *kinds), "triton")
    assert accesses(compiled(runtime.build(source, phase.name)))["ld.global.v4.b32"]


def test_the_kernels_of_a_standalone_module_compile(tmp_path: Path) -> None:
    path = tmp_path / "alone.py"
    path.write_text(standalone(program(graph(Source("rule.opt", ADAMW), NoLibrary()))))
    spec = importlib.util.spec_from_file_location("alone", path)
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    spec.loader.exec_module(module)  # type: ignore[union-attr]
    (phase,) = [p for p in module.PROGRAM.plan(()).phases if getattr(p, "mode", "") == "kernel"]
    kinds = ("f32",) * (1 + len(phase.columns()[0]))
    source = module.PROGRAM.print_kernel(phase, kinds, "triton")
    own = module._RUNTIME.load("runtime.triton")
    assert accesses(compiled(own.build(source, phase.name)))["ld.global.v4.b32"] == 8


def test_names_are_made_safe() -> None:
    kernel = runtime.build("@triton.jit\ndef phase(x):\n    tl.store(x, 1.0)\n", "a)\nimport os")
    assert kernel.__name__ == "optc_phase_a__import_os"


def test_it_says_why_it_cannot_run() -> None:
    import torch

    from optc.runtime.optimizer import optimizer_class

    from .compare import compiled as rule

    if runtime.interpreted():
        pytest.skip("TRITON_INTERPRET is set: kernels run on the CPU")
    p = torch.nn.Parameter(torch.ones(3))
    p.grad = torch.ones(3)
    with pytest.raises(RuntimeError, match="no CUDA device under the parameters"):
        optimizer_class(rule(ADAMW))([p], backend="triton").step()
