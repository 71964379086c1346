"""Walks a parsed YAML document and collects every problem with its path, value and expectation.

A parser is a function from a YAML value to what is wanted; it raises ValueError whose text is the expectation.
"""

import datetime
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import yaml

from connectivity.settings import SettingsError

T = TypeVar("T")

_LONGEST_SHOWN: Final = 60
_SECRETS: Final = frozenset({"token", "secret", "users", "rest_secrets"})


class DocumentError(ValueError):
    """The text is no YAML mapping at all."""


def read_text(path: Path) -> str:
    """The text of a settings file.

    Raises:
        SettingsError: it cannot be read, or is no text.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError([f"cannot read {path}: {reason(error)}"]) from None


def reason(error: OSError | UnicodeDecodeError) -> str:
    """Why a text file could not be read, in a few words."""
    if isinstance(error, PermissionError):
        return f"{error.strerror}: expected a file that user {os.geteuid()} may read"
    return error.strerror or str(error) if isinstance(error, OSError) else "not UTF-8 text"


def parse_settings(content: str, contents: str, label: str, read: Callable[["Section", list[str]], T]) -> T:
    """What ``read`` makes of the top of a settings file; it may add to the problems that the sections note.

    Raises:
        SettingsError: all that is wrong with it, in one line that begins with ``label``.
    """
    problems: list[str] = []
    try:
        top = Section("", load_document(content, contents), problems)
    except DocumentError as error:
        raise SettingsError([f"{label}: {error}"]) from None
    found = read(top, problems)
    if problems:
        raise SettingsError([f"{label}: {problems[0]}", *problems[1:]])
    return found


def load_document(text: str, contents: str) -> dict[str, Any]:
    """Parse YAML text whose top is a mapping with ``contents``; an empty text is an empty mapping.

    Raises:
        DocumentError: a syntax error, a key given twice, or a top that is no mapping. One line.
    """
    try:
        value = yaml.load(text, Loader=_StrictLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise DocumentError(f"{where}{error.problem}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise DocumentError(" ".join(str(error).split())) from None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise DocumentError(f"expected a mapping at the top, with {contents}")
    return value


class Section:
    """One mapping of the document; remembers which keys were asked for, so that the others are problems."""

    def __init__(self, path: str, value: object, problems: list[str]) -> None:
        self.path = path
        self._problems = problems
        self._known: list[str] = []
        self._values: Mapping[str, Any] = {}
        if isinstance(value, dict):
            self._values = {str(key): item for key, item in value.items()}
        else:
            problems.append(f"{path} is {show(value)}: expected a mapping")

    def has(self, key: str) -> bool:
        """Whether the key is given, and not as null."""
        return self._values.get(key) is not None

    def is_mapping(self, key: str) -> bool:
        """Whether the key is given, and as a mapping."""
        return isinstance(self._values.get(key), dict)

    def required(self, key: str, parse: Callable[[Any], T], expectation: str) -> T | None:
        """A value that must be there; None stands for a problem that is already noted."""
        self._known.append(key)
        if self._values.get(key) is None:
            self._problems.append(f"{self.at(key)} is missing: expected {expectation}")
            return None
        return self._parse(key, parse, cast(T, None))

    def optional(self, key: str, parse: Callable[[Any], T], default: T) -> T:
        """A value or its default."""
        self._known.append(key)
        return default if self._values.get(key) is None else self._parse(key, parse, default)

    def items(self, key: str, what: str) -> list[tuple[str, Any]]:
        """The elements of a list with the path of each; no key, no elements."""
        self._known.append(key)
        value = self._values.get(key)
        if value is None:
            return []
        if not isinstance(value, list):
            self._problems.append(f"{self.at(key)} is {_shown(key, value)}: expected a list of {what}")
            return []
        return [(f"{self.at(key)}[{index}]", item) for index, item in enumerate(value)]

    def each(self, key: str, parse: Callable[[Any], T], what: str) -> list[T]:
        """The parsed elements of a list; a faulty one is noted and left out."""
        parsed = []
        for path, item in self.items(key, what):
            try:
                parsed.append(parse(item))
            except ValueError as error:
                self._problems.append(f"{path} is {_shown(key, item)}: {error}")
        return parsed

    def problem(self, key: str, value: object, expectation: str) -> None:
        """Note a problem that only the caller can see."""
        self._problems.append(f"{self.at(key)} is {show(value)}: {expectation}")

    def say(self, text: str) -> None:
        """Note a problem of the whole mapping."""
        self._problems.append(f"{self.path} {text}")

    def finish(self) -> None:
        """Note the keys that nobody asked for."""
        for key in self._values:
            if key not in self._known:
                self._problems.append(f"{self.at(key)} is not a known key: expected {', '.join(self._known)}")

    def at(self, key: str) -> str:
        """The path of a key."""
        return f"{self.path}.{key}" if self.path else key

    def _parse(self, key: str, parse: Callable[[Any], T], fallback: T) -> T:
        value = self._values[key]
        try:
            return parse(value)
        except ValueError as error:
            self._problems.append(f"{self.at(key)} is {_shown(key, value)}: {error}")
            return fallback


def _shown(key: str, value: object) -> str:
    return "(hidden)" if key in _SECRETS else show(value)


def show(value: object) -> str:
    """A value as a message quotes it."""
    text = repr(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…"


def text(value: object) -> str:
    """A non-empty text. YAML turns some words and all numbers into something else unless they are quoted."""
    if not isinstance(value, str):
        raise ValueError("expected a text (in quotes where YAML would read a number or a boolean)")
    if not value.strip():
        raise ValueError("expected a text that is not empty")
    return value


def name(value: object) -> str:
    """A text of 1 to 255 characters."""
    found = text(value)
    if len(found) > 255:
        raise ValueError("expected at most 255 characters")
    return found


def time(value: object) -> int:
    """A point in time as whole seconds since the epoch; without a time zone it is UTC."""
    expectation = "expected a time such as 2027-01-31T12:00:00Z"
    if isinstance(value, str):
        try:
            value = datetime.datetime.fromisoformat(value)
        except ValueError:
            raise ValueError(expectation) from None
    if isinstance(value, bool) or not isinstance(value, (datetime.date, int)):
        raise ValueError(expectation)
    if isinstance(value, int):
        if not 0 < value < 1 << 40:
            raise ValueError(expectation)
        return value
    if not isinstance(value, datetime.datetime):
        value = datetime.datetime.combine(value, datetime.time())
    if value.tzinfo is None:
        value = value.replace(tzinfo=datetime.UTC)
    return int(value.timestamp())


def duplicates(names: Sequence[str]) -> list[str]:
    """The names that occur more than once, in the order of their second occurrence."""
    seen: set[str] = set()
    twice: list[str] = []
    for entry in names:
        if entry in seen and entry not in twice:
            twice.append(entry)
        seen.add(entry)
    return twice


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice, where PyYAML would silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys: list[str] = []
        for key_node, _ in node.value:
            key = getattr(key_node, "value", None)
            if isinstance(key, str):
                if key in keys:
                    raise yaml.MarkedYAMLError(problem=f"key {key!r} is given twice", problem_mark=key_node.start_mark)
                keys.append(key)
        return super().construct_mapping(node, deep)
