"""No file and no function is longer than a reader holds in mind (CONTRIBUTING.md): what grows beyond that is split."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.documented import ROOT

MOST_LINES: Final = {".py": 400, ".c": 400, ".h": 300}
MOST_LINES_OF_A_FUNCTION: Final = 60


def sources(folder: Path = ROOT) -> Iterator[Path]:
    """What people write: nothing of a virtual environment, a cache or a build."""
    for entry in sorted(folder.iterdir()):
        if entry.is_dir() and not entry.name.startswith(".") and entry.name not in {"built", "build", "__pycache__"}:
            yield from sources(entry)
        elif entry.suffix in MOST_LINES and entry.is_file():
            yield entry


def test_no_file_is_too_long() -> None:
    lengths = {path: len(path.read_bytes().splitlines()) for path in sources()}
    assert {path.suffix for path in lengths} == set(MOST_LINES)
    too_long = {str(path.relative_to(ROOT)): n for path, n in lengths.items() if n > MOST_LINES[path.suffix]}
    assert too_long == {}, MOST_LINES


def test_no_function_is_too_long() -> None:
    """Outside of the tests, where a document that is expected as a whole may be longer."""
    too_long: dict[str, int] = {}
    for path in sources():
        name = path.relative_to(ROOT)
        if path.suffix == ".py" and name.parts[0] != "tests":
            for node in ast.walk(ast.parse(path.read_bytes())):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    lines = (node.end_lineno or node.lineno) - node.lineno + 1
                    if lines > MOST_LINES_OF_A_FUNCTION:
                        too_long[f"{name}:{node.name}"] = lines
    assert too_long == {}, MOST_LINES_OF_A_FUNCTION
