"""Sending again and again to one place, with all that can be known beforehand known beforehand."""

import socket
from collections.abc import Callable, Sequence, Sized
from typing import Any, Final, NamedTuple, TypeAlias

from connectivity.io.udp_options import OF_SEGMENTS, ControlMessages

_ANY_DATAGRAM: Final = 65_535
Part: TypeAlias = bytes | memoryview


class Passage(NamedTuple):
    """From one socket to one address, with one TOS. Nothing is counted, and False is returned for what has not gone.

    That is a full socket, one in which others wait, a refusal, or what ICMP said of an earlier datagram:
    ``UdpSocket.send`` knows what to do then.

    Attributes:
        datagram: Sends one.
        run: Sends parts one behind the other, as two or more segments of a size; all of them or none.
    """

    datagram: Callable[[Part], bool]
    run: Callable[[Sequence[Part], int], bool]


def passage(
    bound: socket.socket,
    waiting: Sized,
    address: tuple[Any, ...],
    control_of: Callable[[int], ControlMessages],
    most_bytes: Callable[[int], int],
) -> Passage:
    """Prepare to send by a socket.

    Args:
        bound: The socket.
        waiting: What its owner keeps until it is writable, and what must not be overtaken.
        address: Where to, as a socket takes it.
        control_of: The control messages for segments of a size; 0 for a single datagram.
        most_bytes: How much may go in one call, in segments of a size.
    """
    sendmsg, sendto, control = bound.sendmsg, bound.sendto, control_of(0)

    def send(data: Part) -> bool:
        if waiting:
            return False
        try:
            if control:
                sendmsg((data,), control, 0, address)
            else:
                sendto(data, address)  # the same for less
        except OSError:
            return False
        return True

    too_long = _ANY_DATAGRAM + 1  # of segments

    def send_run(parts: Sequence[Part], segment: int) -> bool:
        nonlocal too_long
        if waiting or segment >= too_long or not segment < sum(map(len, parts)) <= most_bytes(segment):
            return False
        for _ in range(2):  # the first refusal may be what ICMP said of another datagram
            try:
                sendmsg(parts, control_of(segment), 0, address)
            except OSError as error:
                if error.errno not in OF_SEGMENTS:
                    return False
            else:
                return True
        too_long = segment
        return False

    return Passage(send, send_run)
