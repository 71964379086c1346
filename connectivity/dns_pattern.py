"""Patterns of DNS resources: which names they match, and which of several comes first (gateway and client facts §9.6).

A pattern is matched label by label, without regard to case: ``?`` is one character, ``*`` any run of characters within
a label, ``**`` any number of labels, none included. A leading ``*.`` or ``**.`` also matches the bare parent. Time is
bounded by the product of both lengths, whatever a portal or a program puts there.
"""

from functools import lru_cache
from typing import Final, TypeAlias

Priority: TypeAlias = tuple[tuple[int, str], ...]

ANY_LABELS: Final = "**"
_REMEMBERED_PATTERNS: Final = 4096  # some hundred bytes each
_RANKS: Final = {"?": 1, "*": 2}  # literal characters are 0, "**" is 3


def matches(pattern: str, name: str) -> bool:
    """Whether a name, with or without its final dot, is one of the pattern's."""
    labels = name.removesuffix(".").lower().split(".")
    if not all(labels):
        return False
    parts = _parts(pattern)
    reached = {0}  # how many labels the parts so far may have taken
    for index, part in enumerate(parts):
        if part == ANY_LABELS:
            reached = set(range(min(reached), len(labels) + 1))
            continue
        behind = {taken + 1 for taken in reached if taken < len(labels) and _label_matches(part, labels[taken])}
        is_bare_parent = index == 0 and part == "*" and len(parts) > 1
        reached = behind | reached if is_bare_parent else behind
        if not reached:
            return False
    return len(labels) in reached


def priority(pattern: str) -> Priority:
    """A sort key: of several patterns that match a name, the one with the smallest key is meant.

    Compared from the right: literal characters come before ``?``, that before ``*``, that before ``**``; where one
    ends, the shorter.
    """
    key: list[tuple[int, str]] = []
    for label in reversed(_parts(pattern)):
        if label == ANY_LABELS:
            key.append((3, label))
        else:
            key += [(_RANKS.get(character, 0), character) for character in reversed(label)]
        key.append((0, "."))
    return tuple(key[:-1])


def is_pattern(text: str) -> bool:
    """Whether a text can be a pattern at all: no label of it is empty."""
    return all(text.removesuffix(".").split("."))


def literal_suffix(pattern: str) -> str:
    """The labels at its end that have no wildcard: every name that matches ends in them (or is them)."""
    literal: list[str] = []
    for label in reversed(_parts(pattern)):
        if "*" in label or "?" in label:
            break
        literal.insert(0, label)
    return ".".join(literal)


@lru_cache(maxsize=_REMEMBERED_PATTERNS)
def _parts(pattern: str) -> tuple[str, ...]:
    """Its labels, as names have them on the wire. A run of stars within a label is one."""
    return tuple(map(_normal_label, pattern.removesuffix(".").split(".")))


def _normal_label(label: str) -> str:
    if label == ANY_LABELS:
        return label
    while ANY_LABELS in label:
        label = label.replace(ANY_LABELS, "*")
    if label.isascii():
        return label.lower()
    try:
        return label.encode("idna").decode("ascii").lower()
    except UnicodeError:
        return label.lower()  # no name on the wire is like it


def _label_matches(part: str, label: str) -> bool:
    """Greedy, and back only to the last star: quadratic at worst."""
    at = taken = 0
    star, retry = -1, 0
    while taken < len(label):
        if at < len(part) and part[at] in ("?", label[taken]):
            at, taken = at + 1, taken + 1
        elif at < len(part) and part[at] == "*":
            star, retry = at, taken
            at += 1
        elif star >= 0:
            retry += 1
            at, taken = star + 1, retry
        else:
            return False
    return all(character == "*" for character in part[at:])
