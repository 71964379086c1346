"""``--check FILE``: all that is wrong with the YAML file of a service, each with its line, and what is unwise in it."""

from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from connectivity import yaml_document, yaml_lines
from connectivity.settings import SettingsError

MISTAKEN: Final = 2

T = TypeVar("T")


def check(path: Path, load: Callable[[Path], T], advise: Callable[[Path, T], None]) -> int:
    """Look at the file as its service would, and print what was found; ``advise`` logs what is unwise.

    Returns:
        The exit code: 0, or 2 if anything is wrong.

    Raises:
        SettingsError: the file cannot be read.
    """
    content = yaml_document.read_text(path)
    try:
        configuration = load(path)
    except SettingsError as error:
        print(*yaml_lines.locate(content, str(path), error.problems), sep="\n")
        return MISTAKEN
    advise(path, configuration)
    print(f"{path}: no mistake found")
    return 0
