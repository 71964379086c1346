"""The UDP sockets of a tunnel: one for each IP version, on one port, marked so that what they send stays out of it."""

import logging
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from connectivity.errors import FatalError, chain
from connectivity.io.buffers import RECEIVE_BUFFER_BYTES, SEND_BUFFER_BYTES
from connectivity.io.families import is_absent
from connectivity.io.udp import UdpSocket
from connectivity.io.udp_options import SOCKET_MARK

log = logging.getLogger("connectivity.io")

PREFERRED_PORT: Final = 52625
_ANY_ADDRESS: Final = {4: "0.0.0.0", 6: "::"}


def bind_sockets(
    port: int = PREFERRED_PORT,
    *,
    offloads: frozenset[str],
    send_buffer_bytes: int = SEND_BUFFER_BYTES,
    receive_buffer_bytes: int = RECEIVE_BUFFER_BYTES,
    previous: Mapping[int, UdpSocket] = MappingProxyType({}),
) -> dict[int, UdpSocket]:
    """One socket per IP version, on the preferred port or any free one; a missing family is fine.

    Those that they are to replace may still be there: what ``previous`` ones counted goes on.

    Raises:
        FatalError: neither family has a socket.
    """
    sockets: dict[int, UdpSocket] = {}
    problems: dict[int, OSError] = {}
    for version, address in _ANY_ADDRESS.items():
        try:
            sockets[version] = UdpSocket.bind(
                address,
                port,
                any_port=True,
                mark=SOCKET_MARK,
                send_buffer_bytes=send_buffer_bytes,
                receive_buffer_bytes=receive_buffer_bytes,
                gso="gso" in offloads,
                gro="gro" in offloads,
                counters=previous[version].counters if version in previous else None,
            )
        except OSError as error:
            problems[version] = error
    if not sockets:
        raise FatalError("no UDP socket could be bound") from problems[4]
    for version, problem in problems.items():
        level = logging.INFO if is_absent(problem, version) else logging.WARNING
        log.log(level, "No socket for this family", extra={"fields": {"version": version, "error": chain(problem)}})
    return sockets


def bind_beside(
    version: int, port: int, *, offloads: frozenset[str], send_buffer_bytes: int, receive_buffer_bytes: int
) -> UdpSocket:
    """One more socket on the port of ours, for another process.

    Raises:
        OSError: the kernel refuses.
    """
    return UdpSocket.bind(
        _ANY_ADDRESS[version],
        port,
        mark=SOCKET_MARK,
        send_buffer_bytes=send_buffer_bytes,
        receive_buffer_bytes=receive_buffer_bytes,
        gso="gso" in offloads,
        gro="gro" in offloads,
        shares_port=True,
    )
