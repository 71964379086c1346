"""ICMP errors that relayed datagrams meet (RFC 8656 §11.5)."""

from typing import NamedTuple

from connectivity.endpoint import Endpoint


class IcmpError(NamedTuple):
    """An error about a datagram that we sent to ``peer``; ``data`` is what the ICMP message says besides, as a number.

    Type and code are those of the peer's IP version. ``data`` is the MTU where the error is about size, else 0.
    """

    peer: Endpoint
    type: int
    code: int
    data: int = 0
