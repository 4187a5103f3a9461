"""Syntax to the YAML form: the nodes of the document, then their text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import yaml

from . import syntax as s
from .expression_text import text, type_text

Value = Any
"""Plain data: `Mapping`, `list`, `str`, and None."""


class _Dumper(yaml.SafeDumper):
    """Indents lists under their key, as people do."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def to_yaml(file: s.File) -> str:
    """The YAML form of a file."""
    if len(file.items) == 1 and not file.doc and not file.trailing:
        data = _item(file.items[0])
    else:
        data = {
            **_doc(file.doc),
            "items": [_item(item) for item in file.items],
            **({"trailing": list(file.trailing)} if file.trailing else {}),
        }
    result: str = yaml.serialize(
        _node(data), Dumper=_Dumper, allow_unicode=True, width=float("inf")
    )
    return result


def _node(value: Value) -> yaml.Node:
    """Data to nodes; a text that looks like a number stays as it was written."""
    if isinstance(value, Mapping):
        pairs = [(_node(key), _node(item)) for key, item in value.items()]
        return yaml.MappingNode("tag:yaml.org,2002:map", pairs, flow_style=not pairs)
    if isinstance(value, list):
        items = [_node(item) for item in value]
        return yaml.SequenceNode("tag:yaml.org,2002:seq", items, flow_style=_short(value))
    if value is None:
        return yaml.ScalarNode("tag:yaml.org,2002:null", "null")
    tag = yaml.resolver.Resolver().resolve(yaml.ScalarNode, value, (True, False))
    switch = tag.endswith(":bool") and value not in ("true", "false")  # a name such as `off`
    if switch or tag.endswith((":null", ":merge", ":value", ":timestamp")) or not value.isascii():
        tag = "tag:yaml.org,2002:str"
    return yaml.ScalarNode(tag, value, style="|" if "\n" in value else None)


def _short(items: list[Value]) -> bool:
    """Names fit on one line; statements and comments stand on their own."""
    return all(isinstance(item, str) and item.isidentifier() for item in items)


# Parts ----------------------------------------------------------------------------------------


def _doc(doc: str) -> dict[str, Value]:
    return {"doc": f"{doc}\n" if "\n" in doc else doc} if doc else {}


def _notes(stmt: s.Statement) -> dict[str, Value]:
    result: dict[str, Value] = {}
    if stmt.comments:
        result["comments"] = list(stmt.comments)
    if stmt.comment:
        result["comment"] = stmt.comment
    if stmt.after:
        result["after"] = list(stmt.after)
    return result


def _inputs(inputs: Sequence[s.Input]) -> dict[str, Value]:
    if not inputs:
        return {}
    if all(i.type is None for i in inputs):
        return {"inputs": [i.name for i in inputs]}
    return {"inputs": {i.name: type_text(i.type) if i.type else None for i in inputs}}


def _options(options: Sequence[s.Option]) -> dict[str, Value]:
    return {"options": {o.name: _option(o) for o in options}} if options else {}


def _option(option: s.Option) -> Value:
    default = text(option.default) if option.default is not None else None
    if not option.bound:
        return default
    return {"bound": option.bound, **({"default": default} if default is not None else {})}


def _optional(**parts: s.Expr | None) -> dict[str, Value]:
    return {key: text(expr) for key, expr in parts.items() if expr is not None}


def _block(key: str, stmts: Iterable[s.Statement]) -> dict[str, Value]:
    return {key: [_statement(stmt) for stmt in stmts]}


# Items ----------------------------------------------------------------------------------------


def _item(item: s.Statement) -> dict[str, Value]:
    return {**_ITEMS[type(item)](item), **_notes(item)}


def _rule(item: s.Rule) -> dict[str, Value]:
    return {
        "rule": item.name,
        **_doc(item.doc),
        **({"over": "workers"} if item.workers else {}),
        **_options(item.options),
        **_block("steps", item.body),
    }


def _primitive(item: s.Primitive) -> dict[str, Value]:
    return {
        item.kind: item.name,
        **_doc(item.doc),
        **_inputs(item.inputs),
        **_options(item.options),
        **({"returns": type_text(item.type)} if item.type else {}),
        **_block("steps", item.body),
        **({"checks": [_check(check) for check in item.checks]} if item.checks else {}),
    }


def _extern(item: s.Extern) -> dict[str, Value]:
    signature = {**_inputs(item.inputs), **_options(item.options)}
    return {"extern": item.name, **signature, "returns": type_text(item.type)}


def _bundle(item: s.Bundle) -> dict[str, Value]:
    plain = not any(_notes(m) for m in item.members)
    members: Value = (
        {", ".join(m.names): text(m.value) for m in item.members}
        if plain
        else [_statement(m) for m in item.members]
    )
    return {"bundle": item.name, **_doc(item.doc), **({"members": members} if members else {})}


