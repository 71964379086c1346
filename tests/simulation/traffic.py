"""Packets of the simulated hosts: TCP segments, UDP datagrams and echo requests with their answers, as bytes.

Each holds a number of its own, so that whoever sees a packet knows which one it is.
"""

import struct
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import ip_address
from typing import Final

from connectivity.endpoint import IPAddress
from connectivity.ip.checksum import CHECKSUM_OFFSET, ones_sum, pseudo_sum, store, store_udp

_PROTOCOLS: Final = {"tcp": (6, 6), "udp": (17, 17), "icmp": (1, 58)}
_ECHO: Final = {4: (8, 0), 6: (128, 129)}  # request, reply
_TOKEN: Final = struct.Struct(">Q")
_TOKEN_MARK: Final = 0x7E57 << 48
_SYN: Final = 0x02
_SYN_ACK: Final = 0x12


class Kind(StrEnum):
    """What a host sends."""

    TCP = "tcp"
    UDP = "udp"
    ICMP = "icmp"


@dataclass(frozen=True, slots=True)
class Letter:
    """A packet in words. ``port`` is the resource's, ``own_port`` the client's; of an echo, its identifier."""

    kind: Kind
    client: IPAddress
    resource: IPAddress
    own_port: int
    port: int
    number: int
    size: int = 0  # bytes of payload beyond the number

    def request(self, source: IPAddress | None = None) -> bytes:
        """From the client, by default with its own address."""
        sender = self.client if source is None else source
        return self._packet(sender, self.resource, self.own_port, self.port, is_request=True)

    def answer(self) -> bytes:
        """From the resource."""
        return self._packet(self.resource, self.client, self.port, self.own_port, is_request=False)

    def _packet(self, source: IPAddress, destination: IPAddress, from_: int, to: int, *, is_request: bool) -> bytes:
        payload = _TOKEN.pack(_TOKEN_MARK | self.number) + bytes(self.size)
        version = source.version
        protocol = _PROTOCOLS[self.kind][version == 6]
        if self.kind is Kind.UDP:
            l4_header = struct.pack(">HHHH", from_, to, 8 + len(payload), 0)
        elif self.kind is Kind.TCP:
            flags = _SYN if is_request else _SYN_ACK
            l4_header = struct.pack(">HHIIBBHHH", from_, to, self.number, 0, 5 << 4, flags, 65535, 0, 0)
        else:
            code = _ECHO[version][not is_request]
            l4_header = struct.pack(">BBHHH", code, 0, 0, self.own_port, self.number & 0xFFFF)
        body = l4_header + payload
        addresses = source.packed + destination.packed
        if version == 4:
            header = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(body), 0, 0, 64, protocol, 0) + addresses
        else:
            header = struct.pack(">IHBB", 6 << 28, len(body), protocol, 64) + addresses
        packet = memoryview(bytearray(header + body))
        l4 = len(header)
        if version == 4:
            store(packet, 10, ones_sum(packet[:20]))
        pseudo = 0 if (self.kind, version) == (Kind.ICMP, 4) else pseudo_sum(addresses, protocol, len(body))
        store_checksum = store_udp if self.kind is Kind.UDP else store
        store_checksum(packet, l4 + CHECKSUM_OFFSET[protocol], ones_sum(packet[l4:]) + pseudo)
        return bytes(packet)


def number_of(packet: bytes) -> int | None:
    """The number in a packet of ours; None where there is none, as in ICMP errors with a short quotation."""
    if len(packet) < 28:
        return None
    l4 = 20 if packet[0] >> 4 == 4 else 40
    protocol = packet[9] if l4 == 20 else packet[6]
    at = l4 + (20 if protocol == 6 else 8)
    if len(packet) < at + 8:
        return None
    (value,) = _TOKEN.unpack_from(packet, at)
    return value & 0xFFFF_FFFF_FFFF if value >> 48 == _TOKEN_MARK >> 48 else None


def read_ends(packet: bytes) -> tuple[IPAddress, int]:
    """Destination, and the sender's port or identifier."""
    version, l4 = (4, 20) if packet[0] >> 4 == 4 else (6, 40)
    protocol = packet[9] if version == 4 else packet[6]
    at = l4 + (4 if protocol in (1, 58) else 0)
    return ip_address(packet[16:20] if version == 4 else packet[24:40]), int.from_bytes(packet[at : at + 2], "big")


def is_icmp_error(packet: bytes) -> bool:
    """Whether a packet that a client's host receives is an ICMP error."""
    if packet[0] >> 4 == 4:
        return packet[9] == 1 and packet[20] in (3, 11, 12)
    return packet[6] == 58 and packet[40] < 128


def quoted_flow(packet: bytes) -> tuple[IPAddress, IPAddress, int]:
    """Source, destination and the sender's port, or identifier, of the packet that an ICMP error quotes."""
    quoted = packet[28:] if packet[0] >> 4 == 4 else packet[48:]
    if quoted[0] >> 4 == 4:
        source, destination, protocol, l4 = quoted[12:16], quoted[16:20], quoted[9], 20
    else:
        source, destination, protocol, l4 = quoted[8:24], quoted[24:40], quoted[6], 40
    at = l4 + (4 if protocol in (1, 58) else 0)
    return ip_address(source), ip_address(destination), int.from_bytes(quoted[at : at + 2], "big")
