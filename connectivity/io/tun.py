"""A TUN device that moves runs: super-packets in both directions, with the virtio-net header before each packet.

Reading: each packet lands directly behind the one before it in one large buffer, so equally long packets of one flow
are a run without being copied; a super-packet ends such a pack and is cut into a run of its own. Writing: runs are
merged into super-packets, each offload until the kernel refuses it the first time. Errors are collected, not raised.

One queue only: several would reorder packets. The device goes away when it is closed.
"""

import errno
import fcntl
import logging
import os
import socket
import stat
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Self

import numpy as np

from connectivity.errors import FatalError
from connectivity.io.privileges import privileged
from connectivity.io.tun_counters import TunCounters
from connectivity.ip.checksum import CHECKSUM_OFFSET, PROTOCOL_UDP, complements, row_sums, udp_complements
from connectivity.ip.coalescing import NO_OFFLOAD, Buffers, Coalescer
from connectivity.ip.flow import PacketRun, shares_runs
from connectivity.ip.packet import (
    IPV4_HEADER_BYTES,
    IPV6_HEADER_BYTES,
    MAX_PACKET_BYTES,
    IpError,
    IpReason,
    Packet,
    parse,
)
from connectivity.ip.segmentation import (
    VIRTIO_HEADER_BYTES,
    VIRTIO_NET_HDR_F_NEEDS_CSUM,
    VIRTIO_NET_HDR_GSO_NONE,
    Splitter,
    VirtioNetHeader,
    complete_checksum,
)
from connectivity.run import Run

# linux/if_tun.h
TUNSETIFF: Final = 0x400454CA
TUNSETOFFLOAD: Final = 0x400454D0
IFF_TUN: Final = 0x0001
IFF_NO_PI: Final = 0x1000
IFF_VNET_HDR: Final = 0x4000
TUN_F_CSUM: Final = 0x01
TUN_F_TSO4: Final = 0x02
TUN_F_TSO6: Final = 0x04
TUN_F_TSO_ECN: Final = 0x08
TUN_F_USO4: Final = 0x20
TUN_F_USO6: Final = 0x40
# linux/if.h: IFNAMSIZ, the terminating zero included
_NAME_BYTES: Final = 16
# linux/sockios.h
SIOCSIFMTU: Final = 0x8922
# Documentation/admin-guide/devices.txt
_DEVICE: Final = Path("/dev/net/tun")
_DEVICE_NUMBER: Final = (10, 200)

OFFLOADS: Final = frozenset({"tso", "uso"})
_COMPARED_BYTES: Final = 56  # reaches behind the TCP data offset of IPv6
# What a UDP_SEGMENT send takes at most; longer runs are handed out in pieces.
MAX_RUN_SEGMENTS: Final = 64
_PACKET_ROOM: Final = 65536
_BUFFER_BYTES: Final = _PACKET_ROOM + MAX_RUN_SEGMENTS * MAX_PACKET_BYTES
_MAX_ERRORS: Final = 64

_WORDS: Final = np.dtype("<u2")

_log = logging.getLogger(__name__)


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
    bits = bytearray(min(length, _COMPARED_BYTES))
    for start, end in spans:
        bits[start:end] = b"\xff" * (end - start)
    return int.from_bytes(bits, "little")


class _Pack:
    """Packets that lie one behind the other in the read buffer and form one run."""

    __slots__ = ("checksum", "end", "first", "header", "key", "length", "mask", "open", "start", "wanted")

    def __init__(self, first: Packet, start: int, header: VirtioNetHeader, raw_header: bytes) -> None:
        self.first = first
        self.key = first.key
        self.start = start
        self.length = len(first.data)
        self.end = start + self.length
        self.header = raw_header
        self.checksum = (header.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM, header.csum_start, header.csum_offset)
        self.open = shares_runs(first)
        self.mask = _likeness_mask(first.version, first.protocol, self.length) if self.open else 0
        self.wanted = int.from_bytes(first.data[:_COMPARED_BYTES], "little") & self.mask

    def take_like(self, size: int, header: bytearray, buffer: memoryview) -> bool:
        """Add what lies at ``end`` if it is to the byte what the first packet is where that decides; parses nothing.

        Equal in version, lengths, fragmentation, protocol, addresses, ports and header length means equally valid.
        """
        end = self.end
        if (
            not self.open
            or size != self.length
            or header != self.header
            or int.from_bytes(buffer[end : end + _COMPARED_BYTES], "little") & self.mask != self.wanted
        ):
            return False
        self.end = end = end + size
        self.open = end - self.start < MAX_RUN_SEGMENTS * size
        return True

    def take(self, packet: Packet, header: VirtioNetHeader) -> bool:
        """Add the packet that lies at ``end`` if it fits in."""
        length = len(packet.data)
        if (
            not self.open
            or length > self.length
            or self.checksum != (header.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM, header.csum_start, header.csum_offset)
            or packet.tos != self.first.tos
            or not shares_runs(packet)
            or packet.key != self.key
        ):
            return False
        self.end += length
        self.open = length == self.length and self.end - self.start < MAX_RUN_SEGMENTS * length
        return True

    def finish(self, buffer: memoryview) -> PacketRun:
        """The run, checksums completed."""
        data, length = buffer[self.start : self.end], self.length
        needed, at, offset = self.checksum
        if needed:
            whole = len(data) // length
            if whole < 4 or length % 4 or at % 4:
                whole = 0
            else:
                _complete_rows(data[: whole * length], length, at, offset)
            for start in range(whole * length, len(data), length):
                complete_checksum(data[start : start + length], at, offset)
        return PacketRun(Run(data, length), self.key, self.first.tos)


