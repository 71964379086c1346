"""ICMP and ICMPv6 errors: building them, and reading the packet that one quotes (RFC 792, RFC 4443).

An error never answers an error, a fragment other than the first, or a packet whose source is no single host
(RFC 1122 §3.2.2, RFC 4443 §2.4 (e)): the builders then give None.
"""

import struct
from ipaddress import IPv4Address, IPv6Address
from typing import Final, NamedTuple

from connectivity.endpoint import IPAddress
from connectivity.ip.checksum import ones_sum, store, transport_sum
from connectivity.ip.packet import (
    ICMP_ECHO_REQUEST,
    ICMP_HEADER_BYTES,
    ICMPV6_ECHO_REQUEST,
    IPV4_HEADER_BYTES,
    IPV6_HEADER_BYTES,
    MAX_PACKET_BYTES,
    Packet,
)
from connectivity.ip.protocols import PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_TCP, PROTOCOL_UDP

ERROR_HOP_LIMIT: Final = 20

V4_UNREACHABLE: Final = 3
V4_TIME_EXCEEDED: Final = 11
V4_NETWORK_UNREACHABLE: Final = 0
V4_FRAGMENTATION_NEEDED: Final = 4
V4_ADMINISTRATIVELY_PROHIBITED: Final = 13
V6_UNREACHABLE: Final = 1
V6_PACKET_TOO_BIG: Final = 2
V6_TIME_EXCEEDED: Final = 3
V6_ADMINISTRATIVELY_PROHIBITED: Final = 1
V6_ADDRESS_UNREACHABLE: Final = 3

V4_QUOTED_PAYLOAD_BYTES: Final = 8
V6_QUOTED_BYTES: Final = MAX_PACKET_BYTES - IPV6_HEADER_BYTES - 40

# Redirect and source quench are errors too as far as "never answer an error with an error" goes.
_V4_ERROR_TYPES: Final = frozenset({V4_UNREACHABLE, 4, 5, V4_TIME_EXCEEDED, 12})
_V4_TRANSLATED: Final = frozenset({V4_UNREACHABLE, V4_TIME_EXCEEDED})
_V6_TRANSLATED: Final = frozenset({V6_UNREACHABLE, V6_PACKET_TOO_BIG, V6_TIME_EXCEEDED})


class IcmpError(NamedTuple):
    """An ICMP error and the packet that it quotes; ``quoted`` is a view from that packet's IP header on.

    ``source_port`` and ``destination_port`` are the quoted ports; a quoted echo request has its identifier in both.
    ``rest`` is the second word of the ICMP header: the MTU of "packet too big" and "fragmentation needed".
    """

    icmp_type: int
    code: int
    rest: bytes
    quoted: memoryview
    protocol: int
    source: IPAddress
    destination: IPAddress
    source_port: int
    destination_port: int
    quoted_l4: int


def prohibited(packet: Packet) -> bytes | None:
    """ "Communication administratively prohibited", as from the packet's destination to its source."""
    if packet.version == 4:
        return _answer(packet, V4_UNREACHABLE, V4_ADMINISTRATIVELY_PROHIBITED)
    return _answer(packet, V6_UNREACHABLE, V6_ADMINISTRATIVELY_PROHIBITED)


def unreachable(packet: Packet) -> bytes | None:
    """ "Network unreachable" (IPv4) or "address unreachable" (IPv6), as from the packet's destination to its source."""
    if packet.version == 4:
        return _answer(packet, V4_UNREACHABLE, V4_NETWORK_UNREACHABLE)
    return _answer(packet, V6_UNREACHABLE, V6_ADDRESS_UNREACHABLE)


def build_error(
    source: IPAddress, destination: IPAddress, icmp_type: int, code: int, rest: bytes, quoted: bytes | memoryview
) -> bytes:
    """One ICMP error with right checksums and hop limit 20; ``quoted`` is cut to what fits in 1280 bytes."""
    body = struct.pack(">BBH", icmp_type, code, 0) + rest
    if source.version == 4:
        body += bytes(quoted[: MAX_PACKET_BYTES - IPV4_HEADER_BYTES - ICMP_HEADER_BYTES])
        total = IPV4_HEADER_BYTES + len(body)
        header = struct.pack(">BBHHHBBH", 0x45, 0, total, 0, 0, ERROR_HOP_LIMIT, PROTOCOL_ICMP, 0)
        l4, protocol = IPV4_HEADER_BYTES, PROTOCOL_ICMP
    else:
        body += bytes(quoted[:V6_QUOTED_BYTES])
        header = struct.pack(">IHBB", 6 << 28, len(body), PROTOCOL_ICMPV6, ERROR_HOP_LIMIT)
        l4, protocol = IPV6_HEADER_BYTES, PROTOCOL_ICMPV6
    built = bytearray(header + source.packed + destination.packed + body)
    view = memoryview(built)
    store(view, l4 + 2, transport_sum(view, l4, protocol))
    if source.version == 4:
        store(view, 10, ones_sum(view[:IPV4_HEADER_BYTES]))
    return bytes(built)


