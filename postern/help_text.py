"""``--help`` of a command: how it is called, what excludes what, what most people need, then all the rest."""

import importlib
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from connectivity.settings import Declared, HelpRequested
from postern.synopses import SYNOPSES, Synopsis

WIDTH: Final = 80
_COLUMN: Final = 27  # as wide as the longest command
WITHOUT_EFFECT: Final = "accepted"


def usage(command: str) -> list[str]:
    """Each way to call it."""
    return [f"postern {command} {way}".rstrip() for way in SYNOPSES[command].usage]


def sections(command: str, declared: Sequence[Declared]) -> dict[str, list[Declared]]:
    """Its settings under their headings; none of these is empty."""
    first = SYNOPSES[command].first
    needed = sorted((entry for entry in declared if {entry.name, entry.flag} & {*first}), key=_rank(first))
    rest = [entry for entry in declared if entry not in needed]
    without = [entry for entry in rest if entry.help.startswith(WITHOUT_EFFECT)]
    found = {
        "What most need": needed,
        "All others" if needed else "Flags": [entry for entry in rest if entry not in without],
        "Accepted, without effect": without,
    }
    return {heading: entries for heading, entries in found.items() if entries}


def render(command: str, declared: Sequence[Declared]) -> str:
    """The text for a terminal."""
    synopsis: Synopsis = SYNOPSES[command]
    first, *others = usage(command)
    lines = [f"usage: {first}", *(f"       {way}" for way in others), "", synopsis.about]
    lines += [line for note in synopsis.notes for line in textwrap.wrap(note, WIDTH - 2, initial_indent="- ",
              subsequent_indent="  ", break_on_hyphens=False)]  # fmt: skip
    below = [name for name in SYNOPSES if name.startswith(f"{command} ")]
    if below:
        lines += ["", "Commands:", *(_row(f"postern {name}", SYNOPSES[name].about) for name in below)]
    for heading, entries in sections(command, declared).items():
        lines += ["", f"{heading}:"]
        for entry in entries:
            lines += _broken(f"  {title(entry)}")
            lines += textwrap.wrap(entry.help, WIDTH - 6, initial_indent="      ", subsequent_indent="      ",
                                   break_on_hyphens=False)  # fmt: skip
    return "\n".join(lines)


def _row(name: str, text: str) -> str:
    """A command and what it is, the latter in a column of its own."""
    return textwrap.fill(text, WIDTH, initial_indent=f"  {name:<{_COLUMN}} ", subsequent_indent=" " * (_COLUMN + 3))


def _broken(line: str) -> list[str]:
    """A line that is too wide in several: a default that is a long list has no spaces, but commas."""
    if len(line) <= WIDTH or " or " in line:
        return [line]
    lines, held = [], ""
    for part in line.replace(",", ",\n").split("\n"):
        if len(held) + len(part) > WIDTH:
            lines.append(held)
            held = "      "
        held += part
    return [*lines, held]


def title(entry: Declared) -> str:
    """Its names and its default."""
    names = " or ".join(part for part in (entry.flag, entry.name) if part)
    return f"{names} [{entry.default}]" if entry.default else names


def declared_by(command: str, modules: Mapping[str, str]) -> tuple[Declared, ...]:
    """What a command says that it knows, asked as a person would; ``modules`` has those of first words."""
    first, *rest = command.split()
    try:
        importlib.import_module(modules[first]).run([*rest, "--help"])
    except HelpRequested as answer:
        return answer.declared
    raise AssertionError(f"postern {command} has no --help")


def _rank(order: Sequence[str]) -> Callable[[Declared], int]:
    """Orders settings as a list names them."""
    return lambda entry: min(order.index(name) for name in (entry.name, entry.flag) if name in order)
