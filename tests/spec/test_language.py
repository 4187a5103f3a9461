"""The reference is true: its examples parse, it has every word, the schema fits the YAML form."""

from __future__ import annotations

import json
import re
from importlib.resources import files
from typing import Any

import pytest
import yaml

from optc.compiler.bounds import BOUNDS
from optc.compiler.builtins import BUILTINS
from optc.compiler.builtins.constants import CONSTANTS
from optc.compiler.builtins.metadata import METAS
from optc.compiler.format import to_opt
from optc.compiler.layout import INFIX_WORDS, LINE_WORDS
from optc.compiler.parse import parse
from optc.compiler.source import CompileError, Source
from optc.compiler.yaml_form import ITEM_KEYS, parse_yaml, to_yaml
from optc.compiler.yaml_statements import STATEMENT_KEYS
from optc.tests.compiler.texts import TEXTS

LANGUAGE = (files("optc.spec") / "LANGUAGE.md").read_text(encoding="utf-8")
SCHEMA = json.loads((files("optc.spec") / "schema.json").read_text(encoding="utf-8"))
SECTIONS = re.split(r"^## ", LANGUAGE, flags=re.MULTILINE)[1:]


def fences(language: str) -> list[Any]:
    found = []
    for section in SECTIONS:
        title = section.splitlines()[0]
        for text in re.findall(rf"^```{language}\n(.*?)^```", section, re.MULTILINE | re.DOTALL):
            found.append(pytest.param(text, id=title))
    return found


@pytest.mark.parametrize("text", fences("opt"))
def test_the_examples_parse_and_are_formatted(text: str) -> None:
    assert to_opt(parse(Source("LANGUAGE.md", text))) == text


@pytest.mark.parametrize("text", fences("yaml"))
def test_the_yaml_examples_parse(text: str) -> None:
    file = parse_yaml(Source("LANGUAGE.md", text))
    assert parse(Source("t.opt", to_opt(file))) == file


@pytest.mark.parametrize("section", SECTIONS, ids=[s.splitlines()[0] for s in SECTIONS])
def test_every_section_has_an_example(section: str) -> None:
    assert "```" in section


def test_every_word_is_in_the_reference() -> None:
    words = {*LINE_WORDS, *INFIX_WORDS}
    assert not {word for word in words if not re.search(rf"\b{word}\b", LANGUAGE)}


def test_every_built_in_name_is_in_its_table() -> None:
    (table,) = (x for x in SECTIONS if x.startswith("Functions"))
    names = {*BUILTINS, *CONSTANTS, *METAS}
    assert not {name for name in names if not re.search(rf"`{name}[`(]", table)}
    assert not {name for name in BOUNDS if f"`{name}`" not in LANGUAGE}


def leading_keys(definition: str) -> set[str]:
    return {next(iter(shape["properties"])) for shape in SCHEMA["$defs"][definition]["anyOf"]}


def test_the_schema_knows_every_key() -> None:
    assert leading_keys("statement") == set(STATEMENT_KEYS)
    assert leading_keys("item") == set(ITEM_KEYS)


@pytest.fixture(scope="module")
def validator() -> Any:
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed")
    return jsonschema.Draft202012Validator(SCHEMA)


def test_the_schema_accepts_what_is_written(validator: Any) -> None:
    written = [to_yaml(parse(Source(name, text))) for name, text in TEXTS.items() if text]
    for text in [*written, *(param.values[0] for param in fences("yaml"))]:
        errors = [error.message for error in validator.iter_errors(yaml.safe_load(text))]
        assert errors == [], text


def test_the_schema_refuses_what_the_form_refuses(validator: Any) -> None:
    for text in ("ruel: r", "rule: r\nsteps: [{setp: lr}]", "rule: r\nstep: 1"):
        with pytest.raises(CompileError):
            parse_yaml(Source("t.yaml", text))
        assert not validator.is_valid(yaml.safe_load(text))
