"""Walks a parsed YAML document and collects every problem with its path, value and expectation.

A parser is a function from a YAML value to what is wanted; it raises ValueError whose text is the expectation.
"""

import datetime
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import yaml
from yaml.reader import ReaderError

from connectivity.networks import read_networks
from connectivity.ranges import Network
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


def others_may_read(path: Path) -> bool:
    """Whether the mode of a file lets every user of the host read it; False for one that has gone meanwhile."""
    try:
        return bool(path.stat().st_mode & stat.S_IROTH)
    except OSError:
        return False


def remedy(path: Path) -> str:
    """What keeps others from reading a file, and us not."""
    return f"chown {os.geteuid()} {path}; chmod 600 {path}"


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

    A value that YAML itself cannot make sense of is there as ``Unreadable``, for whoever asks for it.

    Raises:
        DocumentError: a syntax error, a key given twice, or a top that is no mapping. One line.
    """
    try:
        value = yaml.load(text, Loader=_StrictLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise DocumentError(f"{where}{_problem(error)}") from None
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise DocumentError(f"line {line}: a character that YAML does not allow") from None
    except RecursionError:
        raise DocumentError("mappings and lists are nested too deeply") from None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise DocumentError(f"expected a mapping at the top, with {contents}")
    return value


def _problem(error: yaml.MarkedYAMLError) -> str:
    """What YAML says, but for where it quotes what may be a password that begins with such a character."""
    said = str(error.problem)
    if said.startswith("found undefined alias"):
        return "found an alias without its anchor (a text that begins with * needs quotes)"
    if said.startswith("found undefined tag handle"):
        return "found a tag that is not known (a text that begins with ! needs quotes)"
    return said


class Unreadable:
    """A value that looks like a date or the like and is none, as it is written."""

    __slots__ = ("_line", "_text")

    def __init__(self, text: str, line: int) -> None:
        self._text = text
        self._line = line

    def __str__(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return f"{self._text!r}{self.where}"

    @property
    def where(self) -> str:
        """The line, for a message."""
        return f" on line {self._line}"


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
                parsed.append(_read(item, parse))
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
            return _read(value, parse)
        except ValueError as error:
            self._problems.append(f"{self.at(key)} is {_shown(key, value)}: {error}")
            return fallback


def _read(value: Any, parse: Callable[[Any], T]) -> T:
    found = parse(value)
    if isinstance(value, Unreadable):  # and a parser that takes anything
        raise ValueError("expected a value that YAML can read (a text in quotes always is one)")
    return found


def _shown(key: str, value: object) -> str:
    return hide(value) if key in _SECRETS else show(value)


def hide(value: object) -> str:
    """What a message has in place of a secret."""
    return f"(hidden){value.where if isinstance(value, Unreadable) else ''}"


def show(value: object) -> str:
    """A value as a message quotes it."""
    if isinstance(value, Unreadable):
        return f"{show(str(value))}{value.where}"
    text = repr(str(value) if isinstance(value, datetime.date) else value)
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


def network(value: object) -> Network:
    """An address, or a range of them."""
    (found,) = read_networks([text(value)])
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
    """SafeLoader that refuses a key given twice, where PyYAML would silently keep the last.

    One value that cannot be read does not hide what is wrong with the others.
    """

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (yaml.YAMLError, ValueError, OverflowError, LookupError, AttributeError):
            if not isinstance(node, yaml.ScalarNode):
                raise
            # By a tag or by its looks it is something that PyYAML then fails to make of it, in many ways.
            self.recursive_objects.pop(node, None)
            value = self.constructed_objects[node] = Unreadable(str(node.value), node.start_mark.line + 1)
            return value

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys: list[str] = []
        for key_node, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            key = getattr(key_node, "value", None)
            if isinstance(key, str):
                if key in keys:
                    raise yaml.MarkedYAMLError(problem=f"key {key!r} is given twice", problem_mark=key_node.start_mark)
                keys.append(key)
        return super().construct_mapping(node, deep)
