"""``postern relay admin``: what a running relay has, told over its admin socket, for people."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from connectivity.io.local_client import LocalService
from connectivity.io.status_table import amount, duration
from connectivity.io.table import Screen, table
from connectivity.settings import SettingsReader
from relay.settings import DEFAULT_ADMIN_SOCKET

USAGE: Final = "list, show PORT, end PORT, offload or log FILTER"
_WORDS: Final = {"list": 1, "show": 2, "end": 2, "offload": 1, "log": 2}
_COLUMNS: Final = ("port", "by", "client", "user", "ends in", "to peers", "to client")


def run(arguments: Sequence[str]) -> int:
    """Do what the words say; prints what there is to see.

    Raises:
        FatalError: no relay answers, or it refuses.
        SettingsError: the words mean nothing.
    """
    reader = SettingsReader("relay admin", arguments)
    path = reader.optional("POSTERN_ADMIN_SOCKET", "--socket", Path, DEFAULT_ADMIN_SOCKET, f"{USAGE}, of this relay")
    words = reader.positional() or ["list"]
    if len(words) != _WORDS.get(words[0]):
        reader.problem(f"{' '.join(words)!r}: expected {USAGE}")
    elif words[0] in {"show", "end"} and not (words[1].isascii() and words[1].isdecimal()):
        reader.problem(f"{words[1]!r}: expected the port of an allocation")
    reader.finish()
    relay = LocalService("relay", "admin socket", path)
    match words:
        case ["show", port]:
            print(_document(relay.ask("GET", f"/allocations/{port}")))
        case ["end", port]:
            relay.ask("DELETE", f"/allocations/{port}")
        case ["offload"]:
            print(_document(relay.ask("GET", "/offload")))
        case ["log", directives]:
            relay.ask("PUT", "/log-level", directives)
        case _:
            print(_table(relay.ask("GET", "/allocations")))
    return 0


def _document(value: Any) -> str:
    """As JSON, which escapes all that is not ASCII, and of ASCII all but one of the characters that cannot be seen."""
    return json.dumps(value, indent=2).replace("\x7f", "\\u007f")


def _table(allocations: list[dict[str, Any]]) -> str:
    rows = [
        [entry["port"], entry["transport"], entry["client"], entry["user"], duration(entry["seconds_left"], 1),
         amount(entry["to_peer_bytes"]), amount(entry["to_client_bytes"])]
        for entry in allocations
    ]  # fmt: skip
    return table(_COLUMNS, rows, "  ".join(_COLUMNS), right={4, 5, 6}, screen=Screen.of(sys.stdout))
