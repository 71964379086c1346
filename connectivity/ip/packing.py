"""Packets as a TUN device hands them out, one behind the other in one buffer: those of one flow in a row are a run.

Nothing is copied: a ``Pack`` only notes where it begins and ends. What a packet is like is looked at once; the packets
behind it that are alike to the byte, where that decides, join it unparsed.
"""

import struct
from functools import lru_cache
from typing import Final

import numpy as np

from connectivity import accelerator
from connectivity.ip.checksum import CHECKSUM_OFFSET, complements, row_sums, udp_complements
from connectivity.ip.flow import FlowKey, PacketRun
from connectivity.ip.packet import IPV4_HEADER_BYTES, IPV6_HEADER_BYTES
from connectivity.ip.protocols import PROTOCOL_UDP
from connectivity.ip.segmentation import VIRTIO_NET_HDR_F_NEEDS_CSUM, complete_checksum
from connectivity.run import MAX_SEGMENTS, Run

_COMPARED_BYTES: Final = 56  # reaches behind the TCP data offset of IPv6
_CHECKSUM: Final = struct.Struct("=B5xHH")  # of a virtio-net header: flags, csum_start, csum_offset
_FEWEST_ROWS: Final = 4  # that are worth numpy's calls
_WORDS: Final = np.dtype("<u2")


class Pack:
    """One run that grows at its end."""

    __slots__ = ("_checksum", "_header", "_mask", "_wanted", "end", "is_open", "key", "length", "start", "tos")

    def __init__(self, key: FlowKey, tos: int, start: int, length: int, header: bytearray, *, is_plain: bool) -> None:
        """A packet with its virtio-net header; only a plain one (``packet.plain_key``) is joined by others."""
        self.key = key
        self.tos = tos
        self.start = start
        self.length = length
        self.end = start + length
        self.is_open = is_plain
        self._header = bytes(header)
        self._checksum: tuple[int, int, int] = _CHECKSUM.unpack(header)
        self._mask = 0  # 0: not worked out, for nothing has come behind it
        self._wanted = 0

    def take_like(self, size: int, header: bytearray, buffer: memoryview) -> bool:
        """Add what lies at ``end`` if it is to the byte what the first packet is where that decides; parses nothing.

        Equal in version, lengths, fragmentation, protocol, addresses, ports and header length means equally valid.
        """
        end = self.end
        if not self.is_open or size != self.length or header != self._header:
            return False
        mask = self._mask
        if not mask:
            mask = self._mask = _likeness_mask(self.key[0], self.key[1], min(size, _COMPARED_BYTES))
            first = buffer[self.start : self.start + _COMPARED_BYTES]
            self._wanted = int.from_bytes(first, "little") & mask
        if int.from_bytes(buffer[end : end + _COMPARED_BYTES], "little") & mask != self._wanted:
            return False
        self.end = end = end + size
        self.is_open = end - self.start < MAX_SEGMENTS * size
        return True

    def take(self, key: FlowKey, tos: int, length: int, header: bytearray) -> bool:
        """Add the plain packet that lies at ``end`` if it fits in, which a shorter one does once."""
        if (
            not self.is_open
            or length > self.length
            or key != self.key
            or tos != self.tos
            or _CHECKSUM.unpack(header) != self._checksum
        ):
            return False
        self.end += length
        self.is_open = length == self.length and self.end - self.start < MAX_SEGMENTS * length
        return True

    def finish(self, buffer: memoryview) -> PacketRun:
        """The run, checksums completed."""
        data, length = buffer[self.start : self.end], self.length
        flags, at, offset = self._checksum
        if flags & VIRTIO_NET_HDR_F_NEEDS_CSUM:
            complete_checksums(data, length, at, offset)
        return PacketRun(Run(data, length), self.key, self.tos)


def complete_checksums(data: memoryview, length: int, at: int, offset: int) -> None:
    """Finish the partial checksums of packets of ``length`` bytes, the last one perhaps shorter.

    Raises:
        IpError: the field lies outside one of them.
    """
    helper = accelerator.current
    if helper is not None and len(data) > length and helper.complete(data, length, at, offset):
        return
    whole = len(data) // length
    if whole < _FEWEST_ROWS or length % 4 or at % 4:
        whole = 0
    else:
        _complete_rows(data[: whole * length], length, at, offset)
    for start in range(whole * length, len(data), length):
        complete_checksum(data[start : start + length], at, offset)


@lru_cache(maxsize=256)
def _likeness_mask(version: int, protocol: int, length: int) -> int:
    """Which bits of a packet's first bytes say what flow it is of and how long its parts are."""
    if version == 4:
        spans = [(0, 4), (6, 10), (12, 26 if protocol == PROTOCOL_UDP else 24)]
        data_offset = IPV4_HEADER_BYTES + 12
    else:
        spans = [(0, 46 if protocol == PROTOCOL_UDP else 44)]
        data_offset = IPV6_HEADER_BYTES + 12
    if protocol != PROTOCOL_UDP:
        spans.append((data_offset, data_offset + 1))
    bits = bytearray(length)
    for start, end in spans:
        bits[start:end] = b"\xff" * (end - start)
    return int.from_bytes(bits, "little")


def _complete_rows(data: memoryview, stride: int, start: int, offset: int) -> None:
    """Finish the partial checksums of equally long packets at once."""
    rows = np.frombuffer(data, np.uint8).reshape(-1, stride)
    fields = udp_complements if offset == CHECKSUM_OFFSET[PROTOCOL_UDP] else complements
    rows.view(_WORDS)[:, (start + offset) // 2] = fields(row_sums(rows[:, start:]))
