"""Packets are merged (GRO): runs on the way to a TUN device become super-packets, as a network card would make them.

Consecutive TCP segments with equal headers (acknowledgement, window, flags, options, hop limit, flow label) become one
GSO packet with a partial checksum; UDP packets do where the device takes USO. Rules that keep the kernel's view true:

- Every packet's checksum is verified first. One that is wrong is written alone and untouched: the kernel counts and
  drops it. Packets are never repaired by being merged.
- SYN, FIN, RST, URG and CWR packets travel alone. PSH ends a merge, as does a packet that is shorter than the first.
- A super-packet is at most 65535 bytes long.
"""

import struct
from collections.abc import Iterator
from functools import lru_cache
from typing import Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from connectivity import accelerator
from connectivity.ip.checksum import CHECKSUM_OFFSET, are_right, ones_sum, pseudo_sum, row_sums, store
from connectivity.ip.flow import FlowKey, PacketRun
from connectivity.ip.packet import IPV4_HEADER_BYTES, IPV6_HEADER_BYTES, TCP_FLAGS_OFFSET, UDP_HEADER_BYTES
from connectivity.ip.protocols import PROTOCOL_TCP, PROTOCOL_UDP
from connectivity.ip.segmentation import (
    TCP_CWR,
    TCP_FIN,
    TCP_PSH,
    VIRTIO_HEADER_BYTES,
    VIRTIO_NET_HDR_F_NEEDS_CSUM,
    VIRTIO_NET_HDR_GSO_TCPV4,
    VIRTIO_NET_HDR_GSO_TCPV6,
    VIRTIO_NET_HDR_GSO_UDP_L4,
    VirtioNetHeader,
)

Buffers: TypeAlias = tuple[bytes | memoryview, ...]

MAX_SUPER_PACKET_BYTES: Final = 65535
# UDP_MAX_SEGMENTS of linux/udp.h before Linux 6.9: a receiver may be that old.
MAX_UDP_SEGMENTS: Final = 64
NO_OFFLOAD: Final = bytes(VIRTIO_HEADER_BYTES)

TCP_SYN: Final = 0x02
TCP_RST: Final = 0x04
TCP_URG: Final = 0x20
_ALONE: Final = TCP_FIN | TCP_SYN | TCP_RST | TCP_URG | TCP_CWR

_U32: Final = np.dtype("<u4")
_U16: Final = struct.Struct(">H")
_WORD: Final = struct.Struct("<H")


class _Shape(NamedTuple):
    """What the packets of a run have in common."""

    data: memoryview
    stride: int
    version: int
    protocol: int
    l4: int
    header: int
    rows: int  # packets with a payload; a last one without is not among them

    @property
    def segment(self) -> int:
        return self.stride - self.header


