"""What others chose, as a person may read it."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectivity.printable import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("alice", "alice"),
        ("Zoë 漢字 🙂", "Zoë 漢字 🙂"),
        ("\x1b[2Jalice\r\nbob", "\\x1b[2Jalice\\x0d\\x0abob"),
        ("a\x7f\x9b", "a\\x7f\\x9b"),
        ("user\u202egnp.exe", "user\\u202egnp.exe"),
        ("admin\u200b\u2066", "admin\\u200b\\u2066"),
        ("\u2028\u00a0\u00ad", "\\u2028\\xa0\\xad"),
        ("\ud800", "\\ud800"),
        ("\U000e0041", "\\U000e0041"),
    ],
)
def test_what_has_no_glyph_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(st.text(st.characters(codec=None)))
def test_nothing_that_moves_or_hides_remains(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    shown.encode()
    assert not {unicodedata.category(character) for character in shown} & {"Cc", "Cf", "Cs", "Zl", "Zp"}
    assert printable(shown) == shown
