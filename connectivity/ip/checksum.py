"""The Internet checksum (RFC 1071), for one packet and for rows of packets.

Sums are kept as *little-endian words* whatever the machine: RFC 1071 §2 (B) lets a sum be taken in either byte order as
long as the result is stored in the same one, so no value is ever swapped. A sum is only meaningful modulo 65535.
"""

import struct
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from connectivity.ip.protocols import PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_TCP, PROTOCOL_UDP

Bytes: TypeAlias = bytes | bytearray | memoryview
Sums: TypeAlias = NDArray[np.uint64]

MODULUS: Final = 0xFFFF
# Where the checksum field is, from the start of the L4 header.
CHECKSUM_OFFSET: Final = {PROTOCOL_ICMP: 2, PROTOCOL_TCP: 16, PROTOCOL_UDP: 6, PROTOCOL_ICMPV6: 2}

# A multiple of the modulus above any row sum: (_LARGE - sum) % MODULUS is the complement without negative numbers.
_LARGE: Final = np.uint64(MODULUS << 40)
_MODULUS: Final = np.uint64(MODULUS)
_WORD: Final = struct.Struct("<H")
_U32: Final = np.dtype("<u4")


def word(value: int) -> int:
    """A 16-bit number as the little-endian word that its network-order bytes form."""
    return (value >> 8) | (value & 0xFF) << 8


def ones_sum(data: Bytes) -> int:
    """The sum of ``data`` modulo 65535; an odd last byte counts as if a zero followed."""
    return int.from_bytes(data, "little") % MODULUS


def pseudo_sum(addresses: Bytes, protocol: int, length: int) -> int:
    """The sum of a pseudo-header (RFC 9293 §3.1, RFC 8200 §8.1); ``addresses`` is source and destination in a row."""
    return (int.from_bytes(addresses, "little") + word(protocol) + word(length & 0xFFFF) + word(length >> 16)) % MODULUS


def store(packet: memoryview, offset: int, total: int) -> None:
    """Put the complement of the sum ``total`` at ``offset``; the field must have been zero or outside the sum."""
    _WORD.pack_into(packet, offset, -total % MODULUS)


def store_udp(packet: memoryview, offset: int, total: int) -> None:
    """``store`` for UDP, where zero means "no checksum" and 0xFFFF stands for it (RFC 768)."""
    _WORD.pack_into(packet, offset, MODULUS - total % MODULUS)


def row_sums(rows: NDArray[np.uint8]) -> Sums:
    """The sum of each row; rows must have a length divisible by four (pad with zeros)."""
    sums: Sums = np.add.reduce(rows.view(_U32), axis=1, dtype=np.uint64)
    return sums


def complements(sums: Sums, constant: int = 0) -> Sums:
    """The checksum field that makes each sum plus ``constant`` right; 0 to 65534."""
    return (_LARGE - np.uint64(constant % MODULUS) - sums) % _MODULUS


def udp_complements(sums: Sums, constant: int = 0) -> Sums:
    """``complements`` for UDP: 1 to 65535, because zero means "no checksum" there."""
    return _MODULUS - (sums + np.uint64(constant % MODULUS)) % _MODULUS


def are_right(sums: Sums, constant: int = 0) -> NDArray[np.bool_]:
    """Whether each sum, checksum field included, plus ``constant`` is that of an intact packet."""
    right: NDArray[np.bool_] = (sums + np.uint64(constant % MODULUS)) % _MODULUS == 0
    return right


def transport_sum(packet: memoryview, l4: int, protocol: int) -> int:
    """The sum over L4 header and payload of one whole packet, with the pseudo-header where the protocol has one."""
    total = ones_sum(packet[l4:])
    if protocol == PROTOCOL_ICMP:
        return total
    addresses = packet[12:20] if packet[0] >> 4 == 4 else packet[8:40]
    return (total + pseudo_sum(addresses, protocol, len(packet) - l4)) % MODULUS


def refresh(packet: memoryview, l4: int, protocol: int) -> None:
    """Compute all checksums of one whole, writable packet anew: transport first, then the IPv4 header.

    A UDP checksum of zero over IPv4 ("none") stays zero only if the sender left it out, so it is left alone.
    """
    offset = CHECKSUM_OFFSET.get(protocol)
    if offset is not None and len(packet) >= l4 + offset + 2:
        at = l4 + offset
        if protocol != PROTOCOL_UDP:
            packet[at : at + 2] = b"\0\0"
            store(packet, at, transport_sum(packet, l4, protocol))
        elif packet[0] >> 4 == 6 or packet[at] or packet[at + 1]:
            packet[at : at + 2] = b"\0\0"
            store_udp(packet, at, transport_sum(packet, l4, protocol))
    if packet[0] >> 4 == 4:
        packet[10:12] = b"\0\0"
        store(packet, 10, ones_sum(packet[: (packet[0] & 0xF) * 4]))
