"""Types of a kernel: one C text serves all of them, behind a few lines that name the types.

The text works in `real`, calls mathematics as `F(sqrt)(x)`, and reads and writes column k as
`load0(c0[i])` and `store0(x)` with `c0` a pointer to `type0`. A standalone module carries this file
along.
"""

from __future__ import annotations

from .program import Compute

Signature = tuple[str, ...]
"""The type in which a phase works (f32 or f64), then that of each column: f32 f64 bf16 f16 bool."""

C_TYPE = {"f32": "float", "f64": "double", "bf16": "uint16_t", "f16": "uint16_t", "bool": "uint8_t"}
_LOAD = {"bf16": "optc_load_bf16(x)", "f16": "optc_load_f16(x)"}
_STORE = {"bf16": "optc_store_bf16(x)", "f16": "optc_store_f16(x)", "bool": "((x) != 0)"}


def typed(signature: Signature) -> str:
    """The lines of C that stand before a printed phase."""
    suffix = "##f" if signature[0] == "f32" else ""
    lines = [f"typedef {C_TYPE[signature[0]]} real;", f"#define F(name) optc_##name{suffix}"]
    for k, kind in enumerate(signature[1:]):
        lines += [
            f"typedef {C_TYPE[kind]} type{k};",
            f"#define load{k}(x) ((real){_LOAD.get(kind, '(x)')})",
            f"#define store{k}(x) {_STORE.get(kind, '(x)')}",
        ]
    return "".join(f"{line}\n" for line in lines)


def carried(phase: Compute, signature: Signature, name: str) -> str:
    """The C source of a phase that carries its text: `print_kernel` of a standalone module."""
    return typed(signature) + phase.sources[()]
