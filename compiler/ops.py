"""The element-wise operations of the graph, one row each: the only list of them.

`torch` is the name of the torch function, `c` the C expression over {0} {1} {2} ({f}: the suffix
of the scalar type's mathematics), `triton` the Triton expression where C's would not do.
`scalars.HOST` has the function by which a scalar that is known to the host is computed in double.
`partials` are the derivatives, written in the language itself over the operands a, b, c and the
result r; an operation without partials has derivative zero.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Op:
    name: str
    arity: int
    torch: str
    c: str
    partials: tuple[str, ...] = ()
    logical: bool = False
    symbol: str = ""
    precedence: int = 9
    triton: str = ""

    def __post_init__(self) -> None:
        if not self.triton:
            object.__setattr__(self, "triton", self.c.replace("{f}", ""))


def _row(
    name: str, arity: int, torch: str, c: str, *partials: str, **more: object
) -> tuple[str, Op]:
    return name, Op(name, arity, torch, c, partials, **more)  # type: ignore[arg-type]


OPS: dict[str, Op] = dict(
    (
        _row("add", 2, "add", "({0} + {1})", "1", "1", symbol="+", precedence=5),
        _row("sub", 2, "sub", "({0} - {1})", "1", "-1", symbol="-", precedence=5),
        _row("mul", 2, "mul", "({0} * {1})", "b", "a", symbol="*", precedence=6),
        _row(
            "div",
            2,
            "div",
            "({0} / {1})",
            "1 / b",
            "-r / b",
            symbol="/",
            precedence=6,
            triton="optc_div({0}, {1})",
        ),
        # 0 where the divisor is 0
        _row(
            "ratio",
            2,
            "optc.ratio",
            "({1} == 0 ? 0 : {0} / {1})",
            "1 // b",
            "-r // b",
            symbol="//",
            precedence=6,
            triton="optc_ratio({0}, {1})",
        ),
        _row("mod", 2, "remainder", "optc_mod{f}({0}, {1})", symbol="%", precedence=6),
        _row(
            "pow",
            2,
            "pow",
            "optc_pow{f}({0}, {1})",
            "b * a^(b - 1)",
            "r * ln(a)",
            symbol="^",
            precedence=8,
        ),
        _row("neg", 1, "neg", "(-{0})", "-1", symbol="-", precedence=7, triton="({0} * -1.0)"),
        # a value under another name: what a slot is given that is another slot's, or a gradient
        _row("copy", 1, "clone", "{0}", "1"),
        _row("abs", 1, "abs", "optc_abs{f}({0})", "sign(a)"),
        _row(
            "sign",
            1,
            "optc.sign",
            "({0} > 0 ? 1 : {0} < 0 ? -1 : {0})",
            triton="optc_sign({0})",
        ),
        _row("sqrt", 1, "sqrt", "optc_sqrt{f}({0})", "0.5 // r"),
        _row("exp", 1, "exp", "optc_exp{f}({0})", "r"),
        _row("ln", 1, "log", "optc_log{f}({0})", "1 / a"),
        _row("sin", 1, "sin", "optc_sin{f}({0})", "cos(a)"),
        _row("cos", 1, "cos", "optc_cos{f}({0})", "-sin(a)"),
        _row("arctan", 1, "atan", "optc_atan{f}({0})", "1 / (1 + a^2)"),
        _row("tanh", 1, "tanh", "optc_tanh{f}({0})", "1 - r^2"),
        _row("sigmoid", 1, "sigmoid", "optc_sigmoid{f}({0})", "r * (1 - r)"),
        _row("erf", 1, "erf", "optc_erf{f}({0})", "2 / sqrt(pi) * exp(-a^2)"),
        _row("floor", 1, "floor", "optc_floor{f}({0})"),
        _row("ceil", 1, "ceil", "optc_ceil{f}({0})"),
        _row("round", 1, "round", "optc_round{f}({0})"),
        _row("bf16", 1, "optc.bf16", "optc_bf16{f}({0})", "1"),
        # NaN in either operand stays, as in torch.maximum
        _row(
            "max",
            2,
            "maximum",
            "optc_max{f}({0}, {1})",
            "where(a >= b, 1, 0)",
            "where(a >= b, 0, 1)",
        ),
        _row(
            "min",
            2,
            "minimum",
            "optc_min{f}({0}, {1})",
            "where(a <= b, 1, 0)",
            "where(a <= b, 0, 1)",
        ),
        _row(
            "where",
            3,
            "where",
            "({0} ? {1} : {2})",
            "",
            "where(a, 1, 0)",
            "where(a, 0, 1)",
            triton="tl.where({0} != 0, {1}, {2})",
        ),
        _row("lt", 2, "lt", "({0} < {1})", logical=True, symbol="<", precedence=4),
        _row("le", 2, "le", "({0} <= {1})", logical=True, symbol="<=", precedence=4),
        _row("gt", 2, "gt", "({0} > {1})", logical=True, symbol=">", precedence=4),
        _row("ge", 2, "ge", "({0} >= {1})", logical=True, symbol=">=", precedence=4),
        _row("eq", 2, "eq", "({0} == {1})", logical=True, symbol="==", precedence=4),
        _row("ne", 2, "ne", "({0} != {1})", logical=True, symbol="!=", precedence=4),
        _row(
            "and",
            2,
            "logical_and",
            "({0} && {1})",
            logical=True,
            symbol="and",
            precedence=2,
            triton="(({0} != 0) & ({1} != 0))",
        ),
        _row(
            "or",
            2,
            "logical_or",
            "({0} || {1})",
            logical=True,
            symbol="or",
            precedence=1,
            triton="(({0} != 0) | ({1} != 0))",
        ),
        _row(
            "not",
            1,
            "logical_not",
            "(!{0})",
            logical=True,
            symbol="not",
            precedence=3,
            triton="({0} == 0)",
        ),
        _row("isfinite", 1, "isfinite", "optc_isfinite{f}({0})", logical=True),
        # What a schedule stores in fewer bits; `dither` rounds up or down by a draw of 16 bits
        _row(
            "f16",
            1,
            "optc.f16",
            "optc_load_f16(optc_store_f16((float)({0})))",
            "1",
            triton="optc_f16({0})",
        ),
        _row(
            "dither_bf16",
            2,
            "optc.dither_bf16",
            "optc_dither_bf16((float)({0}), (float)({1}))",
            "1",
            "",
            triton="optc_dither_bf16({0}, {1})",
        ),
        _row(
            "dither_f16",
            2,
            "optc.dither_f16",
            "optc_dither_f16((float)({0}), (float)({1}))",
            "1",
            "",
            triton="optc_dither_f16({0}, {1})",
        ),
    )
)

SYMBOLS = {op.symbol: op.name for op in OPS.values() if op.symbol and op.arity == 2}
