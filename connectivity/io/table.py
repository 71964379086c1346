"""Tables for people, in lines that fit: columns are as wide as their widest cell; what would not fit goes on below.

Whatever a portal or a peer chose is escaped here. Colours come only where a terminal shows them and nobody has set
``NO_COLOR``; they say nothing that the words do not say.
"""

import os
import shutil
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TextIO

from connectivity.printable import printable

NONE: Final = "-"
_BREAKS: Final = ":.@/_-"  # where a word that is too long is broken rather than elsewhere
WIDTH: Final = 80  # where there is no terminal
_NARROWEST: Final = 8  # of a column whose words are broken
_GAP: Final = "  "
_BOLD, _GREEN, _YELLOW, _RED, _PLAIN = "\x1b[1m", "\x1b[32m", "\x1b[33m", "\x1b[31m", "\x1b[0m"
_HOME, _CLEAR_LINE, _CLEAR_BELOW = "\x1b[H", "\x1b[K", "\x1b[J"
_COLOURS: Final = {
    **dict.fromkeys(("connected", "joined", "native", "online", "ready", "verified"), _GREEN),
    **dict.fromkeys(("connecting", "draining", "generic", "idle", "loading", "silent", "unverified"), _YELLOW),
    **dict.fromkeys(("absent", "away", "failed", "off", "offline", "swallows"), _RED),
}


@dataclass(frozen=True, slots=True)
class Screen:
    """Where a table is shown."""

    width: int = WIDTH
    colours: bool = False

    @classmethod
    def of(cls, stream: TextIO) -> "Screen":
        """The screen behind a stream: as wide as it says, or as ``COLUMNS`` says; 80 columns where nothing says it."""
        can = stream.isatty() and os.environ.get("TERM") != "dumb" and not os.environ.get("NO_COLOR")
        return cls(shutil.get_terminal_size((WIDTH, 24)).columns, can)

    def bold(self, text: str) -> str:
        """A heading."""
        return f"{_BOLD}{text}{_PLAIN}" if self.colours else text

    def state(self, text: str, word: str | None = None) -> str:
        """A state in its colour, if it has one; ``word`` is the state that the text is about."""
        colour = _COLOURS.get(text if word is None else word) if self.colours else None
        return text if colour is None else f"{colour}{text}{_PLAIN}"


def table(
    header: Sequence[str],
    rows: Iterable[Sequence[object]],
    nothing: str,
    *,
    right: Collection[int] = (),
    screen: Screen | None = None,
) -> str:
    """The rows below their header; ``nothing`` where there are none. ``right`` are numbers, broken last."""
    screen = screen or Screen()
    cells = [[NONE if cell is None else printable(str(cell)) for cell in row] for row in rows]
    if not cells:
        return nothing
    widths = _widths([header, *cells], screen.width, right)
    lines = [screen.bold(line) for line in _lines(header, widths, right, Screen())]
    for row in cells:
        lines += _lines(row, widths, right, screen)
    return "\n".join(lines)


def facts(rows: Iterable[tuple[str, str]], screen: Screen | None = None) -> str:
    """Pairs of a name and what is to be said of it, without a header."""
    screen = screen or Screen()
    cells = [[name, printable(text)] for name, text in rows]
    widths = _widths(cells, screen.width)
    return "\n".join(line for row in cells for line in _lines(row, widths, (), screen))


def paragraph(text: str, screen: Screen, first: str = "", below: str = "") -> str:
    """A sentence in lines that fit, the first behind ``first``, the others behind ``below``."""
    lines = _wrap(printable(text), screen.width - max(len(first), len(below)))
    return "\n".join(f"{below if number else first}{line}" for number, line in enumerate(lines))


def in_place(text: str, height: int) -> str:
    """What makes a terminal of so many lines show this and nothing else, without a flicker or a scroll."""
    lines = text.splitlines()
    if len(lines) >= height:
        kept = max(0, height - 2)
        more = counted(len(lines) - kept, "more line")
        lines = [*lines[:kept], f"… {more}, for which this terminal has no room"]
    return "".join((_HOME, *(f"{line}{_CLEAR_LINE}\n" for line in lines), _CLEAR_BELOW))


def counted(count: int, noun: str, plural: str = "") -> str:
    """``1 allocation``, ``2,000 allocations``."""
    return f"{count:,} {noun if count == 1 else plural or f'{noun}s'}"


def _widths(rows: Sequence[Sequence[str]], most: int, whole: Collection[int] = ()) -> list[int]:
    """How wide each column is: the widest ones give way, at first without breaking words; those kept whole last."""
    columns = list(zip(*rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    words = [max(len(word) for cell in column for word in cell.split() or [""]) for column in columns]
    for index in whole:  # their headings may be broken
        words[index] = max(words[index], *map(len, columns[index][1:]))
    narrow = [words[index] if index in whole else _NARROWEST for index in range(len(widths))]
    for least in (words, narrow, [_NARROWEST] * len(widths)):
        while sum(widths) + len(_GAP) * (len(widths) - 1) > most:
            giving = [index for index, width in enumerate(widths) if width > least[index]]
            if not giving:
                break
            widths[max(giving, key=widths.__getitem__)] -= 1
    return widths


def _lines(row: Sequence[str], widths: Sequence[int], right: Collection[int], screen: Screen) -> list[str]:
    wrapped = [_wrap(cell, width) for cell, width in zip(row, widths, strict=True)]
    height = max(map(len, wrapped))
    lines = []
    for number in range(height):
        parts = []
        for index, (pieces, width) in enumerate(zip(wrapped, widths, strict=True)):
            text = pieces[number] if number < len(pieces) else ""
            blank = " " * (width - len(text))
            shown = screen.state(text, row[index]) if text else text
            parts.append(blank + shown if index in right else shown + blank)
        lines.append(_GAP.join(parts).rstrip())
    return lines


def _wrap(text: str, width: int) -> list[str]:
    """In pieces no longer than ``width``: at spaces where there are some, long words behind what parts them."""
    pieces: list[str] = []
    line = ""
    for word in (part for whole in text.split() for part in _broken(whole, width)):
        if line and len(line) + 1 + len(word) > width:
            pieces.append(line)
            line = word
        else:
            line = f"{line} {word}" if line else word
    return [*pieces, line]


def _broken(word: str, width: int) -> Iterator[str]:
    while len(word) > width:
        at = max(word.rfind(mark, 0, width) for mark in _BREAKS) + 1
        at = at if at > width // 2 else width
        yield word[:at]
        word = word[at:]
    yield word
