"""What people see of allocations, whose names somebody else chose."""

import json
from typing import Any

from relay.admin import _COLUMNS, _document, _table

ODD = "\x1b[31mroot\x1b[0m\n50001  udp  \u202e\x7f\ud800"


def allocation(user: str) -> dict[str, Any]:
    return {**dict.fromkeys(_COLUMNS, 1), "user": user}


def test_a_name_cannot_forge_a_line_or_move_the_cursor() -> None:
    shown = _table([allocation("alice"), allocation(ODD)])
    header, *rows = shown.splitlines()
    assert len(rows) == 2
    assert all(row.isprintable() for row in (header, *rows))
    shown.encode()


def test_as_json_it_reads_back_and_shows_nothing_odd() -> None:
    shown = _document({"user": ODD})
    assert all(line.isprintable() and line.isascii() for line in shown.splitlines())
    assert json.loads(shown) == {"user": ODD}
