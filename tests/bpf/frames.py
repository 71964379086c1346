"""Frames of every kind for the property tests, and what a socket of the relay would read out of each.

``ODDITIES`` are the unusual and the wrong things that a frame can have, each with what the program says to it alone.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import Final, TypeAlias

from connectivity.endpoint import Endpoint
from ebpf.oracle import Datagram, ones_complement_sum
from ebpf.outcomes import Outcome
from tests.bpf.relay_bench import MACS

_ETHERTYPES: Final = {4: 0x0800, 6: 0x86DD}
_UDP: Final = 17


@dataclass(frozen=True)
class Frame:
    """An IP packet, the tags in front of it, the padding behind it, and where it is cut."""

    packet: bytes
    tags: bytes = b""
    trailer: bytes = b""
    length: int | None = None
    is_odd: bool = False  # the program has to say so

    @property
    def version(self) -> int:
        return self.packet[0] >> 4

    def encode(self) -> bytes:
        whole = MACS + self.tags + struct.pack("!H", _ETHERTYPES[self.version]) + self.packet + self.trailer
        return whole[: self.length]


Change: TypeAlias = Callable[[Frame, int], Frame]


@dataclass(frozen=True)
class Oddity:
    """A change by a random number. ``outcome`` None: the program relays it, or it is only sometimes a fault."""

    name: str
    change: Change
    outcome: Outcome | None
    version: int | None = None  # only for this IP version

    def __repr__(self) -> str:
        return self.name


def _set(packet: bytes, offset: int, value: bytes) -> bytes:
    return packet[:offset] + value + packet[offset + len(value) :]


def _set_v4(packet: bytes, offset: int, value: bytes) -> bytes:
    """In an IPv4 header, whose checksum is right for it."""
    end = (packet[0] & 15) * 4
    header = _set(_set(packet, offset, value)[:end], 10, bytes(2))
    return _set(header, 10, struct.pack("!H", 0xFFFF - ones_complement_sum(header))) + packet[end:]


def _ip_length(frame: Frame, by: int) -> Frame:
    offset = 2 if frame.version == 4 else 4
    (length,) = struct.unpack_from("!H", frame.packet, offset)
    value = struct.pack("!H", max(0, min(0xFFFF, length + by)))
    write = _set_v4 if frame.version == 4 else _set
    return replace(frame, packet=write(frame.packet, offset, value))


def _udp_length(frame: Frame, by: int) -> Frame:
    offset = 24 if frame.version == 4 else 44
    (length,) = struct.unpack_from("!H", frame.packet, offset)
    return replace(frame, packet=_set(frame.packet, offset, struct.pack("!H", max(0, min(0xFFFF, length + by)))))


def _options(frame: Frame, seed: int) -> Frame:
    options = bytes([1]) * (4 + 4 * (seed % 10))  # no-operation
    packet = frame.packet[:20] + options + frame.packet[20:]
    packet = _set(packet, 0, bytes([0x45 + len(options) // 4]))
    return replace(frame, packet=_set_v4(packet, 2, struct.pack("!H", len(packet))))


def _extension(*kinds: int) -> Change:
    def change(frame: Frame, seed: int) -> Frame:
        packet, following = frame.packet, _UDP
        for kind in kinds:
            header = bytes([following, 0]) + (
                struct.pack("!BBI", 1, 4, 0) if kind != 44 else struct.pack("!HI", 1, seed)
            )
            packet, following = packet[:40] + header + packet[40:], kind
        packet = _set(packet, 4, struct.pack("!H", len(packet) - 40))
        return replace(frame, packet=_set(packet, 6, bytes([following])))

    return change


def _flip(frame: Frame, seed: int) -> Frame:
    """One bit, anywhere in the packet but in its version."""
    position = 4 + seed % (len(frame.packet) * 8 - 4)
    flipped = frame.packet[position // 8] ^ 0x80 >> position % 8
    return replace(frame, packet=_set(frame.packet, position // 8, bytes([flipped])))


def _cut(frame: Frame, seed: int) -> Frame:
    return replace(frame, length=14 + seed % len(frame.packet))


ODDITIES: Final = (
    Oddity("tag", lambda frame, seed: replace(frame, tags=struct.pack("!HH", 0x8100, seed)), Outcome.PUNT_VLAN),
    Oddity("service tag", lambda frame, seed: replace(frame, tags=struct.pack("!HH", 0x88A8, seed)), Outcome.PUNT_VLAN),
    Oddity(
        "two tags",
        lambda frame, seed: replace(frame, tags=struct.pack("!HHHH", 0x88A8, seed, 0x8100, seed)),
        Outcome.PUNT_VLAN,
    ),
    Oddity("options", _options, Outcome.PUNT_IPV4_OPTIONS, 4),
    Oddity(
        "first fragment",
        lambda frame, _: replace(frame, packet=_set_v4(frame.packet, 6, b"\x20\x00")),
        Outcome.PUNT_FRAGMENT,
        4,
    ),
    Oddity(
        "later fragment",
        lambda frame, seed: replace(frame, packet=_set_v4(frame.packet, 6, struct.pack("!H", 1 + seed % 0x1FFF))),
        Outcome.PUNT_FRAGMENT,
        4,
    ),
    Oddity("IPv6 fragment", _extension(44), Outcome.PUNT_FRAGMENT, 6),
    Oddity("hop-by-hop options", _extension(0), Outcome.PUNT_IPV6_EXTENSION, 6),
    Oddity("destination options", _extension(60), Outcome.PUNT_IPV6_EXTENSION, 6),
    Oddity("two extension headers", _extension(60, 0), Outcome.PUNT_IPV6_EXTENSION, 6),
    Oddity("may be fragmented", lambda frame, _: replace(frame, packet=_set_v4(frame.packet, 6, b"\0\0")), None, 4),
    Oddity(
        "not UDP",
        lambda frame, _: replace(
            frame,
            packet=_set_v4(frame.packet, 9, b"\x06") if frame.version == 4 else _set(frame.packet, 6, b"\x06"),
        ),
        Outcome.PUNT_NOT_UDP,
    ),
    Oddity(
        "damaged header",
        lambda frame, seed: replace(
            frame, packet=_set(frame.packet, 8, bytes([(frame.packet[8] + 1 + seed % 255) % 256]))
        ),
        Outcome.PUNT_IPV4_CHECKSUM,
        4,
    ),
    Oddity("IP length beyond the frame", lambda frame, seed: _ip_length(frame, 1 + seed % 99), Outcome.PUNT_BAD_LENGTH),
    Oddity("IP length too short", lambda frame, seed: _ip_length(frame, -1 - seed % 8), Outcome.PUNT_BAD_LENGTH),
    Oddity("UDP length beyond IP's", lambda frame, seed: _udp_length(frame, 1 + seed % 99), Outcome.PUNT_BAD_LENGTH),
    Oddity("UDP length too short", lambda frame, seed: _udp_length(frame, -1 - seed % 8), Outcome.PUNT_BAD_LENGTH),
    Oddity(
        "padding behind it", lambda frame, seed: replace(frame, trailer=bytes([seed % 256]) * (1 + seed % 46)), None
    ),
    Oddity("one bit flipped", _flip, None),
    Oddity("cut", _cut, None),
)


def receive(frame: bytes) -> Datagram | None:
    """What a socket would be handed, by the rules of the RFCs; None if the stack would drop it or wait for more."""
    (ethertype,) = struct.unpack_from("!H", frame, 12)
    packet = frame[14:]
    if ethertype == _ETHERTYPES[4]:
        return _receive_v4(packet)
    return _receive_v6(packet) if ethertype == _ETHERTYPES[6] else None


def _receive_v4(packet: bytes) -> Datagram | None:
    if len(packet) < 20 or packet[0] >> 4 != 4:
        return None
    header, (length,) = (packet[0] & 15) * 4, struct.unpack_from("!H", packet, 2)
    if not 20 <= header <= length <= len(packet) or ones_complement_sum(packet[:header]) != 0xFFFF:
        return None
    if struct.unpack_from("!H", packet, 6)[0] & 0x3FFF or packet[9] != _UDP:
        return None
    return _receive_udp(packet[12:16], packet[16:20], packet[header:length], packet[1], packet[8])


def _receive_v6(packet: bytes) -> Datagram | None:
    if len(packet) < 40 or packet[0] >> 4 != 6:
        return None
    length, kind = struct.unpack_from("!HB", packet, 4)
    if 40 + length > len(packet):
        return None
    rest = packet[40 : 40 + length]
    while kind in (0, 60) and len(rest) >= 8:  # options, which may be skipped
        kind, rest = rest[0], rest[8 + 8 * rest[1] :]
    tos = packet[0] << 4 & 0xF0 | packet[1] >> 4
    return _receive_udp(packet[8:24], packet[24:40], rest, tos, packet[7]) if kind == _UDP else None


def _receive_udp(source: bytes, destination: bytes, carried: bytes, tos: int, hop_limit: int) -> Datagram | None:
    """The checksum may be complete, partial, or in IPv4 absent."""
    if len(carried) < 8:
        return None
    source_port, destination_port, length, checksum = struct.unpack_from("!HHHH", carried)
    if not 8 <= length <= len(carried):
        return None
    pseudo = source + destination + struct.pack("!II", length, _UDP)
    if checksum:
        is_right = ones_complement_sum(pseudo + carried[:length]) == 0xFFFF or checksum == ones_complement_sum(pseudo)
    else:
        is_right = len(source) == 4
    ends = Endpoint(ip_address(source), source_port), Endpoint(ip_address(destination), destination_port)
    return Datagram(*ends, carried[8:length], tos, hop_limit) if is_right else None
