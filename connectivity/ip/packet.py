"""The strict parser: the only way from bytes to a packet (connectivity facts §7.1).

Strict on every length, so that later header edits cannot fail; lenient on values: no checksum, hop limit, address or
flag is judged. Other protocols than TCP, UDP, ICMP and ICMPv6 are accepted unparsed. Any bytes give a ``Packet`` or an
``IpError``, nothing else.

A fragment behind the first has no transport header: what stands there is payload, chosen by whoever sent it, and is
never read as ports. A first fragment has its whole transport header. Fragments have keys of their own, by their
datagram; ``connectivity.fragment_table`` leads from these to the flow of the first fragment.
"""

import struct
from enum import Enum
from ipaddress import IPv4Address, IPv6Address
from typing import Final, NamedTuple

from connectivity.endpoint import IPAddress
from connectivity.ip.protocols import PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_TCP, PROTOCOL_UDP
from connectivity.ip.words import transport_words

MAX_PACKET_BYTES: Final = 1280
IPV4_HEADER_BYTES: Final = 20
IPV6_HEADER_BYTES: Final = 40
UDP_HEADER_BYTES: Final = 8
TCP_HEADER_BYTES: Final = 20
TCP_FLAGS_OFFSET: Final = 13
ICMP_HEADER_BYTES: Final = 8

# IPv6 extension headers, RFC 8200 §4.1 and RFC 4302.
HOP_BY_HOP: Final = 0
ROUTING: Final = 43
FRAGMENT: Final = 44
FRAGMENT_BYTES: Final = 8
AUTHENTICATION: Final = 51
DESTINATION_OPTIONS: Final = 60

ICMP_ECHO_REPLY: Final = 0
ICMP_ECHO_REQUEST: Final = 8
ICMP_TIMESTAMP: Final = 13
ICMP_TIMESTAMP_REPLY: Final = 14
ICMP_TIMESTAMP_BYTES: Final = 20
ICMPV6_ECHO_REQUEST: Final = 128
ICMPV6_ECHO_REPLY: Final = 129

_CHECKED: Final = frozenset({PROTOCOL_ICMP, PROTOCOL_TCP, PROTOCOL_UDP, PROTOCOL_ICMPV6})
_LARGEST_DATAGRAM: Final = 65535
_PORTS: Final = struct.Struct(">HH")
# Of a plain packet: what decides whether it is one, its addresses and ports, and the word where UDP has its length.
_PLAIN_IPV4: Final = struct.Struct(">BBH2xHxB2x12sH6xB")
_PLAIN_IPV6: Final = struct.Struct(">BB2xHBx36sH6xB")
_PLAIN_KEYS: Final = {
    (version, protocol): bytes((version, protocol)) for version in (4, 6) for protocol in (PROTOCOL_TCP, PROTOCOL_UDP)
}


class IpReason(Enum):
    """What is wrong, for counters."""

    MALFORMED = "malformed"
    TOO_LARGE = "too_large"
    FRAGMENT = "fragment"


class IpError(ValueError):
    """These bytes are not a packet; the text names source, destination and L4 header as far as they were read."""

    def __init__(self, text: str, reason: IpReason = IpReason.MALFORMED) -> None:
        super().__init__(text)
        self.reason = reason


class Fragment(NamedTuple):
    """Which part of a datagram a packet is; ``datagram`` tells apart those between the same two addresses."""

    datagram: bytes
    offset: int  # bytes, as is length
    length: int
    more: bool


