"""TSO and USO packets are split: the super-packets that a TUN device hands out become runs. Its virtio-net header, too.

With TSO, a TUN device hands out one TCP packet (with USO, UDP) of up to 64 KiB and a note how to cut it. ``Splitter``
cuts it as a network card would: whole packets with right lengths, ids, sequence numbers, flags and checksums, back to
back in one run (a stride of header plus ``gso_size``). The way out is ``connectivity.ip.coalescing``.

virtio 1.2 §5.1.6; the header is in the machine's byte order unless TUNSETVNETLE says otherwise.
"""

import struct
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from connectivity import accelerator
from connectivity.ip.checksum import (
    CHECKSUM_OFFSET,
    MODULUS,
    complements,
    ones_sum,
    pseudo_sum,
    row_sums,
    store,
    store_udp,
    udp_complements,
)
from connectivity.ip.flow import PacketRun
from connectivity.ip.packet import (
    IPV4_HEADER_BYTES,
    IPV6_HEADER_BYTES,
    MAX_PACKET_BYTES,
    TCP_FLAGS_OFFSET,
    TCP_HEADER_BYTES,
    UDP_HEADER_BYTES,
    IpError,
    Packet,
    parse,
)
from connectivity.ip.protocols import PROTOCOL_TCP, PROTOCOL_UDP
from connectivity.run import Run

# linux/virtio_net.h
VIRTIO_NET_HDR_F_NEEDS_CSUM: Final = 1
VIRTIO_NET_HDR_GSO_NONE: Final = 0
VIRTIO_NET_HDR_GSO_TCPV4: Final = 1
VIRTIO_NET_HDR_GSO_TCPV6: Final = 4
VIRTIO_NET_HDR_GSO_UDP_L4: Final = 5
VIRTIO_NET_HDR_GSO_ECN: Final = 0x80
VIRTIO_HEADER_BYTES: Final = 10

MAX_TCP_HEADER_BYTES: Final = 60  # RFC 9293 §3.1: the data offset has four bits
TCP_FIN: Final = 0x01
TCP_PSH: Final = 0x08
TCP_CWR: Final = 0x80

# Room for the usual worst case (64 KiB of payload in 1280-byte packets with 80 bytes of headers); smaller segments need
# more and get it when they come.
_INITIAL_SCRATCH_BYTES: Final = 96 * 1024

# Bytes that Python sums as quickly as it calls a helper for them.
_WORTH_A_CALL: Final = 512

_VIRTIO: Final = struct.Struct("=BBHHHH")
_U16: Final = struct.Struct(">H")
_U32: Final = struct.Struct(">I")
_WORDS: Final = np.dtype("<u2")
_NETWORK_U16: Final = np.dtype(">u2")
_NETWORK_U32: Final = np.dtype(">u4")
_STEPS: Final = np.arange(65536, dtype=np.uint64)
_PROTOCOLS: Final = {
    VIRTIO_NET_HDR_GSO_TCPV4: (PROTOCOL_TCP, TCP_HEADER_BYTES, (4,)),
    VIRTIO_NET_HDR_GSO_TCPV6: (PROTOCOL_TCP, TCP_HEADER_BYTES, (6,)),
    VIRTIO_NET_HDR_GSO_UDP_L4: (PROTOCOL_UDP, UDP_HEADER_BYTES, (4, 6)),
}


class VirtioNetHeader(NamedTuple):
    """``struct virtio_net_hdr``. ``header_length`` is a hint only: the true one is read from the packet."""

    flags: int = 0
    gso_type: int = VIRTIO_NET_HDR_GSO_NONE
    header_length: int = 0
    gso_size: int = 0
    csum_start: int = 0
    csum_offset: int = 0

    @classmethod
    def decode(cls, data: bytes | bytearray | memoryview) -> "VirtioNetHeader":
        """Read the first ten bytes."""
        return cls._make(_VIRTIO.unpack_from(data))

    def encode_into(self, buffer: bytearray | memoryview) -> None:
        """Write the first ten bytes."""
        _VIRTIO.pack_into(buffer, 0, *self)


class _Super(NamedTuple):
    """A super-packet, understood."""

    packet: memoryview
    version: int
    protocol: int
    l4: int
    header: int  # IP and transport header together
    segment: int  # payload bytes of each packet but the last
    rows: int


