"""Random rules that are well typed by construction.

A rule is a list of statements over a pool of values of known reach; each statement takes values of
the pool and adds one. Fewer statements and smaller choices are simpler, so hypothesis shrinks well.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import strategies as st

ELEMENT = (
    "{a} + {b}",
    "{a} - 0.5 * {b}",
    "{a} * tanh({b})",
    "{a} / (1 + abs({b}))",
    "sign({a}) * sqrt(abs({a}))",
    "max({a}, {b})",
    "min({a}, 0.3)",
    "where({a} > {b}, {a}, -{b})",
    "sigmoid({a}) * {b}",
    "cos({a})",
    "{a} // {b}",
    "exp(-{a}^2)",
    "round({a} * 4) / 4",
)
REDUCE = (
    "norm({a}, over = model)",
    "norm({a}, over = tensor)",
    "mean({a}, over = model)",
    "dot({a}, {b}, over = tensor)",
    "max(abs({a}), over = model)",
    "sum({a}, over = group)",
    "norm({a}, over = row)",
)
SCALAR = (
    "{s} / (1 + abs({s}))",
    "sqrt(abs({s}) + 0.1)",
    "lr / sqrt(t)",
    "min(1, 1 / ({s} + 0.5))",
    "where(call % 2 == 0, {s}, 0.5)",
)
FIELD = (
    "grad(w + 0.05 * {a})",
    "grad(w + 0.1 * grad(w) / (norm(grad(w), over = model) + 1e-6))",
)


@dataclass
class Maker:
    """Writes one rule, statement by statement."""

    draw: object
    fine: list[str] = field(default_factory=lambda: ["g", "w"])
    coarse: list[str] = field(default_factory=lambda: ["lr", "0.7"])
    lines: list[str] = field(default_factory=list)
    states: int = 0

    def pick(self, options: list[str] | tuple[str, ...]) -> str:
        return self.draw(st.sampled_from(list(options)))  # type: ignore[operator]

    def fill(self, form: str) -> str:
        return form.format(a=self.pick(self.fine), b=self.pick(self.fine), s=self.pick(self.coarse))

    def value(self, forms: tuple[str, ...], pool: list[str]) -> None:
        name = f"x{len(self.lines)}"
        self.lines.append(f"{name} = {self.fill(self.pick(forms))}")
        pool.append(name)

    def state(self) -> None:
        name = f"s{self.states}"
        self.states += 1
        start = self.pick(("zeros(w)", "0.1 * ones(w)", "w"))
        self.lines.insert(0, f"state {name} = {start}")
        update = f"{name} <- 0.9 * {name} + 0.1 * {self.pick(self.fine)}"
        guard = self.pick(("", "", "every 2:", f"if {self.pick(self.coarse)} > 0.4:"))
        self.lines += [guard, f"    {update}"] if guard else [update]
        self.fine.append(name)

    def step(self) -> None:
        kind = self.draw(st.integers(0, 4))  # type: ignore[operator]
        if kind == 0:
            self.value(ELEMENT, self.fine)
        elif kind == 1:
            self.value(REDUCE, self.coarse)
        elif kind == 2:
            self.value(SCALAR, self.coarse)
        elif kind == 3:
            self.state()
        else:
            self.value(FIELD, self.fine)


@st.composite
def rules(draw: object, most: int = 6) -> str:
    """The text of a random rule."""
    maker = Maker(draw)
    for _ in range(draw(st.integers(1, most))):  # type: ignore[operator]
        maker.step()
    direction, scale = maker.pick(maker.fine), maker.pick(maker.coarse)
    end = f"w <- w - 0.1 * tanh({direction}) * tanh({scale})"
    body = ["g = grad(w)"] + maker.lines + [end]
    states = [x for x in body if x.startswith("state")]
    rest = [x for x in body if not x.startswith("state")]
    veto = ["veto when norm(g, over = model) > 100"] if draw(st.booleans()) else []  # type: ignore[operator]
    lines = "\n".join("    " + x for x in [*states, *rest, *veto])
    return f"rule random(lr: nonnegative = 0.1):\n{lines}\n"
