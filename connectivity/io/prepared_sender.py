"""Sending again and again to one place, with all that can be known beforehand known beforehand."""

import socket
from collections.abc import Callable, Sequence, Sized
from typing import Any, Final, TypeAlias

from connectivity.endpoint import Endpoint
from connectivity.io.udp_options import OF_SEGMENTS, control_messages, sockaddr

_ANY_DATAGRAM: Final = 65_535
Part: TypeAlias = bytes | memoryview


class PreparedSender:
    """From one socket to one address, with one TOS. Nothing is counted, and False is returned for what has not gone.

    That is a full socket, one in which others wait, a refusal, or what ICMP said of an earlier datagram:
    ``UdpSocket.send`` knows what to do then.
    """

    __slots__ = (
        "_address",
        "_control",
        "_kind",
        "_most_bytes",
        "_sendmsg",
        "_sendto",
        "_too_long",
        "_waiting",
    )

    def __init__(
        self,
        bound: socket.socket,
        waiting: Sized,
        most_bytes: Callable[[int], int],
        source: Endpoint | None,
        destination: Endpoint,
        tos: int,
    ) -> None:
        """Prepare to send.

        Args:
            bound: The socket.
            waiting: What its owner keeps until it is writable, and what must not be overtaken.
            most_bytes: How much may go in one call, in segments of a size.
            source: An address that the socket does not say by itself.
            destination: Where to.
            tos: The whole TOS or traffic class byte.
        """
        self._sendmsg, self._sendto = bound.sendmsg, bound.sendto
        self._waiting = waiting
        self._most_bytes = most_bytes
        self._kind = destination.ip.version, source, tos
        self._address: tuple[Any, ...] = sockaddr(destination)
        self._control = control_messages(*self._kind, 0)
        self._too_long = _ANY_DATAGRAM + 1  # of segments

    def send(self, datagram: Part) -> bool:
        """Send one datagram."""
        if self._waiting:
            return False
        try:
            if self._control:
                self._sendmsg((datagram,), self._control, 0, self._address)
            else:
                self._sendto(datagram, self._address)  # the same for less
        except OSError:
            return False
        return True

    def send_run(self, parts: Sequence[Part], segment: int) -> bool:
        """Send parts one behind the other, as two or more segments of a size; all of them or none."""
        if (
            self._waiting
            or segment >= self._too_long
            or not segment < sum(map(len, parts)) <= self._most_bytes(segment)
        ):
            return False
        for _ in range(2):  # the first refusal may be what ICMP said of another datagram
            try:
                self._sendmsg(parts, control_messages(*self._kind, segment), 0, self._address)
            except OSError as error:
                if error.errno not in OF_SEGMENTS:
                    return False
            else:
                return True
        self._too_long = segment
        return False