class Splitter:
    """Cuts super-packets; what it returns borrows its scratch memory until the next call."""

    __slots__ = ("_bytes", "_odd", "_view")

    def __init__(self) -> None:
        self._reserve(_INITIAL_SCRATCH_BYTES)
        self._odd = np.empty(0, np.uint8)

    def split(self, header: VirtioNetHeader, packet: memoryview) -> PacketRun:
        """Turn what a TUN device handed out into whole packets with right checksums.

        Args:
            packet: writable, because the checksum of a single packet is completed in place.

        Raises:
            IpError: not what the virtio header says it is, or not a packet at all.
        """
        kind = header.gso_type & ~VIRTIO_NET_HDR_GSO_ECN
        if kind == VIRTIO_NET_HDR_GSO_NONE:
            return _single(header, packet)
        helper = accelerator.current
        if helper is not None:
            cut = self._accelerated(helper, header, kind, packet)
            if cut is not None:
                return cut
        found = _understand(header, kind, packet)
        if found.rows == 1:
            return _single(header, packet)
        stride = found.header + found.segment
        total = len(packet) + (found.rows - 1) * found.header
        padded = -(-stride // 4) * 4
        rows = self._rows(found.rows, padded)
        self._fill(rows, found)
        last = len(packet) - found.header - (found.rows - 1) * found.segment
        _number(rows, found, last)
        _checksum(rows, found, last)
        if padded != stride:
            self._compact(rows, found.rows, stride)
        data = packet[: found.header]
        whole = Packet(data, found.version, found.protocol, found.l4)
        return PacketRun(Run(self._view[:total], stride), whole.key, whole.tos)

    def _accelerated(
        self, helper: accelerator.Accelerator, header: VirtioNetHeader, kind: int, packet: memoryview
    ) -> PacketRun | None:
        size, l4, segment = len(packet), header.csum_start, header.gso_size
        if not segment or l4 + segment > MAX_PACKET_BYTES:
            return None
        most = size + (size // segment + 1) * (l4 + MAX_TCP_HEADER_BYTES)
        if most > len(self._view):
            self._reserve(most)
        length = helper.split(packet, kind, l4, segment, self._view)
        if not length:
            return None
        rows = -(-(size - length) // segment)
        data = packet[:length]
        whole = Packet(data, data[0] >> 4, PROTOCOL_UDP if kind == VIRTIO_NET_HDR_GSO_UDP_L4 else PROTOCOL_TCP, l4)
        return PacketRun(Run(self._view[: size + (rows - 1) * length], length + segment), whole.key, whole.tos)

    def _reserve(self, size: int) -> None:
        self._bytes = np.zeros(size, np.uint8)
        self._view = self._bytes.data

    def _rows(self, count: int, stride: int) -> NDArray[np.uint8]:
        if count * stride > len(self._bytes):
            self._reserve(count * stride)
        return self._bytes[: count * stride].reshape(count, stride)

    def _fill(self, rows: NDArray[np.uint8], found: _Super) -> None:
        """Headers (those of a packet in the middle) and payloads; what is behind the last packet becomes zero."""
        header, segment, count = found.header, found.segment, found.rows
        rows[:, :header] = np.frombuffer(_template(found), np.uint8)
        payload = np.frombuffer(found.packet, np.uint8, offset=header)
        whole = len(payload) // segment
        rows[:whole, header : header + segment] = payload[: whole * segment].reshape(whole, segment)
        if whole < count:
            rest = len(payload) - whole * segment
            rows[whole, header : header + rest] = payload[whole * segment :]
            rows[whole, header + rest :] = 0
        if rows.shape[1] != header + segment:
            rows[:, header + segment :] = 0

    def _compact(self, rows: NDArray[np.uint8], count: int, stride: int) -> None:
        """Take the padding out that made odd rows summable; the memory they were built in becomes the other scratch."""
        if len(self._odd) < count * stride:
            self._odd = np.zeros(len(self._bytes), np.uint8)
        self._odd[: count * stride].reshape(count, stride)[:] = rows[:, :stride]
        self._bytes, self._odd = self._odd, self._bytes
        self._view = self._bytes.data


def _single(header: VirtioNetHeader, packet: memoryview) -> PacketRun:
    parsed = parse(packet)
    if header.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM:
        complete_checksum(packet, header.csum_start, header.csum_offset)
    return PacketRun(Run(parsed.data, len(parsed.data)), parsed.key, parsed.tos)


def complete_checksum(packet: memoryview, start: int, offset: int) -> None:
    """Finish a checksum whose field holds the sum of the pseudo-header (NEEDS_CSUM).

    Raises:
        IpError: the field lies outside the packet.
    """
    at = start + offset
    if at + 2 > len(packet):
        raise IpError(f"checksum field at {at} is outside the packet of {len(packet)} bytes")
    helper = accelerator.current
    if helper is not None and len(packet) > _WORTH_A_CALL and helper.complete(packet, len(packet), start, offset):
        return
    total = ones_sum(packet[start:])
    if offset == CHECKSUM_OFFSET[PROTOCOL_UDP]:
        store_udp(packet, at, total)
    else:
        store(packet, at, total)


def _understand(header: VirtioNetHeader, kind: int, packet: memoryview) -> _Super:
    """Check a super-packet against its virtio header.

    Raises:
        IpError: they do not fit each other.
    """
    size, l4, segment = len(packet), header.csum_start, header.gso_size
    protocol, needed, versions = _PROTOCOLS.get(kind, (0, 0, ()))
    version = packet[0] >> 4 if size > IPV4_HEADER_BYTES else 0
    if version == 4:
        right = l4 == (packet[0] & 0xF) * 4 >= IPV4_HEADER_BYTES and packet[9] == protocol
        right = right and packet[2] << 8 | packet[3] == size
    else:
        right = l4 >= IPV6_HEADER_BYTES and not l4 % 4
    if not right or version not in versions or l4 + needed > size or not segment:
        raise IpError(f"super-packet of {size} bytes does not fit its header {tuple(header)}")
    if protocol == PROTOCOL_TCP:
        needed = max(needed, (packet[l4 + 12] >> 4) * 4)
    whole = l4 + needed
    if whole > size or whole + segment > MAX_PACKET_BYTES:
        raise IpError(f"super-packet of {size} bytes has segments of {whole} + {segment} bytes")
    return _Super(packet, version, protocol, l4, whole, segment, max(1, -(-(size - whole) // segment)))


def _template(found: _Super) -> bytearray:
    """The headers of a packet in the middle: full length, no FIN, PSH or CWR, checksum fields zero."""
    head = bytearray(found.packet[: found.header])
    l4 = found.l4
    _set_lengths(memoryview(head), found, found.segment)
    if found.version == 4:
        head[10:12] = b"\0\0"
    at = l4 + CHECKSUM_OFFSET[found.protocol]
    head[at : at + 2] = b"\0\0"
    if found.protocol == PROTOCOL_TCP:
        head[l4 + TCP_FLAGS_OFFSET] &= ~(TCP_FIN | TCP_PSH | TCP_CWR)
    return head


def _set_lengths(head: memoryview, found: _Super, payload: int) -> None:
    if found.version == 4:
        _U16.pack_into(head, 2, found.header + payload)
    else:
        _U16.pack_into(head, 4, found.header + payload - IPV6_HEADER_BYTES)
    if found.protocol == PROTOCOL_UDP:
        _U16.pack_into(head, found.l4 + 4, UDP_HEADER_BYTES + payload)


def _number(rows: NDArray[np.uint8], found: _Super, last: int) -> None:
    """Write what differs from packet to packet: ids, IPv4 header checksums, sequence numbers, the outer flags."""
    packet, version, protocol, l4, _, segment, count = found
    steps = _STEPS[:count]
    if protocol == PROTOCOL_TCP:
        (sequence,) = _U32.unpack_from(packet, l4 + 4)
        rows.view(_NETWORK_U32)[:, l4 // 4 + 1] = steps * segment + sequence  # stored modulo 2**32
        flags = packet[l4 + TCP_FLAGS_OFFSET]
        if flags & TCP_CWR:  # RFC 3168 §6.1.2: said once
            rows[0, l4 + TCP_FLAGS_OFFSET] |= TCP_CWR
        rows[-1, l4 + TCP_FLAGS_OFFSET] |= flags & (TCP_FIN | TCP_PSH)
    if version == 4:
        (identification,) = _U16.unpack_from(packet, 4)
        rows.view(_NETWORK_U16)[:, 2] = steps + identification  # stored modulo 2**16
    if last != segment:
        _set_lengths(rows[-1].data, found, last)
    if version == 4:  # the checksum field was zero so far
        words = rows.view(_WORDS)
        words[:, 5] = complements(np.add.reduce(words[:, : l4 // 2], axis=1, dtype=np.uint64))


def _checksum(rows: NDArray[np.uint8], found: _Super, last: int) -> None:
    """Write the transport checksums: the sum of the whole row, less its IP header, plus its pseudo-header."""
    packet, version, protocol, l4, header, segment, _ = found
    addresses = packet[12:20] if version == 4 else packet[8:40]
    sums = row_sums(rows)
    constant = pseudo_sum(addresses, protocol, header - l4 + segment)
    if version == 6:  # an IPv4 header with its checksum sums to zero
        constant -= ones_sum(rows[0].data[:l4])
    if last != segment:
        other = pseudo_sum(addresses, protocol, header - l4 + last) - constant
        if version == 6:
            other -= ones_sum(rows[-1].data[:l4])
        sums[-1] += np.uint64(other % MODULUS)
    fields = udp_complements if protocol == PROTOCOL_UDP else complements
    rows.view(_WORDS)[:, (l4 + CHECKSUM_OFFSET[protocol]) // 2] = fields(sums, constant)
