"""Types of a kernel: one text serves all of them, behind a few lines that name the types.

C works in `real`, calls mathematics as `F(sqrt)(x)`, and reads and writes column k as
`load0(c0[i])` and `store0(x)` with `c0` a pointer to `type0`. Triton names `real` and `type0` too.
A standalone module carries this file along.
"""

from __future__ import annotations

from .program import Compute

Signature = tuple[str, ...]
"""The type in which a phase works (f32 or f64), then that of each column: f32 f64 bf16 f16 bool, i8
for codes."""

C_TYPE = {
    **{"f32": "float", "f64": "double", "bf16": "uint16_t", "f16": "uint16_t"},
    **{"bool": "uint8_t", "i8": "int8_t"},
}
TRITON_TYPE = {
    "f32": "float32",
    "f64": "float64",
    "bf16": "bfloat16",
    "f16": "float16",
    "bool": "uint8",
}
_LOAD = {"bf16": "optc_load_bf16(x)", "f16": "optc_load_f16(x)"}
_STORE = {"bf16": "optc_store_bf16(x)", "f16": "optc_store_f16(x)", "bool": "((x) != 0)"}


def typed(language: str, signature: Signature) -> str:
    """The lines that stand before a printed phase."""
    lines = _TYPED[language](signature)
    return "".join(f"{line}\n" for line in lines)


def _c(signature: Signature) -> list[str]:
    suffix = "##f" if signature[0] == "f32" else ""
    lines = [f"typedef {C_TYPE[signature[0]]} real;", f"#define F(name) optc_##name{suffix}"]
    for k, kind in enumerate(signature[1:]):
        lines += [
            f"typedef {C_TYPE[kind]} type{k};",
            f"#define load{k}(x) ((real){_LOAD.get(kind, '(x)')})",
            f"#define store{k}(x) {_STORE.get(kind, '(x)')}",
        ]
    return lines


def _triton(signature: Signature) -> list[str]:
    kinds = {"real": signature[0]} | {f"type{k}": x for k, x in enumerate(signature[1:])}
    return [f"{name} = tl.constexpr(tl.{TRITON_TYPE[kind]})" for name, kind in kinds.items()]


_TYPED = {"c": _c, "triton": _triton}


def carried(phase: Compute, signature: Signature, language: str) -> str:
    """The source of a phase that carries its text: `print_kernel` of a standalone module."""
    return typed(language, signature) + phase.sources[language,]
