"""``postern client status``, ``postern client log FILTER`` and the same of a gateway: asks the one that runs."""

import http.client
import json
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from connectivity.endpoint import Endpoint
from connectivity.errors import FatalError, chain
from connectivity.io.local_client import LocalService
from connectivity.io.status_socket import SOCKET_NAME, read_status_socket
from connectivity.io.status_table import render
from connectivity.io.table import Screen, in_place
from connectivity.printable import printable
from connectivity.settings import LocalSocket, SettingsReader

_TIMEOUT_SECONDS: Final = 5.0
_REDRAW_SECONDS: Final = 1.0
_HTTP_OK: Final = 200

Ask = Callable[[], dict[str, Any]]


def run(service: str, words: Sequence[str], render: Callable[..., str] = render) -> int:
    """Do what the words say: ``status`` with its flags, or ``log`` with a filter; ``render`` makes tables of a status.

    Raises:
        FatalError: nobody answers there, or not us, or with a refusal.
        SettingsError: the words mean nothing.
    """
    command, arguments = words[0], words[1:]
    reader = SettingsReader(f"{service} {command}", arguments)
    socket = read_status_socket(reader, service)
    if command == "log":
        return _set_filter(_local(service, socket, reader), reader)
    address = reader.optional("POSTERN_STATUS_ADDR", "--status-addr", _endpoint, None, "ask this address:port instead")
    as_json = reader.switch(None, "--json", "as the documented JSON")
    watched = reader.switch(None, "--watch", "again each second, until Ctrl-C")
    local = None if address is not None else _local(service, socket, reader)
    reader.finish()

    def show(document: dict[str, Any]) -> str:
        return render(document, screen=Screen.of(sys.stdout))

    def ask() -> dict[str, Any]:
        found = _fetch(service, address) if address is not None else local and local.ask("GET", "/status")
        if not isinstance(found, dict) or found.get("service") != service:
            raise FatalError(f"what answers is no {service} of this version")
        return found

    if watched:
        watch(ask, as_json=as_json, render=show)
    else:
        print(as_json_text(ask(), indent=2) if as_json else show(ask()))
    return 0


def _local(service: str, socket: LocalSocket, reader: SettingsReader) -> LocalService | None:
    if socket.path is None:
        reader.problem("POSTERN_STATUS_SOCKET is off: expected the path of a socket")
        return None
    return LocalService(service, SOCKET_NAME, socket.path)


def _set_filter(local: LocalService | None, reader: SettingsReader) -> int:
    words = reader.positional()
    if len(words) != 1:
        reader.problem("expected one log filter, such as info or info,wire=trace")
    reader.finish()
    assert local is not None, "a problem with the socket has been raised"
    local.ask("PUT", "/log-level", words[0])
    return 0


def watch(
    ask: Ask, *, as_json: bool, render: Callable[[dict[str, Any]], str], wait: Callable[[float], None] = time.sleep
) -> None:
    """Show it again and again. That the service is away for a while is shown too; if it never answers, that ends it."""
    shown = as_json_text(ask()) if as_json else render(ask())
    redraws = sys.stdout.isatty() and not as_json
    while True:
        if redraws:
            print(in_place(shown, shutil.get_terminal_size().lines), end="", flush=True)
        else:
            print(shown if as_json else f"{shown}\n", flush=True)
        wait(_REDRAW_SECONDS)
        try:
            shown = as_json_text(ask()) if as_json else render(ask())
        except FatalError as error:
            shown = json.dumps({"error": chain(error)}) if as_json else printable(chain(error))


def _fetch(service: str, address: Endpoint) -> Any:
    connection = http.client.HTTPConnection(str(address.ip), address.port, timeout=_TIMEOUT_SECONDS)
    try:
        connection.request("GET", "/status")
        answer = connection.getresponse()
        text = answer.read().decode()
        if answer.status != _HTTP_OK:
            raise FatalError(f"{address} answers {answer.status}: no {service} has POSTERN_STATUS_ADDR={address}")
        return json.loads(text)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise FatalError(f"no {service} answers at {address}") from error
    finally:
        connection.close()


def as_json_text(document: dict[str, Any], indent: int | None = None) -> str:
    """Escapes all that is not ASCII, and of ASCII all but one of the characters that cannot be seen."""
    return json.dumps(document, indent=indent).replace("\x7f", "\\u007f")


def _endpoint(text: str) -> Endpoint | None:
    return Endpoint.parse(text)