class Tun:
    """An open TUN device; register ``fileno()`` for reading."""

    def __init__(self, descriptor: int, name: str, *, tso: bool, uso: bool) -> None:
        """Take over an open device; most callers want ``create``."""
        self._descriptor = descriptor
        self.name = name
        self.counters = TunCounters()
        self.tso, self.uso = tso, uso
        self._coalescer = Coalescer(tcp4=tso, tcp6=tso, udp4=uso, udp6=uso)
        self._splitter = Splitter()
        self._header = bytearray(VIRTIO_HEADER_BYTES)
        self._buffer = memoryview(bytearray(_BUFFER_BYTES))
        self._errors: list[Exception] = []

    @classmethod
    def create(cls, name: str, *, mtu: int = MAX_PACKET_BYTES, offloads: frozenset[str] = OFFLOADS) -> "Tun":
        """Make the device and probe its offloads (``tso`` for TCP, ``uso`` for UDP).

        Raises:
            FatalError: no permission, no TUN support, or a name that is taken.
        """
        try:
            _ensure_node(_DEVICE)
            descriptor = os.open(_DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except PermissionError as error:
            needed = "a container needs it passed in, a user the right to read and write it"
            raise FatalError(f"cannot open {_DEVICE} for device {name} ({needed})") from error
        except OSError as error:
            raise FatalError(f"cannot open {_DEVICE} for device {name}") from error
        try:
            _attach(descriptor, name)
            tso, uso = _set_offloads(descriptor, offloads)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
                fcntl.ioctl(control, SIOCSIFMTU, struct.pack("16si20x", name.encode(), mtu))
        except OSError as error:
            os.close(descriptor)
            raise FatalError(f"cannot create TUN device {name}") from error
        _log.info("TUN device created", extra={"fields": {"name": name, "mtu": mtu, "tso": tso, "uso": uso}})
        return cls(descriptor, name, tso=tso, uso=uso)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def fileno(self) -> int:
        """The descriptor, -1 once closed."""
        return self._descriptor

    def close(self) -> None:
        """Close; the device disappears."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def take_errors(self) -> list[Exception]:
        """What went wrong since the last call, oldest first; beyond a bound errors are only counted."""
        taken, self._errors = self._errors, []
        return taken

    def read(self, limit: int = 100) -> Iterator[PacketRun]:
        """Read what is there: about ``limit`` packets as they will be sent, in runs of at most 64.

        Each run is valid until the next is asked for.

        Raises:
            FatalError: the device is gone.
        """
        buffer, header, counters = self._buffer, self._header, self.counters
        pack: _Pack | None = None
        offset = taken = 0
        while taken < limit:
            try:
                size = os.readv(self._descriptor, (header, buffer[offset : offset + _PACKET_ROOM]))
            except BlockingIOError:
                break
            except OSError as error:
                raise FatalError(f"cannot read from {self.name}") from error
            if size <= VIRTIO_HEADER_BYTES:
                raise FatalError(f"{self.name} was closed")
            size -= VIRTIO_HEADER_BYTES
            if pack is not None and pack.take_like(size, header, buffer):
                taken += 1
                counters.packets_read += 1
                offset = pack.end
                if not pack.open or offset > _BUFFER_BYTES - _PACKET_ROOM:
                    yield pack.finish(buffer)
                    pack, offset = None, 0
                continue
            body = buffer[offset : offset + size]
            virtio = VirtioNetHeader.decode(header)
            if virtio.gso_type != VIRTIO_NET_HDR_GSO_NONE:
                if pack is not None:
                    yield pack.finish(buffer)
                    pack = None
                for packets in self._split(virtio, body):
                    taken += packets.run.segment_count
                    yield packets
                offset = 0
                continue
            taken += 1
            packet = self._parse(body)
            if packet is None:
                continue
            if pack is None or not pack.take(packet, virtio):
                if pack is not None:
                    yield pack.finish(buffer)
                pack = _Pack(packet, offset, virtio, bytes(header))
            offset = pack.end
            if not pack.open or offset > _BUFFER_BYTES - _PACKET_ROOM:
                yield pack.finish(buffer)
                pack, offset = None, 0
        if pack is not None:
            yield pack.finish(buffer)

    def write(self, packets: PacketRun) -> None:
        """Give packets to the host, merged as far as the device allows; the checksums in them must be whole."""
        counters = self.counters
        for buffers in self._coalescer.coalesce(packets):
            try:
                os.writev(self._descriptor, buffers)
            except BlockingIOError:
                counters.write_dropped += 1
            except OSError as error:
                self._handle_refusal(buffers, error)
            else:
                counters.packets_written += 1
                counters.super_packets_written += len(buffers) == 1

    def write_packet(self, packet: bytes) -> None:
        """Give one packet to the host as it is."""
        try:
            os.writev(self._descriptor, (NO_OFFLOAD, packet))
        except BlockingIOError:
            self.counters.write_dropped += 1
        except OSError as error:
            self._refused(error)
        else:
            self.counters.packets_written += 1

    def _parse(self, body: memoryview) -> Packet | None:
        self.counters.packets_read += 1
        try:
            return parse(body)
        except IpError as error:
            self.counters.unusable += 1
            self._collect(error)
            return None

    def _split(self, header: VirtioNetHeader, body: memoryview) -> Iterator[PacketRun]:
        """The packets of a super-packet, in runs that fit one send."""
        self.counters.super_packets_read += 1
        try:
            (data, stride), flow, tos = self._splitter.split(header, body)
        except IpError as error:
            self.counters.unusable += 1
            self._collect(error)
            return
        piece = MAX_RUN_SEGMENTS * stride
        for start in range(0, len(data), piece):
            yield PacketRun(Run(data[start : start + piece], stride), flow, tos)

    def _handle_refusal(self, buffers: Buffers, refusal: OSError) -> None:
        """Write a refused super-packet as single packets; if these go, merging was at fault and stays off."""
        if len(buffers) != 1:
            self._refused(refusal)
            return
        written = memoryview(bytearray(buffers[0]))
        header = VirtioNetHeader.decode(written)
        run, flow, _ = Splitter().split(header, written[VIRTIO_HEADER_BYTES:])
        for segment in run.segments():
            try:
                os.writev(self._descriptor, (NO_OFFLOAD, segment))
            except OSError as error:
                error.__cause__ = refusal
                self._refused(error)
                return
            self.counters.packets_written += 1
        self.counters.offload_failures += 1
        if flow[1] == PROTOCOL_UDP:
            self.uso = self._coalescer.udp4 = self._coalescer.udp6 = False
        else:
            self.tso = self._coalescer.tcp4 = self._coalescer.tcp6 = False
        _log.info(
            "Super-packets were refused: writing single packets",
            extra={"fields": {"name": self.name, "protocol": flow[1], "errno": refusal.errno}},
        )

    def _refused(self, error: OSError) -> None:
        self.counters.write_errors += 1
        self._collect(error)

    def _collect(self, error: Exception) -> None:
        self.counters.fragments += isinstance(error, IpError) and error.reason is IpReason.FRAGMENT
        if len(self._errors) < _MAX_ERRORS:
            self._errors.append(error)


def _complete_rows(data: memoryview, stride: int, start: int, offset: int) -> None:
    """Finish the partial checksums of equally long packets at once."""
    rows = np.frombuffer(data, np.uint8).reshape(-1, stride)
    fields = udp_complements if offset == CHECKSUM_OFFSET[PROTOCOL_UDP] else complements
    rows.view(_WORDS)[:, (start + offset) // 2] = fields(row_sums(rows[:, start:]))


def _ensure_node(device: Path) -> None:
    """Make the device node where a container image lacks it; whether the kernel lets us open it shows then."""
    if device.exists():
        return
    try:
        device.parent.mkdir(mode=0o751, parents=True, exist_ok=True)
        with privileged("making it", "CAP_MKNOD"):
            os.mknod(device, stat.S_IFCHR | 0o600, os.makedev(*_DEVICE_NUMBER))
    except OSError as error:
        raise OSError(error.errno, "it is missing and cannot be made") from error


def _attach(descriptor: int, name: str) -> None:
    """Create the interface, or take a persistent one that nobody has open.

    Not IFF_MULTI_QUEUE: with it, opening a device that another process serves would quietly share its packets.
    """
    if not 0 < len(name.encode()) < _NAME_BYTES:
        raise OSError(errno.ENAMETOOLONG, f"interface name {name!r} does not have 1 to 15 bytes")
    with privileged("making it", "CAP_NET_ADMIN"):
        fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI | IFF_VNET_HDR))


def _set_offloads(descriptor: int, wanted: frozenset[str]) -> tuple[bool, bool]:
    """Ask for as much as is wanted, then for less, until the kernel agrees; returns (TSO, USO)."""
    tso = TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN if "tso" in wanted else 0
    uso = TUN_F_USO4 | TUN_F_USO6 if "uso" in wanted else 0
    for offered_tso, offered_uso in ((tso, uso), (tso, 0), (0, 0)):
        flags = TUN_F_CSUM | offered_tso | offered_uso if offered_tso or offered_uso else 0
        try:
            fcntl.ioctl(descriptor, TUNSETOFFLOAD, flags)
        except OSError:
            continue  # this kernel does not know one of them (USO came with Linux 6.2)
        return bool(offered_tso), bool(offered_uso)
    return False, False