class Packet(NamedTuple):
    """A packet whose lengths are proven. ``data`` is a view, cut to the IP length; ``l4`` is where transport starts."""

    data: memoryview
    version: int
    protocol: int
    l4: int
    is_later_fragment: bool = False  # then no transport header starts there

    @property
    def tos(self) -> int:
        """The whole TOS or traffic class byte; its low two bits are ECN."""
        data = self.data
        return data[1] if self.version == 4 else (data[0] & 0xF) << 4 | data[1] >> 4

    @property
    def source(self) -> IPAddress:
        """The source address."""
        return IPv4Address(bytes(self.data[12:16])) if self.version == 4 else IPv6Address(bytes(self.data[8:24]))

    @property
    def destination(self) -> IPAddress:
        """The destination address."""
        return IPv4Address(bytes(self.data[16:20])) if self.version == 4 else IPv6Address(bytes(self.data[24:40]))

    @property
    def ports(self) -> bytes:
        """Source and destination port, four bytes; an ICMP echo has its identifier in both, others have zeros."""
        data, l4 = self.data, self.l4
        if self.is_later_fragment:
            return b"\0\0\0\0"
        if self.protocol in (PROTOCOL_TCP, PROTOCOL_UDP):
            return bytes(data[l4 : l4 + 4])
        if self.is_echo:
            return bytes(data[l4 + 4 : l4 + 6]) * 2
        return b"\0\0\0\0"

    @property
    def is_echo(self) -> bool:
        """Whether this is an ICMP echo request or reply."""
        if self.is_later_fragment:
            return False
        kind = self.data[self.l4] if self.protocol in (PROTOCOL_ICMP, PROTOCOL_ICMPV6) else None
        if self.protocol == PROTOCOL_ICMP:
            return kind in (ICMP_ECHO_REQUEST, ICMP_ECHO_REPLY)
        return kind in (ICMPV6_ECHO_REQUEST, ICMPV6_ECHO_REPLY)

    @property
    def wrapper(self) -> int | None:
        """The header that makes this another protocol than its transport: authentication, or a route that goes on."""
        data = self.data
        if self.version == 4:
            return AUTHENTICATION if data[9] == AUTHENTICATION else None
        kind, offset = data[6], IPV6_HEADER_BYTES
        while offset < self.l4:
            if kind == AUTHENTICATION or (kind == ROUTING and data[offset + 3]):  # segments left
                return kind
            kind, offset = _skip_extension(data, offset, kind)
        return None

    @property
    def fragment(self) -> Fragment | None:
        """Which fragment this is; None of a whole packet (RFC 791 §3.1; RFC 8200 §4.5, RFC 6946)."""
        data = self.data
        if self.version == 4:
            word = data[6] << 8 | data[7]
            if not word & 0x3FFF:
                return None
            length = len(data) - (data[0] & 0xF) * 4
            return Fragment(bytes((*data[4:6], 1, data[9])), (word & 0x1FFF) * 8, length, bool(word & 0x2000))
        kind, offset = data[6], IPV6_HEADER_BYTES
        while offset < self.l4 and kind != FRAGMENT:
            kind, offset = _skip_extension(data, offset, kind)
        if offset >= self.l4:
            return None
        word = data[offset + 2] << 8 | data[offset + 3]
        start = offset + FRAGMENT_BYTES
        if not word & 0xFFF9:
            return None
        return Fragment(bytes(data[offset + 4 : start]), word & 0xFFF8, len(data) - start, bool(word & 1))

    @property
    def key(self) -> bytes:
        """What runs are told apart by: the flow's key, or a fragment's datagram as if it were a flow of protocol 44."""
        data, version, protocol, l4, _ = self
        if version == 4:
            whole = not (data[6] & 0x3F or data[7])
            if whole and l4 == IPV4_HEADER_BYTES and protocol in (PROTOCOL_TCP, PROTOCOL_UDP):
                return bytes((4, protocol)) + bytes(data[12:24])  # addresses and ports lie in one piece
        else:
            whole = l4 == IPV6_HEADER_BYTES
            if whole and protocol in (PROTOCOL_TCP, PROTOCOL_UDP):
                return bytes((6, protocol)) + bytes(data[8:44])
        fragment = None if whole else self.fragment
        if fragment is None:
            return self.flow_key
        return bytes((version, FRAGMENT)) + bytes(data[12:20] if version == 4 else data[8:40]) + fragment.datagram

    @property
    def flow_key(self) -> bytes:
        """The flow's key: version, protocol, addresses, ports (see ``connectivity.ip.flow``).

        What policy knows a packet by, so a wrapped one is of its wrapper's protocol, without ports: who may send
        TCP to a port may not send authenticated or source-routed TCP there.
        """
        data, version, protocol, l4, _ = self
        ports = self.ports
        if (data[9] == AUTHENTICATION if version == 4 else l4 != IPV6_HEADER_BYTES) and self.wrapper is not None:
            protocol, ports = self.wrapper, b"\0\0\0\0"
        if version == 4:
            return b"\x04" + bytes((protocol,)) + bytes(data[12:20]) + ports
        return b"\x06" + bytes((protocol,)) + bytes(data[8:40]) + ports

    def __str__(self) -> str:
        transport = "later fragment" if self.is_later_fragment else transport_words(self.data, self.l4, self.protocol)
        return f"{self.source} -> {self.destination} {transport}"


def parse(data: bytes | bytearray | memoryview) -> Packet:
    """Check one packet.

    Raises:
        IpError: with the reason, and source, destination and transport header where they could be read.
    """
    view = data if type(data) is memoryview else memoryview(data)
    size = len(view)
    if size > MAX_PACKET_BYTES:
        raise IpError(f"packet too large: {size} bytes, at most {MAX_PACKET_BYTES} are allowed", IpReason.TOO_LARGE)
    if size == 0:
        raise IpError("packet is empty")
    version = view[0] >> 4
    if version == 4:
        packet = _parse_ipv4(view, size)
    elif version == 6:
        packet = _parse_ipv6(view, size)
    else:
        raise IpError(f"version {version} is neither IPv4 nor IPv6")
    if packet.protocol in _CHECKED:
        _check_transport(packet)
    if view[6] & 0x3F or view[7] if version == 4 else packet.l4 != IPV6_HEADER_BYTES:
        _check_fragment(packet)
    return packet


