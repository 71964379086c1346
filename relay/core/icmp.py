"""ICMP errors that relayed datagrams meet: which ones a client is told, and how (RFC 8656 §11.5, §18.13)."""

from typing import Final, NamedTuple

from connectivity.endpoint import Endpoint
from connectivity.stun import Icmp

# By IP version: destination unreachable and time exceeded, and for IPv6 packet too big besides.
_RELAYED_TYPES: Final = {4: (3, 11), 6: (1, 2, 3)}
_LARGEST_DATA: Final = 0xFFFF_FFFF


class IcmpError(NamedTuple):
    """An error about a datagram that we sent to ``peer``; ``data`` is what the ICMP message says besides, as a number.

    Type and code are those of the peer's IP version. ``data`` is the MTU where the error is about size, else 0.
    """

    peer: Endpoint
    type: int
    code: int
    data: int = 0


def is_relayed(icmp: IcmpError) -> bool:
    """Whether the standard wants clients to be told."""
    fits = 0 <= icmp.code <= 0xFF and 0 <= icmp.data <= _LARGEST_DATA
    return fits and icmp.type in _RELAYED_TYPES[icmp.peer.ip.version]


def attribute_of(icmp: IcmpError) -> Icmp:
    """What a Data indication says of it."""
    return Icmp(icmp.type, icmp.code, icmp.data.to_bytes(4, "big"))