def is_error(packet: Packet) -> bool:
    """Whether a packet is an ICMP error of any kind."""
    if packet.is_later_fragment:
        return False
    if packet.protocol == PROTOCOL_ICMP:
        return packet.data[packet.l4] in _V4_ERROR_TYPES
    return packet.protocol == PROTOCOL_ICMPV6 and packet.data[packet.l4] < 128  # RFC 4443 §2.1


def read_error(packet: Packet) -> IcmpError | None:
    """The error in a packet and whom it is about; None if it is no error or quotes nothing usable.

    The quoted packet is read leniently: it may be cut anywhere behind the first four bytes of its transport header
    (eight for an echo request, the only ICMP that may be quoted).
    """
    data, version, protocol, l4, is_later = packet
    if is_later:
        return None
    if protocol == PROTOCOL_ICMP:
        known = data[l4] in _V4_TRANSLATED
    else:
        known = protocol == PROTOCOL_ICMPV6 and data[l4] in _V6_TRANSLATED
    quoted = data[l4 + ICMP_HEADER_BYTES :]
    if not known or len(quoted) < IPV4_HEADER_BYTES or quoted[0] >> 4 != version:
        return None
    if version == 4:
        if quoted[6] & 0x1F or quoted[7]:
            return None  # a later fragment has no ports
        inner_l4, inner_protocol = (quoted[0] & 0xF) * 4, quoted[9]
        source: IPAddress = IPv4Address(bytes(quoted[12:16]))
        destination: IPAddress = IPv4Address(bytes(quoted[16:20]))
    elif len(quoted) >= IPV6_HEADER_BYTES:
        inner_l4, inner_protocol = IPV6_HEADER_BYTES, quoted[6]
        source, destination = IPv6Address(bytes(quoted[8:24])), IPv6Address(bytes(quoted[24:40]))
    else:
        return None
    ports = _quoted_ports(quoted, inner_l4, inner_protocol) if inner_l4 >= IPV4_HEADER_BYTES else None
    if ports is None:
        return None
    return IcmpError(
        data[l4],
        data[l4 + 1],
        bytes(data[l4 + 4 : l4 + 8]),
        quoted,
        inner_protocol,
        source,
        destination,
        *ports,
        inner_l4,
    )


def is_prohibition(error: IcmpError) -> bool:
    """Whether somebody on the way does not let such packets through: "administratively prohibited"."""
    if error.source.version == 4:
        return (error.icmp_type, error.code) == (V4_UNREACHABLE, V4_ADMINISTRATIVELY_PROHIBITED)
    return (error.icmp_type, error.code) == (V6_UNREACHABLE, V6_ADMINISTRATIVELY_PROHIBITED)


def translate_error(
    error: IcmpError,
    source: IPAddress,
    destination: IPAddress,
    *,
    quoted_destination: IPAddress,
    quoted_source_port: int,
) -> bytes:
    """An ICMP error about the packet as its sender knew it before translation, from ``source`` to ``destination``.

    Type, code and MTU stay. In the quotation the destination and the source port (the identifier of an echo) are put
    back; its checksums are left alone, as nobody verifies those of a quotation.
    """
    quoted = bytearray(error.quoted)
    at = 16 if quoted_destination.version == 4 else 24
    quoted[at : at + len(quoted_destination.packed)] = quoted_destination.packed
    port = error.quoted_l4 + (0 if error.protocol in (PROTOCOL_TCP, PROTOCOL_UDP) else 4)
    quoted[port : port + 2] = quoted_source_port.to_bytes(2, "big")
    return build_error(source, destination, error.icmp_type, error.code, error.rest, bytes(quoted))


def _quoted_ports(quoted: memoryview, l4: int, protocol: int) -> tuple[int, int] | None:
    if protocol in (PROTOCOL_TCP, PROTOCOL_UDP) and len(quoted) >= l4 + 4:
        source, destination = struct.unpack_from(">HH", quoted, l4)
        return source, destination
    echo = {PROTOCOL_ICMP: ICMP_ECHO_REQUEST, PROTOCOL_ICMPV6: ICMPV6_ECHO_REQUEST}.get(protocol)
    if echo is not None and len(quoted) >= l4 + ICMP_HEADER_BYTES and quoted[l4] == echo:
        (identifier,) = struct.unpack_from(">H", quoted, l4 + 4)
        return identifier, identifier
    return None


def _answer(packet: Packet, icmp_type: int, code: int) -> bytes | None:
    if is_error(packet) or packet.is_later_fragment or not _is_single_host(packet.source):
        return None
    if packet.version == 4:
        quoted = packet.data[: (packet.data[0] & 0xF) * 4 + V4_QUOTED_PAYLOAD_BYTES]
    else:
        quoted = packet.data[:V6_QUOTED_BYTES]
    return build_error(packet.destination, packet.source, icmp_type, code, bytes(4), quoted)


def _is_single_host(address: IPAddress) -> bool:
    return not address.is_multicast and not address.is_unspecified and address.packed != b"\xff\xff\xff\xff"
