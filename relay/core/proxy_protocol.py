"""The header that a proxy puts in front of a connection: for whom it is (HAProxy's PROXY protocol, version 2).

Sixteen bytes (signature, version and command, family, length) and as many behind them as they say: two addresses, then
type-length-values, which are looked at for their bounds only. Strict: nothing but a TCP connection of one of both IP
families is taken, or a connection of the proxy's own (LOCAL, as its health checks are).

Nothing of it proves anything: whoever reads it has to trust the sender's address.
"""

import struct
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from connectivity.endpoint import Endpoint, IPAddress

# Specification constants (proxy-protocol.txt §2.2).
PREFIX_BYTES: Final = 16
_SIGNATURE: Final = b"\r\n\r\n\x00\r\nQUIT\n"
_PREFIX: Final = struct.Struct("!12sBBH")
_LOCAL, _PROXY = 0x20, 0x21  # version 2 and the command
_UNSPECIFIED: Final = 0x00
_TCP_IPV4: Final = 0x11
_TCP_IPV6: Final = 0x21
_ADDRESS_BYTES: Final = {_TCP_IPV4: 4, _TCP_IPV6: 16}
_TLV: Final = struct.Struct("!BH")
# Implementation constant: room for what proxies tell of TLS clients. One that sends more is set up wrongly.
MOST_BYTES: Final = 2048


class ProxyHeaderError(Exception):
    """What was sent is no such header."""


def length_behind(prefix: bytes) -> int:
    """How many bytes belong to the header behind its first sixteen.

    Raises:
        ProxyHeaderError: it is none, or too long.
    """
    signature, command, _, length = _PREFIX.unpack(prefix)
    if signature != _SIGNATURE or command not in {_LOCAL, _PROXY}:
        raise ProxyHeaderError("not the signature of version 2")
    if length > MOST_BYTES:
        raise ProxyHeaderError("too long")
    return int(length)


def client_of(prefix: bytes, rest: bytes) -> Endpoint | None:
    """For whom the proxy connects; None if for itself, or if it does not know.

    Args:
        prefix: The first sixteen bytes, which ``length_behind`` has taken.
        rest: As many as it has said.

    Raises:
        ProxyHeaderError: they are none of a TCP connection.
    """
    _, command, family, _ = _PREFIX.unpack(prefix)
    if command == _LOCAL or family == _UNSPECIFIED:
        return None
    size = _ADDRESS_BYTES.get(family)
    if size is None:
        raise ProxyHeaderError("not a TCP connection over IP")
    end = 2 * size + 4
    if len(rest) < end:
        raise ProxyHeaderError("addresses that are cut off")
    _check_values(rest[end:])
    port = int.from_bytes(rest[2 * size : 2 * size + 2], "big")
    ip = _address(rest[:size])
    if not port or ip.is_unspecified or ip.is_multicast:
        raise ProxyHeaderError("an address that no client has")
    return Endpoint(ip, port)


def _address(packed: bytes) -> IPAddress:
    """An IPv4 address that is written as an IPv6 one is an IPv4 address."""
    if len(packed) == 4:
        return IPv4Address(packed)
    address = IPv6Address(packed)
    return address.ipv4_mapped or address


def _check_values(values: bytes) -> None:
    at = 0
    while at < len(values):
        if at + _TLV.size > len(values):
            raise ProxyHeaderError("a value that is cut off")
        _, length = _TLV.unpack_from(values, at)
        at += _TLV.size + length
    if at != len(values):
        raise ProxyHeaderError("a value that is cut off")
