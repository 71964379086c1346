"""UDP datagrams in single IP packets: what DNS queries come in, and answers go out in."""

import struct
from typing import Final

from connectivity.endpoint import Endpoint
from connectivity.ip.checksum import ones_sum, store, store_udp, transport_sum
from connectivity.ip.packet import IPV4_HEADER_BYTES, IPV6_HEADER_BYTES, UDP_HEADER_BYTES, Packet
from connectivity.ip.protocols import PROTOCOL_UDP

_HOP_LIMIT: Final = 64


def payload(packet: Packet) -> bytes:
    """What a UDP packet carries, as far as its own length says."""
    start = packet.l4 + UDP_HEADER_BYTES
    (length,) = struct.unpack_from(">H", packet.data, packet.l4 + 4)
    return bytes(packet.data[start : packet.l4 + length])


def build(source: Endpoint, destination: Endpoint, data: bytes) -> bytes:
    """An IP packet with right checksums; both endpoints are of one family."""
    udp = struct.pack(">HHHH", source.port, destination.port, UDP_HEADER_BYTES + len(data), 0) + data
    if source.ip.version == 4:
        total = IPV4_HEADER_BYTES + len(udp)
        header = struct.pack(">BBHHHBBH", 0x45, 0, total, 0, 0, _HOP_LIMIT, PROTOCOL_UDP, 0)
        l4 = IPV4_HEADER_BYTES
    else:
        header = struct.pack(">IHBB", 6 << 28, len(udp), PROTOCOL_UDP, _HOP_LIMIT)
        l4 = IPV6_HEADER_BYTES
    built = bytearray(header + source.ip.packed + destination.ip.packed + udp)
    view = memoryview(built)
    store_udp(view, l4 + 6, transport_sum(view, l4, PROTOCOL_UDP))
    if source.ip.version == 4:
        store(view, 10, ones_sum(view[:IPV4_HEADER_BYTES]))
    return bytes(built)