def _schedule(item: s.Schedule) -> dict[str, Value]:
    return {"schedule": item.rule, **_doc(item.doc), **_block("steps", item.body)}


_ITEMS: dict[type, Callable[[Any], dict[str, Value]]] = {
    s.Rule: _rule,
    s.Primitive: _primitive,
    s.Extern: _extern,
    s.Bundle: _bundle,
    s.Use: lambda item: {"use": item.name},
    s.Schedule: _schedule,
}


# Statements -----------------------------------------------------------------------------------


def _statement(stmt: s.Statement) -> dict[str, Value]:
    return {**_STATEMENTS[type(stmt)](stmt), **_notes(stmt)}


def _declare(stmt: s.Declare) -> dict[str, Value]:
    bare = all(not s_.type and s_.value is None for s_ in stmt.slots)
    if bare and stmt.kind != "oracle":
        return {stmt.kind: [slot.name for slot in stmt.slots]}
    return {stmt.kind: {slot.name: _slot(slot, stmt.kind) for slot in stmt.slots}}


def _slot(slot: s.Slot, kind: str) -> Value:
    type = {"type": type_text(slot.type)} if slot.type else {}
    if kind == "oracle":
        return {"inputs": list(slot.parameters), **type}
    if slot.value is None:
        return type or None
    return {**type, "value": text(slot.value)} if type else text(slot.value)


def _write(stmt: s.Write) -> dict[str, Value]:
    pairs = zip(stmt.places, stmt.values, strict=True)
    written = {text(place): text(value) for place, value in pairs}
    return {"always" if stmt.always else "write": written}


def _step(stmt: s.Step) -> dict[str, Value]:
    alias = {"as": stmt.alias} if stmt.alias else {}
    return {stmt.kind: text(stmt.call), **alias, **_optional(when=stmt.when)}


def _outcome(stmt: s.Outcome) -> dict[str, Value]:
    if stmt.count is not None:
        return {stmt.kind: text(stmt.count), "when": text(stmt.when)}
    return {stmt.kind: text(stmt.when)}


def _for(stmt: s.For) -> dict[str, Value]:
    if stmt.other and not stmt.target:
        return _block("other", stmt.body)
    other = {"other": "true"} if stmt.other else {}
    return {
        "for": stmt.target,
        **other,
        **_optional(where=stmt.where),
        **_block("do", stmt.body),
    }


def _repeat(stmt: s.Repeat) -> dict[str, Value]:
    index = {"as": stmt.index} if stmt.index else {}
    head = {"repeat": text(stmt.count), **index, **_optional(until=stmt.until)}
    return {**head, **_block("do", stmt.body)}


def _orelse(stmt: s.If | s.Every) -> dict[str, Value]:
    return _block("else", stmt.orelse) if stmt.orelse else {}


def _paper(stmt: s.Paper) -> dict[str, Value]:
    address = {"address": stmt.address} if stmt.address else {}
    return address if address and not stmt.number else {"paper": str(stmt.number), **address}


_STATEMENTS: dict[type, Callable[[Any], dict[str, Value]]] = {
    s.Bind: lambda stmt: {"bind": {", ".join(stmt.names): text(stmt.value)}},
    s.Declare: _declare,
    s.Write: _write,
    s.Step: _step,
    s.Outcome: _outcome,
    s.Return: lambda stmt: {"return": text(stmt.value)},
    s.Eval: lambda stmt: {"eval": text(stmt.value)},
    s.Metric: lambda stmt: {"metric": {stmt.name: text(stmt.value)}},
    s.For: _for,
    s.Repeat: _repeat,
    s.Every: lambda stmt: {"every": text(stmt.period), **_block("do", stmt.body), **_orelse(stmt)},
    s.If: lambda stmt: {"if": text(stmt.condition), **_block("then", stmt.body), **_orelse(stmt)},
    s.Paper: _paper,
    s.Store: lambda stmt: {"store": {text(stmt.slot): text(stmt.format)}},
    s.Run: lambda stmt: {"run": text(stmt.how)},
}


# Checks ---------------------------------------------------------------------------------------


def _check(check: s.Check) -> dict[str, Value]:
    return {"check": check.name, "lines": [_check_line(li) for li in check.lines], **_notes(check)}


def _check_line(line: s.CheckLine) -> dict[str, Value]:
    given = {a.name: text(a.value) for a in line.inputs}
    return {
        **({"given": given} if given else {}),
        "gives": _gives(line.outputs),
        **_optional(within=line.within),
        **_notes(line),
    }


def _gives(outputs: Sequence[s.Argument]) -> Value:
    if len(outputs) == 1 and not outputs[0].name:
        return text(outputs[0].value)
    if all(output.name for output in outputs):
        return {output.name: text(output.value) for output in outputs}
    return [{o.name: text(o.value)} if o.name else text(o.value) for o in outputs]
