"""A small rule around a primitive, so that it can be checked, tested and shown."""

from __future__ import annotations

from . import syntax as s
from .calls import supplied

_NUMBER = s.Number(1, "1")
_HALF = s.Number(0.5, "0.5")
_VALUES: dict[str, s.Expr] = {
    "unit": _HALF,
    "fraction": _HALF,
    "unit_pair": s.Tuple((_HALF, _HALF)),
    "pair": s.Tuple((_NUMBER, _NUMBER)),
    "boolean": s.Name("true"),
    "function": s.Lambda(("x",), s.Name("x")),
}
"""What a required option is given, by its bound; others get a 1."""


def _like_w(item: s.Input) -> bool:
    """Whether an input has the cells of the target."""
    return item.type is None or item.type.reach == "element"


def probe(tree: s.Primitive) -> s.Rule | None:
    """`rule name(): KIND name(...)`, with the losses it asks for; None for functions."""
    if tree.kind == "function":
        return None
    body: list[s.Statement] = []
    arguments: list[s.Argument] = []
    for item in tree.inputs:
        if item.type is not None and item.type.reach == "state":
            continue  # of a primitive in Python: not given in a call
        if item.type is not None and item.type.reach == "element" and item.type.axes:
            type = s.TypeExpr("model", item.type.axes)
            body.append(s.Declare("loss", (s.Slot("probe_loss", type),)))
        elif item.type is not None and item.type.reach == "objective":
            own = s.TypeExpr("model", item.type.axes) if item.type.axes else None
            body.append(s.Declare("loss", (s.Slot(item.name, own),)))
            arguments.append(s.Argument("", s.Name(item.name)))
        elif supplied(item, tree.kind) == "" and item.type is not None and item.type.axes:
            body.append(s.Declare("input", (s.Slot(item.name, item.type),)))
            arguments.append(s.Argument("", s.Name(item.name)))
        elif supplied(item, tree.kind) == "":
            arguments.append(s.Argument("", s.Name("w") if _like_w(item) else _NUMBER))
    names = {i.name for i in tree.inputs}
    if names & {"loss", "grad"} and any(isinstance(b, s.Declare) for b in body):
        body.append(s.Declare("loss", (s.Slot("main"),)))
        body.append(s.Bind(("loss",), s.Name("main")))
    required = [o for o in tree.options if o.default is None]
    arguments += [s.Argument(o.name, _VALUES.get(o.bound, _NUMBER)) for o in required]
    call = s.Call(s.Name(tree.name, span=tree.span), tuple(arguments), span=tree.span)
    if tree.kind == "stepsize":
        body.append(s.Step("step", call, span=tree.span))
    elif tree.kind == "monitor":
        body.append(s.Step(tree.kind, call, span=tree.span))
        body.append(s.Write((s.Name("w"),), (s.Binary("*", s.Name("w"), _NUMBER),)))
    else:
        body.append(s.Step(tree.kind, call, span=tree.span))
        body.append(s.Step("step", _NUMBER, span=tree.span))
    return s.Rule(tree.name, (), tuple(body), workers=True, span=tree.span)
