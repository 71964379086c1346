"""Settings files: what YAML cannot make sense of is named like any other mistake, and hides none."""

from pathlib import Path

import pytest

from connectivity import yaml_document
from connectivity.yaml_document import DocumentError, Section


@pytest.mark.parametrize(
    "scalar",
    [
        "2026-13-01",
        "2026-02-30",
        "2026-01-31T25:00:00Z",
        "2026-01-31T00:00:00+99:00",
        "=",
        "!!int x",
        "!!int ''",
        "!!int 0o8",
        "!!float x",
        "!!bool maybe",
        "!!timestamp soon",
        "!!binary x",
        "!secret x",
        "!!python/object:os.system x",
        "0b_",
        "9" * 5000,
    ],
)
def test_a_scalar_that_yaml_cannot_read_has_its_path_and_line(scalar: str) -> None:
    found = problems(f"other: 1\nname: {scalar}\nlist: [a, {scalar}]\n")
    assert len(found) == 3
    assert found[0] == "other is 1: expected a text (in quotes where YAML would read a number or a boolean)"
    for problem, path, line in zip(found[1:], ("name", "list[1]"), (2, 3), strict=True):
        assert problem.startswith(f"{path} is '")
        assert problem.endswith(
            f" on line {line}: expected a text (in quotes where YAML would read a number or a boolean)"
        )


def test_a_secret_that_yaml_cannot_read_is_hidden() -> None:
    assert problems("token: !hunter2 x") == [
        "token is (hidden) on line 1: expected a text (in quotes where YAML would read a number or a boolean)"
    ]


def test_a_parser_that_takes_anything_does_not_get_away_with_it() -> None:
    found: list[str] = []
    top = Section("", yaml_document.load_document("name: =", "keys"), found)
    assert top.optional("name", str, "default") == "default"
    assert found == ["name is '=' on line 1: expected a value that YAML can read (a text in quotes always is one)"]


def test_an_alias_of_a_scalar_that_yaml_cannot_read() -> None:
    assert len(problems("name: &it 2026-13-01\nother: *it\n")) == 2


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("name: a\nname: b", "line 2, column 1: key 'name' is given twice"),
        (
            "name: *hunter2",
            "line 1, column 7: found an alias without its anchor (a text that begins with * needs quotes)",
        ),
        (
            "name: !hunter!2",
            "line 1, column 7: found a tag that is not known (a text that begins with ! needs quotes)",
        ),
        ("name: a\nother: \x01", "line 2: a character that YAML does not allow"),
        ("name: " + "[" * 5000, "mappings and lists are nested too deeply"),
        ("name: !!map x", "line 1, column 7: expected a mapping node, but found scalar"),
        ("name: !!seq x", "line 1, column 7: expected a sequence node, but found scalar"),
        ("? [a]\n: b", "line 1, column 3: found unhashable key"),
        ("[a]", "expected a mapping at the top, with keys"),
    ],
)
def test_what_is_wrong_with_the_whole_has_its_line(text: str, problem: str) -> None:
    with pytest.raises(DocumentError) as raised:
        yaml_document.load_document(text, "keys")
    assert str(raised.value) == problem


def test_a_date_is_shown_as_it_is_written() -> None:
    assert problems("name: 2026-12-31")[0].startswith("name is '2026-12-31': expected a text")


def problems(text: str) -> list[str]:
    found: list[str] = []
    top = Section("", yaml_document.load_document(text, "keys"), found)
    for key in ("other", "name", "token"):
        top.optional(key, yaml_document.text, "")
    top.each("list", yaml_document.text, "texts")
    top.finish()
    return found


def test_a_file_that_has_gone_is_read_by_nobody(tmp_path: Path) -> None:
    assert not yaml_document.others_may_read(tmp_path / "gone")
