"""What people see of allocations, whose names somebody else chose."""

import json
from typing import Any

from relay.admin import _document, _table

ODD = "\x1b[31mroot\x1b[0m\n50001  udp  \u202e\x7f\ud800"


def allocation(user: str) -> dict[str, Any]:
    counts = dict.fromkeys(("port", "seconds_left", "to_peer_bytes", "to_client_bytes"), 59_999)
    return {**counts, "transport": "tcp", "client": "[2001:db8:0:1:2:3:4:5]:50000", "user": user}


def test_a_name_cannot_forge_a_line_or_move_the_cursor() -> None:
    shown = _table([allocation("alice"), allocation(ODD)])
    lines = shown.splitlines()
    assert [line.split()[0] for line in lines if line[0] != " "] == ["port", "59999", "59999"]
    assert all(line.isprintable() and len(line) <= 80 for line in lines)
    shown.encode()


def test_real_names_fit_numbers_stay_whole_and_addresses_break_where_they_may() -> None:
    rows = [allocation("1790000000:alice.wonderland@example.org"), {**allocation("bob"), "client": "192.0.2.1:51820"}]
    rows[0].update(client="[2001:db8:1234:5678:9abc:def0:1234:5678]:65535", to_peer_bytes=123_456_789_012)
    shown = _table(rows)
    assert all(len(line) <= 80 for line in shown.splitlines())
    for whole in ("123.46 GB", "60.00 kB", "16 h", "192.0.2.1:51820"):
        assert whole in shown
    for piece in ("[2001:db8:1234:", "1790000000:alice."):
        assert piece in shown.split()


def test_as_json_it_reads_back_and_shows_nothing_odd() -> None:
    shown = _document({"user": ODD})
    assert all(line.isprintable() and line.isascii() for line in shown.splitlines())
    assert json.loads(shown) == {"user": ODD}
