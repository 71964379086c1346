"""A TUN device that moves runs: super-packets in both directions, with the virtio-net header before each packet.

Reading: each packet lands directly behind the one before it in one large buffer, so equally long packets of one flow
are a run without being copied; a super-packet ends such a pack and is cut into a run of its own. Writing: runs are
merged into super-packets, each offload until the kernel refuses it the first time. Errors are collected, not raised.
What comes before the host is ready for it may be held back, within a bound.

A device has one queue, or as many as there are processes to read them: the kernel keeps the packets of a flow on one,
that of whoever wrote the flow's last packet. It goes away when the last queue is closed.
"""

import errno
import logging
import os
from collections.abc import Iterator
from typing import Final, Self

from connectivity.errors import FatalError
from connectivity.io import tun_device
from connectivity.io.tun_counters import TunCounters
from connectivity.ip.coalescing import NO_OFFLOAD, Buffers, Coalescer
from connectivity.ip.flow import FlowKey, PacketRun
from connectivity.ip.packet import MAX_PACKET_BYTES, IpError, IpReason, parse, plain_key
from connectivity.ip.packing import Pack
from connectivity.ip.protocols import PROTOCOL_UDP
from connectivity.ip.segmentation import VIRTIO_HEADER_BYTES, VIRTIO_NET_HDR_GSO_NONE, Splitter, VirtioNetHeader
from connectivity.run import MAX_SEGMENTS, Run

OFFLOADS: Final = frozenset({"tso", "uso"})
_PACKET_ROOM: Final = 65536
_BUFFER_BYTES: Final = _PACKET_ROOM + MAX_SEGMENTS * MAX_PACKET_BYTES
_MAX_ERRORS: Final = 64
_MAX_HELD: Final = 256  # runs of at most 64 KiB, from the peers of a device that is not up yet

