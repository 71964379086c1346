"""Where in a settings file a mistake lies."""

import pytest

from connectivity import yaml_document, yaml_lines
from connectivity.settings import SettingsError
from connectivity.yaml_document import Section


def located(content: str) -> list[str]:
    """What is said of a file with a list of things and a mapping."""

    def read(top: Section, problems: list[str]) -> None:
        for path, item in top.items("things", "mappings"):
            section = Section(path, item, problems)
            section.required("name", yaml_document.name, "a name")
            section.each("ports", yaml_document.name, "names")
            section.finish()
        top.optional("limits", yaml_document.text, None)
        top.finish()

    try:
        yaml_document.parse_settings(content, "things", "a.yaml", read)
    except SettingsError as error:
        return [line.split(": ")[0] for line in yaml_lines.locate(content, "a.yaml", error.problems)]
    raise AssertionError("nothing was wrong with it")


@pytest.mark.parametrize(
    ("content", "places"),
    [
        ("things:\n  - name: 1\n  - name: a\n    ports:\n      - b\n      - 2\n", ["a.yaml:2", "a.yaml:6"]),
        ("things:\n\n  - ports: []\n", ["a.yaml:3"]),
        ("limits: 1\nother: 1\nthings: 1\n", ["a.yaml:1", "a.yaml:2", "a.yaml:3"]),
        ("things: [\n1", ["a.yaml:2:2"]),
        ("- a\n", ["a.yaml"]),
        ("things:\n  - &x {name: 1}\n  - *x\n", ["a.yaml:2", "a.yaml:2"]),
        ("things: &x [*x]\n", ["a.yaml:1", "a.yaml:1"]),
        ("thing: 1\nthings2: 1\n", ["a.yaml:1", "a.yaml:2"]),
    ],
    ids=["list", "missing", "top", "syntax", "no mapping", "alias", "alias of itself", "beginning of another key"],
)
def test_each_problem_has_the_line_of_its_path(content: str, places: list[str]) -> None:
    assert located(content) == places


def test_what_a_file_says_is_escaped() -> None:
    (line,) = yaml_lines.locate('"a\\e[31m": 1\n', "a.yaml", ["a\x1b[31m is not a known key"])
    assert "\x1b" not in line
    assert line.startswith("a.yaml:1: ")


def test_aliases_of_aliases_are_no_burden() -> None:
    lists = "\n".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12))
    content = f"a0: &a0 [x]\n{lists}\n"
    assert yaml_lines.locate(content, "a.yaml", ["a0[0] is x"]) == ["a.yaml:1: a0[0] is x"]
