"""Datagrams in fragments, as hosts send them."""

import struct

from connectivity.ip.packet import parse
from tests.unit.connectivity.ip_oracle import internet_checksum

IDENTIFICATION = 0x1234


def fragments(packet: bytes, *, size: int = 1232, identification: int = IDENTIFICATION) -> list[bytes]:
    """A whole packet (of any length, without extension headers) in fragments of ``size`` bytes, a multiple of 8."""
    start = 20 if packet[0] >> 4 == 4 else 40
    head, payload = packet[:start], packet[start:]
    return [
        fragment(head, payload[offset : offset + size], offset, more=offset + size < len(payload), at=identification)
        for offset in range(0, len(payload), size)
    ]


def fragment(head: bytes, payload: bytes, offset: int, *, more: bool = False, at: int = IDENTIFICATION) -> bytes:
    """One fragment under the header of its datagram."""
    if head[0] >> 4 == 4:
        place = offset // 8 | (0x2000 if more else 0)
        built = bytearray(head[:2] + struct.pack(">HHH", 20 + len(payload), at & 0xFFFF, place) + head[8:])
        built[10:12] = b"\0\0"
        built[10:12] = struct.pack(">H", internet_checksum(bytes(built)))
        return bytes(built) + payload
    extension = struct.pack(">BBHI", head[6], 0, offset | more, at)
    return head[:4] + struct.pack(">HB", 8 + len(payload), 44) + head[7:] + extension + payload


def together(parts: list[bytes]) -> bytes:
    """The datagram again, as its receiver puts it together."""
    head = parts[0][:20] if parts[0][0] >> 4 == 4 else parts[0][:6] + parts[0][40:41] + parts[0][7:40]
    found = sorted((parse(part).fragment, part) for part in parts)
    payload = b"".join(part[-entry.length :] for entry, part in found if entry is not None)
    if head[0] >> 4 == 4:
        built = bytearray(head[:2] + struct.pack(">HHH", 20 + len(payload), 7, 0x4000) + head[8:])
        built[10:12] = b"\0\0"
        built[10:12] = struct.pack(">H", internet_checksum(bytes(built)))
        return bytes(built) + payload
    return head[:4] + struct.pack(">H", len(payload)) + head[6:] + payload
