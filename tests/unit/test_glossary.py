"""docs/glossary.md explains each field that is logged, and each warning says what to do."""

import ast
import logging
import re
from collections.abc import Iterator
from typing import Final

import pytest

from connectivity.io.logs import _Formatter, _JsonFormatter
from connectivity.io.remedies import REMEDIES
from tests.documented import ROOT

PACKAGES: Final = ("client", "gateway", "connectivity", "relay", "portal", "ebpf")
GLOSSARY: Final = (ROOT / "docs/glossary.md").read_text(encoding="utf-8")
# Whose text is made at run time, and says what to do itself.
TALKATIVE: Final = re.compile(r"Tunnel addresses and keys change with the next start: give ")


def trees() -> Iterator[ast.AST]:
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            yield from ast.walk(ast.parse(path.read_text(encoding="utf-8")))


def keys(node: ast.AST | None) -> Iterator[str]:
    match node:
        case ast.Dict(names, _):
            yield from (name.value for name in names if isinstance(name, ast.Constant) and isinstance(name.value, str))
        case ast.BinOp(left, _, right):
            yield from keys(left)
            yield from keys(right)
        case _:
            pass


def logged_fields() -> set[str]:
    """Keys of dictionaries that are called ``fields``, or stand behind that word."""
    found: set[str] = set()
    for node in trees():
        match node:
            case ast.Dict(names, values):
                for name, value in zip(names, values, strict=True):
                    if isinstance(name, ast.Constant) and name.value == "fields":
                        found |= set(keys(value))
            case ast.Assign([ast.Name("fields")], value) | ast.AnnAssign(ast.Name("fields"), _, value, _):
                found |= set(keys(value))
            case _:
                pass
    return found


def warnings() -> set[str]:
    """The constant messages of calls that warn."""
    return {
        node.args[0].value
        for node in trees()
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "warning"
        if node.args and isinstance(node.args[0], ast.Constant) and isinstance(node.args[0].value, str)
    }


def test_each_field_is_explained() -> None:
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", GLOSSARY, re.MULTILINE)
    explained = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert len(logged_fields()) > 80
    assert logged_fields() - explained == set()


def test_each_warning_has_a_remedy_and_each_remedy_is_in_the_glossary() -> None:
    found = warnings()
    assert len(found) > 50
    assert {message for message in found if not TALKATIVE.match(message)} - REMEDIES.keys() == set()
    rows = re.findall(r"^\| (.+?) \| (.+) \|$", GLOSSARY.partition("## Warnings")[2], re.MULTILINE)
    assert dict(rows[1:]) == REMEDIES


@pytest.mark.parametrize(("level", "said"), [(logging.WARNING, True), (logging.INFO, False)])
def test_a_warning_says_what_to_do_behind_its_facts(level: int, said: bool) -> None:
    record = logging.LogRecord("portal", level, "f", 1, "Wrong tokens", None, None)
    record.fields = {"count": 3}
    for formatter in (_Formatter(), _JsonFormatter()):
        assert (REMEDIES["Wrong tokens"] in formatter.format(record)) is said
    record.fields = {"remedy": "as I say"}
    assert REMEDIES["Wrong tokens"] not in _Formatter().format(record)
