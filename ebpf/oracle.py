"""What the program must do, said in the plainest way: builds the whole outgoing packet from a binding and what arrived.

For tests only, and the reason to believe the C: no incremental arithmetic, no templates, no sharing of code with the
program or its loader. The checksums are computed from scratch over the packet as it is (RFC 791, 768, 8200 §8.1).
"""

import struct
from dataclasses import dataclass, replace
from enum import Enum
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from connectivity.endpoint import Endpoint, IPAddress
from ebpf.settings import ChannelFlow

HOP_LIMIT: Final = 64
_UDP: Final = 17
_DONT_FRAGMENT: Final = 0x4000


class ChecksumKind(Enum):
    """What a sender left in the UDP checksum field."""

    FULL = "full"
    PARTIAL = "partial"  # the pseudo-header's sum only, the device was to do the rest
    ZERO = "zero"  # none, which IPv4 permits


@dataclass(frozen=True, slots=True)
class Datagram:
    """A UDP datagram with the parts of its IP header that matter."""

    source: Endpoint
    destination: Endpoint
    payload: bytes
    tos: int = 0
    hop_limit: int = HOP_LIMIT

    def packet(self, kind: ChecksumKind = ChecksumKind.FULL, *, identification: int = 0, flow_label: int = 0) -> bytes:
        """The IP packet, header checksum included."""
        length = 8 + len(self.payload)
        pseudo = self.source.ip.packed + self.destination.ip.packed + struct.pack("!II", length, _UDP)
        udp = struct.pack("!HHH", self.source.port, self.destination.port, length)
        if kind is ChecksumKind.FULL:
            checksum = (0xFFFF - ones_complement_sum(pseudo + udp + b"\0\0" + self.payload)) or 0xFFFF
        else:
            checksum = ones_complement_sum(pseudo) if kind is ChecksumKind.PARTIAL else 0
        datagram = udp + struct.pack("!H", checksum) + self.payload
        if isinstance(self.source.ip, IPv6Address):
            first = 6 << 28 | self.tos << 20 | flow_label
            header = struct.pack("!IHBB", first, length, _UDP, self.hop_limit)
            return header + self.source.ip.packed + self.destination.ip.packed + datagram
        start = struct.pack(
            "!BBHHHBB", 0x45, self.tos, 20 + length, identification, _DONT_FRAGMENT, self.hop_limit, _UDP
        )
        addresses = self.source.ip.packed + self.destination.ip.packed
        header_checksum = 0xFFFF - ones_complement_sum(start + b"\0\0" + addresses)
        return start + struct.pack("!H", header_checksum) + addresses + datagram


def outgoing(
    arriving: Datagram,
    flow: ChannelFlow,
    *,
    sources: dict[int, IPAddress],
    mirror: ChannelFlow | None = None,
) -> Datagram:
    """What leaves the relay after ``arriving``, a datagram of ``flow``.

    ``sources`` is the relay's address per IP version. ``mirror`` is the other client's binding where the peer is a
    client of ours too.
    """
    if arriving.source == flow.client:
        message = arriving.payload[4:]
        towards = flow if mirror is None else mirror
        target = flow.peer if mirror is None else mirror.client
        port = flow.relayed_port if mirror is None else mirror.listen_port
        payload = message if mirror is None else struct.pack("!HH", towards.channel, len(message)) + message
    else:
        target, port = flow.client, flow.listen_port
        payload = struct.pack("!HH", flow.channel, len(arriving.payload)) + arriving.payload
    same_family = arriving.source.ip.version == target.ip.version
    source = arriving.destination.ip if same_family else sources[target.ip.version]
    return replace(arriving, source=Endpoint(source, port), destination=target, payload=payload, hop_limit=HOP_LIMIT)


def read_packet(packet: bytes) -> Datagram:
    """The datagram in an IP packet.

    Raises:
        ValueError: lengths or one of the checksums are wrong, or bytes are left over.
    """
    source: IPAddress
    destination: IPAddress
    if packet[0] >> 4 == 4:
        if packet[0] != 0x45 or struct.unpack_from("!H", packet, 2)[0] != len(packet) or packet[9] != _UDP:
            raise ValueError("not a whole IPv4 packet with UDP")
        if ones_complement_sum(packet[:20]) != 0xFFFF:
            raise ValueError("the IPv4 header checksum is wrong")
        source, destination = IPv4Address(packet[12:16]), IPv4Address(packet[16:20])
        tos, hop_limit, datagram = packet[1], packet[8], packet[20:]
    else:
        if packet[0] >> 4 != 6 or struct.unpack_from("!H", packet, 4)[0] != len(packet) - 40 or packet[6] != _UDP:
            raise ValueError("not a whole IPv6 packet with UDP")
        source, destination = IPv6Address(packet[8:24]), IPv6Address(packet[24:40])
        tos, hop_limit, datagram = packet[0] << 4 & 0xF0 | packet[1] >> 4, packet[7], packet[40:]
    source_port, destination_port, length, checksum = struct.unpack_from("!HHHH", datagram)
    if length != len(datagram):
        raise ValueError("the UDP length is wrong")
    pseudo = source.packed + destination.packed + struct.pack("!II", length, _UDP)
    if checksum == 0 or ones_complement_sum(pseudo + datagram) != 0xFFFF:
        raise ValueError("the UDP checksum is wrong")
    return Datagram(
        Endpoint(source, source_port), Endpoint(destination, destination_port), datagram[8:], tos, hop_limit
    )


def ones_complement_sum(data: bytes) -> int:
    """The sum of RFC 1071 over big-endian words, odd data padded with a zero, not complemented."""
    words = struct.unpack(f"!{(len(data) + 1) // 2}H", data if len(data) % 2 == 0 else data + b"\0")
    total: int = sum(words)
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total