def plain_key(data: memoryview, offset: int, size: int) -> tuple[bytes, int] | None:
    """Key and TOS byte of the packet of ``size`` bytes at ``offset``, if all of this can be told at one look.

    None says nothing but that ``parse`` has to be asked. Else it is plain TCP or UDP: no options of IPv4, fragmentation
    or extension header, and all its lengths agree.
    """
    room = len(data) - offset  # what lies behind a packet may be looked at, and counts for nothing
    if size > MAX_PACKET_BYTES or size > room or room < _PLAIN_IPV4.size:
        return None
    if data[offset] == 0x45:
        _, tos, length, fragment, protocol, key, word, header = _PLAIN_IPV4.unpack_from(data, offset)
        version, l4 = 4, IPV4_HEADER_BYTES
        if length != size or fragment & 0x3FFF:
            return None
    elif data[offset] >> 4 == 6 and room >= _PLAIN_IPV6.size:
        first, second, length, protocol, key, word, header = _PLAIN_IPV6.unpack_from(data, offset)
        tos = (first & 0xF) << 4 | second >> 4
        version, l4 = 6, IPV6_HEADER_BYTES
        if length + IPV6_HEADER_BYTES != size:
            return None
    else:
        return None
    if protocol == PROTOCOL_TCP:
        if not TCP_HEADER_BYTES <= (header >> 4) * 4 <= size - l4:
            return None
    elif protocol != PROTOCOL_UDP or not UDP_HEADER_BYTES <= word == size - l4:
        return None
    return _PLAIN_KEYS[version, protocol] + key, tos


def ip_length(data: memoryview) -> int:
    """What the IP header says the packet's length is; 0 if that cannot be read.

    Decrypted packets are cut to this before they are parsed, because padding is allowed inside a tunnel.
    """
    if len(data) >= IPV4_HEADER_BYTES and data[0] >> 4 == 4:
        return data[2] << 8 | data[3]
    if len(data) >= IPV6_HEADER_BYTES and data[0] >> 4 == 6:
        return (data[4] << 8 | data[5]) + IPV6_HEADER_BYTES
    return 0


def _parse_ipv4(view: memoryview, size: int) -> Packet:
    if size < IPV4_HEADER_BYTES:
        raise IpError(f"IPv4 header needs {IPV4_HEADER_BYTES} bytes, {size} are there")
    header = (view[0] & 0xF) * 4
    total = view[2] << 8 | view[3]
    if header < IPV4_HEADER_BYTES:
        raise IpError(f"IPv4 header length of {header} bytes is less than {IPV4_HEADER_BYTES}")
    if header > size:
        raise IpError(f"IPv4 header needs {header} bytes, {size} are there")
    if total < header:
        raise IpError(f"IPv4 total length {total} is less than the header's {header} bytes")
    if total > size:
        raise IpError(f"IPv4 total length {total} exceeds the {size} bytes that are there")
    data = view if total == size else view[:total]
    protocol = view[9]
    is_later = bool(view[6] & 0x1F or view[7])
    if protocol == AUTHENTICATION and not is_later:
        protocol, header = _skip_extension(data, header, protocol)
    return Packet(data, 4, protocol, header, is_later)


def _parse_ipv6(view: memoryview, size: int) -> Packet:
    if size < IPV6_HEADER_BYTES:
        raise IpError(f"IPv6 header needs {IPV6_HEADER_BYTES} bytes, {size} are there")
    length = view[4] << 8 | view[5]
    if length > size - IPV6_HEADER_BYTES:
        raise IpError(f"IPv6 payload length {length} exceeds the {size - IPV6_HEADER_BYTES} bytes that are there")
    # A payload length of zero with data behind it: the rest is the payload, as in a jumbogram (RFC 2675 §3).
    data = view[: IPV6_HEADER_BYTES + length] if length and length + IPV6_HEADER_BYTES != size else view
    protocol, l4 = view[6], IPV6_HEADER_BYTES
    if protocol == HOP_BY_HOP:
        protocol, l4 = _skip_extension(data, l4, protocol)
    is_fragment = False
    while protocol in (DESTINATION_OPTIONS, ROUTING, FRAGMENT, AUTHENTICATION, HOP_BY_HOP):
        if protocol == HOP_BY_HOP:
            raise IpError(f"hop-by-hop options are not first: {_addresses(data)}")
        if protocol == FRAGMENT and is_fragment:
            raise IpError(f"two fragment headers: {_addresses(data)}", IpReason.FRAGMENT)
        is_fragment = is_fragment or protocol == FRAGMENT
        is_later = protocol == FRAGMENT and len(data) - l4 >= FRAGMENT_BYTES and _is_later(data, l4)
        protocol, l4 = _skip_extension(data, l4, protocol)
        if is_later:  # what follows is payload, whatever the header says that it is
            return Packet(data, 6, protocol, l4, True)
    return Packet(data, 6, protocol, l4)


