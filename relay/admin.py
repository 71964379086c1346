"""``postern relay admin``: what a running relay has, told over its admin socket, for people."""

import http.client
import json
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from connectivity.errors import FatalError
from connectivity.printable import printable
from connectivity.settings import SettingsReader
from relay.settings import DEFAULT_ADMIN_SOCKET

USAGE: Final = "list, show PORT, end PORT, offload or log FILTER"
_TIMEOUT_SECONDS: Final = 5.0
_HTTP_OK: Final = 200
_WORDS: Final = {"list": 1, "show": 2, "end": 2, "offload": 1, "log": 2}
_COLUMNS: Final = ("port", "transport", "client", "user", "seconds_left", "to_peer_bytes", "to_client_bytes")


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
    match words:
        case ["show", port]:
            print(_document(_ask(path, "GET", f"/allocations/{port}")))
        case ["end", port]:
            _ask(path, "DELETE", f"/allocations/{port}")
        case ["offload"]:
            print(_document(_ask(path, "GET", "/offload")))
        case ["log", directives]:
            _ask(path, "PUT", "/log-level", directives)
        case _:
            print(_table(_ask(path, "GET", "/allocations")))
    return 0


class _Connection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_TIMEOUT_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        try:
            self.sock.connect(str(self._path))
        except PermissionError:
            if not _become_owner(self._path):
                raise
            self.sock.connect(str(self._path))


def _become_owner(path: Path) -> bool:
    """Become whom the socket is for, where root may not open it: a container's root has no CAP_DAC_OVERRIDE.

    Returns whether we are somebody else now; not, where we are not root or may not become another user.
    """
    owner = _owner(path)
    if os.geteuid() != 0 or owner is None or owner.st_uid == 0:
        return False
    try:
        os.setegid(owner.st_gid)
        os.seteuid(owner.st_uid)
    except PermissionError:
        return False
    return True


def _owner(path: Path) -> os.stat_result | None:
    """Of the socket, or of the nearest folder above it that shows itself."""
    for place in (path, *path.parents):
        try:
            return place.stat()
        except PermissionError:
            continue
        except OSError:
            break
    return None


def _ask(path: Path, method: str, target: str, body: str | None = None) -> Any:
    connection = _Connection(path)
    try:
        connection.request(method, target, body)
        answer = connection.getresponse()
        text = answer.read().decode()
    except PermissionError as error:
        owner = _owner(path)
        whose = "another user" if owner is None else f"user {owner.st_uid}"
        raise FatalError(f"the admin socket {path} is for {whose}, and this is user {os.geteuid()}") from error
    except (OSError, http.client.HTTPException) as error:
        raise FatalError(f"no relay answers at {path}") from error
    finally:
        connection.close()
    if answer.status == _HTTP_OK:
        return json.loads(text)
    if answer.status > _HTTP_OK + 99:
        raise FatalError(text.strip() or f"the relay answered {answer.status}")
    return None


def _document(value: Any) -> str:
    """As JSON, which escapes all that is not ASCII, and of ASCII all but one of the characters that cannot be seen."""
    return json.dumps(value, indent=2).replace("\x7f", "\\u007f")


def _table(allocations: list[dict[str, Any]]) -> str:
    rows = [_COLUMNS, *([printable(str(entry[name])) for name in _COLUMNS] for entry in allocations)]
    widths = [max(len(row[index]) for row in rows) for index in range(len(_COLUMNS))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
