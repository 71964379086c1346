"""Writes the table of values in the chart's README from the comments of ``values.yaml``: ``python charts/readme.py``.

A value is documented by the ``# --`` comment right above it; one that has such a comment and values of its own is one
row. A value without any comment is an error, so that none is forgotten.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import yaml

CHART: Final = Path(__file__).parent / "postern"
BEGIN: Final = "<!-- values: written by charts/readme.py -->\n"
END: Final = "<!-- end of values -->\n"
_MARK: Final = "# -- "


class Row(NamedTuple):
    """One documented value."""

    path: str
    default: str
    text: str


def rows(text: str) -> list[Row]:
    """What a values file documents, in its order.

    Raises:
        ValueError: a value has no comment.
    """
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    assert isinstance(root, yaml.MappingNode)
    return list(_walk(root, text.splitlines(), ""))


def table(found: list[Row]) -> str:
    """The rows in Markdown."""
    lines = ["| value | default | meaning |", "|---|---|---|"]
    lines += [f"| `{row.path}` | `{row.default}` | {row.text} |" for row in found]
    return "\n".join(line.replace("\\", "\\\\") for line in lines) + "\n"


def render(readme: str, values: str) -> str:
    """The README with the table as it should be."""
    before, rest = readme.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{table(rows(values))}\n{END}{after}"


def _walk(mapping: yaml.MappingNode, lines: list[str], prefix: str) -> Iterator[Row]:
    for key, value in mapping.value:
        path = f"{prefix}{key.value}"
        text = _comment(lines, key.start_mark.line)
        if text:
            yield Row(path, json.dumps(_plain(value), ensure_ascii=False), text)
        elif isinstance(value, yaml.MappingNode) and value.value:
            yield from _walk(value, lines, f"{path}.")
        else:
            raise ValueError(f"{path} has no comment that begins with {_MARK.strip()}")


def _comment(lines: list[str], line: int) -> str:
    """The comment that ends right above a line, if it is documentation."""
    found: list[str] = []
    while line > 0 and lines[line - 1].lstrip().startswith("#"):
        line -= 1
        comment = lines[line].strip()
        if comment.startswith(_MARK):
            return " ".join([comment.removeprefix(_MARK), *found])
        found.insert(0, comment.removeprefix("#").strip())
    return ""


def _plain(node: yaml.Node) -> object:
    return yaml.safe_load(yaml.serialize(node))


def main() -> None:
    """Write the README anew."""
    path = CHART / "README.md"
    path.write_text(render(path.read_text(encoding="utf-8"), (CHART / "values.yaml").read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
