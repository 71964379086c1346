"""Says on which line of a YAML file each problem of it lies, as editors understand it: ``FILE:LINE: text``."""

import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Final

import yaml

from connectivity.printable import printable

_AT_LINE: Final = re.compile(r"line (\d+)(?:, column (\d+))?: ")
_DEEPEST: Final = 100
_MOST: Final = 100_000  # aliases of aliases grow without end


def locate(content: str, label: str, problems: Sequence[str]) -> list[str]:
    """The problems of ``parse_settings`` in the order of the text, each with the place that its path has there.

    What is missing is told at what it is missing in; what is nowhere has no line, and comes first.
    """
    lines = _lines(content)
    found = sorted((_located(problem.removeprefix(f"{label}: "), lines) for problem in problems), key=lambda it: it[0])
    return [printable(":".join(map(str, [label, *place])) + f": {problem}") for place, problem in found]


def _located(problem: str, lines: dict[str, int]) -> tuple[list[int], str]:
    """Line and column as far as they are known, and the rest."""
    if found := _AT_LINE.match(problem):
        return [int(part) for part in found.groups() if part], problem[found.end() :]
    path = max((path for path in lines if _is_about(problem, path)), key=len, default="")
    return [lines[path]] if path else [], problem


def _is_about(problem: str, path: str) -> bool:
    """Whether a problem begins with this path, or with one of what lies in it."""
    return problem.startswith(path) and not re.match(r"\w", problem[len(path) :])


def _lines(content: str) -> dict[str, int]:
    try:
        top = yaml.compose(content, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError):
        return {}
    return dict(itertools.islice(_walk(top, "", 0), _MOST))


def _walk(node: yaml.Node | None, path: str, depth: int) -> Iterator[tuple[str, int]]:
    """Paths as ``yaml_document`` writes them; an alias is walked where it stands, not for ever."""
    if depth > _DEEPEST:
        return
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            below = f"{path}.{key.value}" if path else str(key.value)
            yield below, key.start_mark.line + 1
            yield from _walk(value, below, depth + 1)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield f"{path}[{index}]", item.start_mark.line + 1
            yield from _walk(item, f"{path}[{index}]", depth + 1)
