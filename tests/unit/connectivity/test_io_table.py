"""Tables for people fit their screen, lose nothing, and are coloured only where that is wanted."""

import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectivity.io.table import Screen, counted, facts, in_place, table

WORDS = st.text(st.characters(categories=["L", "N", "P", "Z", "C"]), max_size=60)
ROWS = st.lists(st.tuples(WORDS, WORDS, WORDS, st.integers()), min_size=1, max_size=5)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def letters(text: str) -> str:
    return "".join(sorted(re.sub(r"\s", "", text)))


@given(rows=ROWS, width=st.integers(60, 200))
def test_no_line_is_longer_than_the_screen_and_nothing_is_lost(
    rows: list[tuple[str, str, str, int]], width: int
) -> None:
    header = ("NAME", "PATH", "WHAT ELSE", "COUNT")
    shown = table(header, rows, "", right={3}, screen=Screen(width))
    assert all(len(line) <= width and line.isprintable() for line in shown.split("\n"))
    endless = table(header, rows, "", screen=Screen(10_000))
    assert len(endless.split("\n")) == len(rows) + 1
    assert letters(shown) == letters(endless)


def test_words_are_broken_last() -> None:
    shown = table(("NAME", "PATH"), [["laptop", "direct 203.0.113.20"]], "", screen=Screen(20))
    assert shown.split("\n") == ["NAME    PATH", "laptop  direct", "        203.0.113.20"]
    assert facts([("portal", "away for 3 s")], Screen(16)).split("\n") == ["portal  away for", "        3 s"]


def test_long_words_are_broken_behind_what_parts_them_and_numbers_last() -> None:
    row = ["[2001:db8::1:2:3]:65535", "ab" * 12, "123.46 GB"]
    shown = table(("CLIENT", "USER", "TO PEERS"), [row], "", right={2}, screen=Screen(46))
    assert shown.split("\n") == [
        "CLIENT            USER                TO PEERS",
        "[2001:db8::1:2:   ababababababababa  123.46 GB",
        "3]:65535          bababab",
    ]
    assert [counted(number, "user") for number in (0, 1, 2, 2000)] == ["0 users", "1 user", "2 users", "2,000 users"]
    assert counted(2, "party", "parties") == "2 parties"


@pytest.mark.parametrize(
    ("stream", "environment", "coloured"),
    [
        (Terminal(), {}, True),
        (Terminal(), {"NO_COLOR": ""}, True),
        (Terminal(), {"NO_COLOR": "1"}, False),
        (Terminal(), {"TERM": "dumb"}, False),
        (io.StringIO(), {}, False),
    ],
)
def test_colours_are_for_terminals_whose_people_want_them(
    stream: io.StringIO, environment: dict[str, str], coloured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_COLOR", "TERM", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    screen = Screen.of(stream)
    assert screen == Screen(80, coloured)
    shown = table(("NAME", "STATE"), [["connected", "away"], ["b", "odd"]], "", screen=screen)
    assert ("\x1b[31maway\x1b[0m" in shown) == coloured
    assert re.sub(r"\x1b\[\d+m", "", shown) == "NAME       STATE\nconnected  away\nb          odd"


def test_a_screen_is_as_wide_as_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "132")
    assert Screen.of(io.StringIO()).width == 132


def shown_on(terminal_lines: int, frames: list[str]) -> list[str]:
    """What a terminal shows that understands the four sequences that are used, and scrolls as terminals do."""
    screen, row = ["old"] * terminal_lines, terminal_lines - 1
    for part in re.findall(r"\x1b\[[HKJ]|\n|[^\x1b\n]+", "".join(frames)):
        if part == "\x1b[H":
            row = 0
        elif part == "\x1b[J":
            screen[row:] = [""] * (terminal_lines - row)
        elif part == "\n":
            row += 1
            if row == terminal_lines:
                screen, row = [*screen[1:], ""], row - 1
        elif part != "\x1b[K":
            screen[row] = part
    return screen


def test_what_is_watched_stays_in_place_however_long_it_is() -> None:
    long, short = "\n".join(f"line {number}" for number in range(20)), "a\nb"
    assert shown_on(6, [in_place(long, 6)] * 3) == [
        *(f"line {number}" for number in range(4)),
        "… 16 more lines, for which this terminal has no room",
        "",
    ]
    assert shown_on(6, [in_place(long, 6), in_place(short, 6)]) == ["a", "b", "", "", "", ""]
