"""Where a service answers the people of its host, and the commands that ask there (``connectivity.io.status_view``)."""

from typing import Final

from connectivity.settings import LocalSocket, SettingsReader, local_socket, status_socket

COMMANDS: Final = frozenset({"status", "log"})
SOCKET_NAME: Final = "status socket"


def read_status_socket(reader: SettingsReader, service: str) -> LocalSocket:
    """Declare and read where a client or gateway answers the people of its host."""
    return reader.optional(
        "POSTERN_STATUS_SOCKET",
        "--status-socket",
        local_socket,
        status_socket(service),
        f"socket of postern {service} status, or off",
    )
