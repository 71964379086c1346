"""Packets for the tests, and a slow, separate judge of their checksums (RFC 1071 §4.1, byte by byte)."""

import struct
from ipaddress import ip_address
from typing import Any

V4 = (ip_address("100.64.0.1"), ip_address("192.0.2.9"))
V6 = (ip_address("fd00:2021:1111::1"), ip_address("2001:db8::9"))
ADDRESSES = {4: V4, 6: V6}


def internet_checksum(data: bytes) -> int:
    total = 0
    for index in range(0, len(data), 2):
        total += data[index] << 8 | (data[index + 1] if index + 1 < len(data) else 0)
        if total > 0xFFFF:
            total = (total & 0xFFFF) + 1
    return ~total & 0xFFFF


def transport(packet: bytes) -> tuple[int, int]:
    """Protocol and offset of the transport header; no extension headers."""
    return (packet[9], (packet[0] & 0xF) * 4) if packet[0] >> 4 == 4 else (packet[6], 40)


def pseudo_header(packet: bytes) -> bytes:
    protocol, offset = transport(packet)
    addresses = packet[12:20] if packet[0] >> 4 == 4 else packet[8:40]
    return addresses + struct.pack(">II", protocol, len(packet) - offset)


def checksums_are_right(packet: bytes) -> bool:
    protocol, offset = transport(packet)
    if packet[0] >> 4 == 4 and internet_checksum(packet[:offset]):
        return False
    summed = packet[offset:] if protocol == 1 else pseudo_header(packet) + packet[offset:]
    return internet_checksum(summed) == 0


def with_checksums(packet: bytes) -> bytes:
    """The packet with its checksum fields filled in."""
    built = bytearray(packet)
    protocol, offset = transport(packet)
    at = offset + {1: 2, 6: 16, 17: 6, 58: 2}[protocol]
    built[at : at + 2] = b"\0\0"
    summed = bytes(built[offset:]) if protocol == 1 else pseudo_header(packet) + bytes(built[offset:])
    value = internet_checksum(summed) or (0xFFFF if protocol == 17 else 0)
    built[at : at + 2] = struct.pack(">H", value)
    if packet[0] >> 4 == 4:
        built[10:12] = b"\0\0"
        built[10:12] = struct.pack(">H", internet_checksum(bytes(built[:offset])))
    return bytes(built)


def ip(
    version: int, protocol: int, body: bytes, *, tos: int = 0, identification: int = 7, hop_limit: int = 64
) -> bytes:
    source, destination = ADDRESSES[version]
    if version == 4:
        head = struct.pack(">BBHHHBBH", 0x45, tos, 20 + len(body), identification, 0x4000, hop_limit, protocol, 0)
    else:
        head = struct.pack(">IHBB", 6 << 28 | tos << 20 | 0x1234, len(body), protocol, hop_limit)
    return head + source.packed + destination.packed + body


def tcp(
    version: int,
    payload: bytes,
    *,
    sequence: int = 1000,
    flags: int = 0x10,
    options: bytes = b"",
    ports: tuple[int, int] = (443, 50000),
    window: int = 500,
    acknowledgement: int = 77,
    **header: int,
) -> bytes:
    offset = (5 + len(options) // 4) << 4
    fields = (*ports, sequence & 0xFFFFFFFF, acknowledgement, offset, flags, window, 0, 0)
    return with_checksums(ip(version, 6, struct.pack(">HHIIBBHHH", *fields) + options + payload, **header))


def udp(version: int, payload: bytes, *, ports: tuple[int, int] = (53, 50000), **header: int) -> bytes:
    return with_checksums(ip(version, 17, struct.pack(">HHHH", *ports, 8 + len(payload), 0) + payload, **header))


def with_ipv4_options(packet: bytes) -> bytes:
    """The packet with four no-operation options in its header."""
    total = struct.pack(">H", len(packet) + 4)
    return with_checksums(b"\x46" + packet[1:2] + total + packet[4:20] + b"\1\1\1\1" + packet[20:])


def echo(version: int, identifier: int, *, kind: int | None = None, body: bytes = b"x" * 8) -> bytes:
    icmp_type = kind if kind is not None else (8 if version == 4 else 128)
    message = struct.pack(">BBHHH", icmp_type, 0, 0, identifier, 1) + body
    return with_checksums(ip(version, 1 if version == 4 else 58, message))


def super_packet(version: int, protocol: int, payload: bytes, segment: int, **fields: Any) -> tuple[bytes, bytes]:
    """Virtio header and super-packet as a TUN device hands them out: partial checksum in place."""
    built = bytearray((tcp if protocol == 6 else udp)(version, payload, **fields))
    offset = 20 if version == 4 else 40
    at = offset + (16 if protocol == 6 else 6)
    built[at : at + 2] = struct.pack(">H", ~internet_checksum(pseudo_header(bytes(built))) & 0xFFFF)
    kind = 5 if protocol == 17 else (1 if version == 4 else 4)
    return struct.pack("=BBHHHH", 1, kind, 0, segment, offset, at - offset), bytes(built)
