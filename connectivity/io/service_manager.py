"""Tells a service manager how we do, by the datagrams of sd_notify(3) to the socket that ``NOTIFY_SOCKET`` names.

Without one nothing is said. What cannot be said is a line at DEBUG: a manager that waits says so itself.
"""

import logging
import os
import socket
from typing import Final

from connectivity.errors import chain

READY: Final = "READY=1"
STOPPING: Final = "STOPPING=1"

log = logging.getLogger("connectivity.io")


def tell(state: str) -> None:
    """Say ``READY`` or ``STOPPING``."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path.startswith(("/", "@")):
        return
    address = "\0" + path[1:] if path.startswith("@") else path
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as told:
            told.sendto(state.encode(), address)
    except OSError as error:
        log.debug("The service manager does not listen", extra={"fields": {"state": state, "error": chain(error)}})