def _is_later(data: memoryview, offset: int) -> bool:
    """Whether the fragment header there has another offset than 0 (RFC 8200 §4.5)."""
    return bool(data[offset + 2] or data[offset + 3] & 0xF8)


def _skip_extension(data: memoryview, offset: int, kind: int) -> tuple[int, int]:
    """Step over one extension header; returns the next protocol and where it starts."""
    left = len(data) - offset
    if left < 8:
        raise IpError(f"extension header {kind} needs 8 bytes, {left} are left: {_addresses(data)}")
    if kind == AUTHENTICATION:
        length = (data[offset + 1] + 2) * 4
        if data[offset + 1] == 0:
            raise IpError(f"authentication header has length 0: {_addresses(data)}")
    else:
        length = 8 if kind == FRAGMENT else (data[offset + 1] + 1) * 8
    if length > left:
        raise IpError(f"extension header {kind} needs {length} bytes, {left} are left: {_addresses(data)}")
    return data[offset], offset + length


def _check_transport(packet: Packet) -> None:
    data, version, protocol, l4, is_later = packet
    left = len(data) - l4
    if is_later:
        return
    if protocol == PROTOCOL_TCP:
        if left < TCP_HEADER_BYTES:
            raise _short(packet, "TCP", TCP_HEADER_BYTES)
        offset = (data[l4 + 12] >> 4) * 4
        if offset < TCP_HEADER_BYTES or offset > left:
            raise IpError(f"TCP data offset of {offset} bytes does not fit in {left}: {_context(packet)}")
    elif protocol == PROTOCOL_UDP:
        if left < UDP_HEADER_BYTES:
            raise _short(packet, "UDP", UDP_HEADER_BYTES)
        length = data[l4 + 4] << 8 | data[l4 + 5]
        fits = length <= left or packet.fragment is not None  # the rest comes in other fragments
        if length and not (length >= UDP_HEADER_BYTES and fits):
            raise IpError(f"UDP length {length} does not fit in {left} bytes: {_context(packet)}")
    else:
        if (protocol == PROTOCOL_ICMP) != (version == 4):
            name = "ICMP" if protocol == PROTOCOL_ICMP else "ICMPv6"
            raise IpError(f"{name} does not belong in IPv{version}: {_addresses(data)}")
        if left < ICMP_HEADER_BYTES:
            raise _short(packet, "ICMP", ICMP_HEADER_BYTES)
        timestamp = version == 4 and data[l4] in (ICMP_TIMESTAMP, ICMP_TIMESTAMP_REPLY) and data[l4 + 1] == 0
        if timestamp and left != ICMP_TIMESTAMP_BYTES:
            raise IpError(f"ICMP timestamp has {left} bytes instead of {ICMP_TIMESTAMP_BYTES}: {_context(packet)}")


def _check_fragment(packet: Packet) -> None:
    """Whether a fragment fits where it says that it belongs, and hides nothing of what policy looks at."""
    fragment = packet.fragment
    if fragment is None:
        return
    data, version, protocol, l4, is_later = packet
    _, offset, length, more = fragment
    if not length or offset + length > _LARGEST_DATAGRAM or (more and length % 8):
        raise IpError(f"fragment of {length} bytes at {offset}: {_addresses(data)}", IpReason.FRAGMENT)
    if version == 6 and packet.wrapper is not None:
        raise IpError(f"fragment behind header {packet.wrapper}: {_addresses(data)}", IpReason.FRAGMENT)
    if protocol == PROTOCOL_UDP and not is_later and data[l4 + 4] << 8 | data[l4 + 5] <= len(data) - l4:
        raise IpError(f"first fragment of a UDP datagram that is whole: {_context(packet)}", IpReason.FRAGMENT)


def _short(packet: Packet, name: str, needed: int) -> IpError:
    left = len(packet.data) - packet.l4
    return IpError(f"{name} header needs {needed} bytes, {left} are left: {_addresses(packet.data)}")


def _addresses(data: memoryview) -> str:
    packet = Packet(data, data[0] >> 4, 0, 0)
    return f"src={packet.source} dst={packet.destination}"


def _context(packet: Packet) -> str:
    return f"{_addresses(packet.data)} {transport_words(packet.data, packet.l4, packet.protocol)}"