class Coalescer:
    """Merges runs for one TUN device; each result is valid until the next is asked for.

    ``tcp4``, ``tcp6``, ``udp4`` and ``udp6`` say which super-packets the device takes; switch one off when it refuses.
    """

    __slots__ = ("_bytes", "_padded", "_view", "tcp4", "tcp6", "udp4", "udp6")

    def __init__(self, *, tcp4: bool = True, tcp6: bool = True, udp4: bool = False, udp6: bool = False) -> None:
        self.tcp4, self.tcp6, self.udp4, self.udp6 = tcp4, tcp6, udp4, udp6
        self._bytes = np.zeros(VIRTIO_HEADER_BYTES + MAX_SUPER_PACKET_BYTES, np.uint8)
        self._view = self._bytes.data
        self._padded = np.empty(0, np.uint8)

    def coalesce(self, packets: PacketRun) -> Iterator[Buffers]:
        """The run as the fewest writes: each item is one packet with its virtio header, as buffers for ``writev``."""
        data, stride = packets.run
        if len(data) <= stride:
            return iter(((NO_OFFLOAD, data),))
        helper = accelerator.current
        if helper is None:
            return self._coalesce(packets)
        if not self._takes(packets.flow):
            return singles(packets)
        return self._accelerated(packets, helper)

    def _accelerated(self, packets: PacketRun, helper: accelerator.Accelerator) -> Iterator[Buffers]:
        data, stride = packets.run
        size, view, offset = len(data), self._view, 0
        while offset < size:
            found = helper.merge(data, stride, offset, view)
            if found < 0:
                yield from singles(packets)
                return
            after, length = offset + (found >> 32), found & 0xFFFFFFFF
            if length:
                yield (view[:length],)
            else:
                yield NO_OFFLOAD, data[offset:after]
            offset = after

    def _takes(self, flow: FlowKey) -> bool:
        """Whether the device takes super-packets of this flow's kind."""
        if flow[1] == PROTOCOL_TCP:
            return self.tcp4 if flow[0] == 4 else self.tcp6
        return flow[1] == PROTOCOL_UDP and (self.udp4 if flow[0] == 4 else self.udp6)

    def _coalesce(self, packets: PacketRun) -> Iterator[Buffers]:
        shape = self._shape(packets)
        if shape is None:
            yield from singles(packets)
            return
        data, stride = shape.data, shape.stride
        most = (MAX_SUPER_PACKET_BYTES - shape.header) // shape.segment
        if shape.protocol == PROTOCOL_UDP:
            most = min(most, MAX_UDP_SEGMENTS)
        start = 0
        for stop in self._ends(shape):
            while start < stop:
                end = min(start + most, stop)
                if end - start == 1:
                    yield NO_OFFLOAD, data[start * stride : end * stride]
                else:
                    yield (self._merge(shape, start, end),)
                start = end
        if shape.rows * stride < len(data):
            yield NO_OFFLOAD, data[shape.rows * stride :]

    def _shape(self, packets: PacketRun) -> _Shape | None:
        """How to merge this run; None if it cannot gain anything."""
        (data, stride), flow, _ = packets
        size, version, protocol = len(data), flow[0], flow[1]
        if not self._takes(flow) or (data[0] != 0x45 if version == 4 else data[6] != protocol):
            return None
        l4 = IPV4_HEADER_BYTES if version == 4 else IPV6_HEADER_BYTES
        header = l4 + ((data[l4 + 12] >> 4) * 4 if protocol == PROTOCOL_TCP else UDP_HEADER_BYTES)
        count, rest = divmod(size, stride)
        if stride <= header:
            return None
        return _Shape(data, stride, version, protocol, l4, header, count + (rest > header))

    def _ends(self, shape: _Shape) -> list[int]:
        """Where each mergeable stretch of rows ends, the last row's end included."""
        data, stride, version, protocol, l4, header, count = shape
        heads: NDArray[np.uint32] = np.ndarray((count, header // 4), _U32, data, 0, (stride, 4))
        differences = (heads[1:] ^ heads[:-1]) & _equal_header_mask(version, protocol, header)
        right = self._verified(shape)
        if protocol == PROTOCOL_TCP:
            sequence = heads[:, l4 // 4 + 1].byteswap()
            breaks = (sequence[1:] - sequence[:-1]) != shape.segment
            flags = np.ndarray((count,), np.uint8, data, l4 + TCP_FLAGS_OFFSET, (stride,))
            breaks |= flags[:-1] & TCP_PSH != 0
            alone = data[l4 + TCP_FLAGS_OFFSET] & _ALONE
        else:
            breaks, flags, alone = np.zeros(count - 1, np.bool_), None, 0
        if (
            not (alone or np.count_nonzero(differences) or np.count_nonzero(breaks))
            and np.count_nonzero(right) == count
        ):
            return [count]
        breaks |= differences.any(axis=1)
        mergeable = right if flags is None else right & (flags & _ALONE == 0)
        breaks |= ~(mergeable[1:] & mergeable[:-1])
        return [*(np.flatnonzero(breaks) + 1).tolist(), count]

    def _verified(self, shape: _Shape) -> NDArray[np.bool_]:
        """Which packets have right checksums (IPv4 header and transport in one sum: the kernel checks others itself).

        Over IPv6 rows are measured by the first one's IP header; one that differs counts as wrong and travels alone.
        """
        data, stride, version, protocol, l4, _, count = shape
        whole = min(count, len(data) // stride)
        addresses = data[12:20] if version == 4 else data[8:40]
        constant = pseudo_sum(addresses, protocol, stride - l4)
        if version == 6:
            constant -= ones_sum(data[:l4])
        right = are_right(row_sums(self._summable(data, whole, stride)), constant)
        if whole == count:
            return right
        tail = data[whole * stride :]
        constant = pseudo_sum(addresses, protocol, len(tail) - l4)
        if version == 6:
            constant -= ones_sum(tail[:l4])
        return np.append(right, (ones_sum(tail) + constant) % 0xFFFF == 0)

    def _summable(self, data: memoryview, count: int, stride: int) -> NDArray[np.uint8]:
        """The whole rows; copied with zeros between them if their length is not divisible by four."""
        rows = np.frombuffer(data, np.uint8, count * stride).reshape(count, stride)
        if not stride % 4:
            return rows
        padded = -(-stride // 4) * 4
        if len(self._padded) < count * padded:
            self._padded = np.empty(count * padded, np.uint8)
        copied = self._padded[: count * padded].reshape(count, padded)
        copied[:, :stride] = rows
        copied[:, stride:] = 0
        return copied

    def _merge(self, shape: _Shape, start: int, end: int) -> memoryview:
        """Build the super-packet of rows ``start`` to ``end``, virtio header in front."""
        data, stride, version, protocol, l4, header, _ = shape
        segment = shape.segment
        stop = min(end * stride, len(data))
        whole = (stop - start * stride) // stride
        body = VIRTIO_HEADER_BYTES + header
        rows = np.frombuffer(data, np.uint8, whole * stride, start * stride).reshape(whole, stride)
        view = self._view
        view[VIRTIO_HEADER_BYTES:body] = data[start * stride : start * stride + header]
        self._bytes[body : body + whole * segment].reshape(whole, segment)[:] = rows[:, header:]
        size = body + whole * segment
        if whole < end - start:
            rest = data[(start + whole) * stride + header : stop]
            view[size : size + len(rest)] = rest
            size += len(rest)
        packet = view[VIRTIO_HEADER_BYTES:size]
        if protocol == PROTOCOL_TCP:
            kind = VIRTIO_NET_HDR_GSO_TCPV4 if version == 4 else VIRTIO_NET_HDR_GSO_TCPV6
            packet[l4 + TCP_FLAGS_OFFSET] = data[(end - 1) * stride + l4 + TCP_FLAGS_OFFSET]  # may add PSH
        else:
            kind = VIRTIO_NET_HDR_GSO_UDP_L4
        offset = CHECKSUM_OFFSET[protocol]
        _finish(packet, version, protocol, l4)
        VirtioNetHeader(VIRTIO_NET_HDR_F_NEEDS_CSUM, kind, header, segment, l4, offset).encode_into(view)
        return view[:size]


def singles(packets: PacketRun) -> Iterator[Buffers]:
    """Each packet of a run as a write of its own."""
    for segment in packets.run.segments():
        yield NO_OFFLOAD, segment


def _finish(packet: memoryview, version: int, protocol: int, l4: int) -> None:
    """Lengths, the IPv4 header checksum, and the pseudo-header's sum where the kernel wants to continue it."""
    length = len(packet)
    if version == 4:
        _U16.pack_into(packet, 2, length)
        packet[10:12] = b"\0\0"
        store(packet, 10, ones_sum(packet[:l4]))
        addresses = packet[12:20]
    else:
        _U16.pack_into(packet, 4, length - IPV6_HEADER_BYTES)
        addresses = packet[8:40]
    if protocol == PROTOCOL_UDP:
        _U16.pack_into(packet, l4 + 4, length - l4)
    _WORD.pack_into(packet, l4 + CHECKSUM_OFFSET[protocol], pseudo_sum(addresses, protocol, length - l4))


@lru_cache(maxsize=64)
def _equal_header_mask(version: int, protocol: int, header: int) -> NDArray[np.uint32]:
    """The header bits that neighbours must share to merge; not id, lengths, checksums, sequence number and PSH.

    The id may differ because these are atomic datagrams as far as TCP is concerned (RFC 6864 §4.1); "don't fragment"
    itself must agree.
    """
    if version == 4:
        mask = b"\xff\xff\0\0" + b"\0\0\xff\xff" + b"\xff\xff\0\0" + b"\xff" * 8
    else:
        mask = b"\xff\xff\xff\xff" + b"\0\0\xff\xff" + b"\xff" * 32
    mask += b"\xff" * 4  # ports
    if protocol == PROTOCOL_TCP:
        flags = 0xFF & ~TCP_PSH
        mask += b"\0" * 4 + b"\xff" * 4 + bytes((0xFF, flags)) + b"\xff\xff" + b"\0\0\xff\xff"
    else:
        mask += b"\0" * 4
    return np.frombuffer(mask.ljust(header, b"\xff"), _U32)