_log = logging.getLogger(__name__)


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
        self._held: list[PacketRun | bytes] | None = None
        self.is_drained = False  # whether the last reading left nothing

    @classmethod
    def create(
        cls, name: str, *, mtu: int = MAX_PACKET_BYTES, offloads: frozenset[str] = OFFLOADS, queues: bool = False
    ) -> "Tun":
        """Make the device and probe its offloads (``tso`` for TCP, ``uso`` for UDP).

        Args:
            name: what it is to be called.
            mtu: the longest packet.
            offloads: those that are wanted.
            queues: whether ``add_queue`` is to follow; then the device must be a new one.

        Raises:
            FatalError: no permission, no TUN support, or a name that is taken.
        """
        descriptor = tun_device.open_node(name)
        try:
            tun_device.attach(descriptor, name, tun_device.FIRST_QUEUE if queues else tun_device.ONLY_QUEUE)
            tso, uso = tun_device.set_offloads(descriptor, offloads)
            tun_device.set_mtu(name, mtu)
        except OSError as error:
            os.close(descriptor)
            raise FatalError(f"cannot create TUN device {name}") from error
        _log.info("TUN device created", extra={"fields": {"name": name, "mtu": mtu, "tso": tso, "uso": uso}})
        return cls(descriptor, name, tso=tso, uso=uso)

    def add_queue(self) -> "Tun":
        """One more queue of a device that was made for several.

        Raises:
            FatalError: the kernel refuses.
        """
        descriptor = tun_device.open_node(self.name)
        try:
            tun_device.attach(descriptor, self.name, tun_device.NEXT_QUEUE)
        except OSError as error:
            os.close(descriptor)
            raise FatalError(f"cannot add a queue to TUN device {self.name}") from error
        return Tun(descriptor, self.name, tso=self.tso, uso=self.uso)

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

    def counted(self) -> TunCounters:
        """The counters, with what the kernel has counted meanwhile; for whoever shows them, not for each packet."""
        self.counters.host_dropped = tun_device.host_dropped(self.name)
        return self.counters

    def hold(self) -> None:
        """Keep what is written, up to a bound, until ``release``: the host is not ready for it."""
        self._held = []

    def release(self) -> bool:
        """Write what was kept, and all else from now on at once; whether anything was held back."""
        held, self._held = self._held, None
        for packets in held or ():
            if isinstance(packets, bytes):
                self.write_packet(packets)
            else:
                self.write(packets)
        return held is not None

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
        while limit > 0 and (batch := self.read_batch(limit)):
            for packets in batch:
                limit -= packets.run.segment_count
                yield packets
            if self.is_drained:
                return

    def read_batch(self, limit: int) -> list[PacketRun]:
        """Read what is there up to the next super-packet: all of it is valid until the next call.

        Raises:
            FatalError: the device is gone.
        """
        buffer, header, counters = self._buffer, self._header, self.counters
        packs: list[Pack] = []
        pack: Pack | None = None
        offset = taken = 0
        self.is_drained = False
        while taken < limit and offset < _BUFFER_BYTES - _PACKET_ROOM:
            try:
                size = os.readv(self._descriptor, (header, buffer[offset : offset + _PACKET_ROOM]))
            except BlockingIOError:
                self.is_drained = True
                break
            except OSError as error:
                raise FatalError(f"cannot read from {self.name}") from error
            if size <= VIRTIO_HEADER_BYTES:
                raise FatalError(f"{self.name} was closed")
            size -= VIRTIO_HEADER_BYTES
            if pack is not None and pack.take_like(size, header, buffer):
                taken += 1
                offset = pack.end
                continue
            if header[1] != VIRTIO_NET_HDR_GSO_NONE:
                counters.packets_read += taken
                pieces = self._split(VirtioNetHeader.decode(header), buffer[offset : offset + size])
                return [*(held.finish(buffer) for held in packs), *pieces]
            taken += 1
            found = plain_key(buffer, offset, size)
            if found is not None and pack is not None and pack.take(*found, size, header):
                offset = pack.end
                continue
            pack = self._pack(found, buffer[offset : offset + size], offset)
            if pack is not None:
                packs.append(pack)
                offset = pack.end
        counters.packets_read += taken
        return [held.finish(buffer) for held in packs]

    def write(self, packets: PacketRun) -> None:
        """Give packets to the host, merged as far as the device allows; the checksums in them must be whole."""
        if self._held is not None:
            run, flow, tos = packets
            self._keep(PacketRun(Run(memoryview(bytes(run.data)), run.segment_size), flow, tos), run.segment_count)
            return
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
        if self._held is not None:
            self._keep(packet, 1)
            return
        try:
            os.writev(self._descriptor, (NO_OFFLOAD, packet))
        except BlockingIOError:
            self.counters.write_dropped += 1
        except OSError as error:
            self._refused(error)
        else:
            self.counters.packets_written += 1

    def _keep(self, packets: PacketRun | bytes, count: int) -> None:
        assert self._held is not None, "nothing is held back"
        if len(self._held) < _MAX_HELD:
            self._held.append(packets)
        else:
            self.counters.write_dropped += count

    def _pack(self, found: tuple[FlowKey, int] | None, body: memoryview, offset: int) -> Pack | None:
        """Begin a run with the packet at ``offset``, of which key and TOS were found if it is plain."""
        if found is not None:
            return Pack(*found, offset, len(body), self._header, is_plain=True)
        try:
            packet = parse(body)
        except IpError as error:
            self.counters.unusable += 1
            self._collect(error)
            return None
        return Pack(packet.key, packet.tos, offset, len(packet.data), self._header, is_plain=False)

    def _split(self, header: VirtioNetHeader, body: memoryview) -> list[PacketRun]:
        """The packets of a super-packet, in runs that fit one send."""
        self.counters.super_packets_read += 1
        try:
            (data, stride), flow, tos = self._splitter.split(header, body)
        except IpError as error:
            self.counters.unusable += 1
            self._collect(error)
            return []
        piece = MAX_SEGMENTS * stride
        starts = range(0, len(data), piece)
        return [PacketRun(Run(data[start : start + piece], stride), flow, tos) for start in starts]

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
            except BlockingIOError:
                self.counters.write_dropped += 1
                continue
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
        if error.errno == errno.EIO:  # what the kernel says of a device that is not up, as of one that is being deleted
            error = OSError(error.errno, f"{self.name} is down, or is being deleted")
        self._collect(error)

    def _collect(self, error: Exception) -> None:
        self.counters.fragments += isinstance(error, IpError) and error.reason is IpReason.FRAGMENT
        if len(self._errors) < _MAX_ERRORS:
            self._errors.append(error)
