"""Bulk data through the real cores, device to device: once warm, it takes no memory of its own.

Super-packet → ``Splitter`` → ``ClientCore`` (seal) → relay or not → ``GatewayCore`` (open, checks) → ``Coalescer``.
Two buffers of the test stand for the sockets', so that what is measured belongs to the code alone. numpy converts
words to sums through a buffer of fixed size (64 KiB, once per pass over a batch), which is made tiny here.
"""

import gc
import struct
import sys
import tracemalloc
from collections.abc import Iterator
from ipaddress import ip_address

import numpy as np
import pytest

from connectivity.clock import MILLISECOND, SECOND
from connectivity.endpoint import Endpoint
from connectivity.ip.coalescing import Coalescer
from connectivity.ip.flow import PacketRun
from connectivity.ip.segmentation import VIRTIO_NET_HDR_GSO_NONE, Splitter, VirtioNetHeader
from connectivity.run import Received, Run, Transmit
from relay.core.outputs import ToPeer
from tests.unit.connectivity.ip_oracle import internet_checksum, pseudo_header, super_packet
from tests.unit.world import CLIENT, CLIENT_TUNNEL, PORT, RELAY, World

BATCHES = 2_000
BATCH_PACKETS = 50
LARGE, SMALL = 1280, 100  # bytes of a packet


class Pipe:
    """One way through a connected world, in batches of ``count`` packets of ``size`` bytes."""

    def __init__(self, *, direct: bool, count: int, size: int) -> None:
        self.world = World(direct=direct, versions=(4,))
        self.world.is_recorded = False
        self.world.start()
        self.arrived = 0
        self._header, self._fresh = tcp_batch(count, size)
        self._packet = memoryview(bytearray(self._fresh))
        self._splitter, self._coalescer = Splitter(), Coalescer()
        self._wires = [memoryview(bytearray(1 << 17)) for _ in range(2)]
        self.world.send_from_client(tcp_batch(1, size)[1])  # waits until there is a connection
        self.world.advance(2 * SECOND)
        assert (self.world.path(self.world.client) == "PeerToPeer") is direct

    def carry(self, batches: int, *, gap: int = 0) -> None:
        """Send batches; with a gap between them, timers run."""
        world = self.world
        for _ in range(batches):
            self._packet[:] = self._fresh  # the splitter completes checksums in place
            packets = self._splitter.split(self._header, self._packet)
            transmit = world.client.handle_packets(packets, world.now, world.errors)
            if transmit is not None:
                self._travel(transmit)
            if gap:
                world.advance(gap)

    def _travel(self, transmit: Transmit) -> None:
        world = self.world
        received = self._copied(transmit, transmit.source or Endpoint(ip_address(CLIENT[0]), PORT), 0)
        if str(received.local.ip) != RELAY[0]:
            self._arrive(received)
            return
        at_relay = received.local.port
        relayed = (
            world.relay.handle_client(received, world.now, world.wall_now)
            if at_relay == 3478
            else world.relay.handle_peer(at_relay, received, world.now)
        )
        for output in relayed:
            port = output.relayed_port if isinstance(output, ToPeer) else 3478
            self._arrive(self._copied(output.transmit, Endpoint(ip_address(RELAY[0]), port), 1))

    def _arrive(self, received: Received) -> None:
        world = self.world
        world.gateway.handle_datagrams(received, world.now, world.wall_now, self._at_host, world.errors)

    def _at_host(self, packets: PacketRun) -> None:
        self.arrived += packets.run.segment_count
        for _ in self._coalescer.coalesce(packets):
            pass

    def _copied(self, transmit: Transmit, source: Endpoint, wire: int) -> Received:
        data, segment = transmit.run
        view = self._wires[wire][: len(data)]
        view[:] = data
        return Received(transmit.destination, source, Run(view, segment), transmit.tos)


@pytest.fixture
def tiny_numpy_buffer() -> Iterator[None]:
    before = np.setbufsize(16)
    yield
    np.setbufsize(before)


@pytest.mark.parametrize("direct", [True, False])
def test_a_hundred_thousand_packets_leave_nothing_behind(direct: bool) -> None:
    pipe = Pipe(direct=direct, count=BATCH_PACKETS, size=LARGE)
    pipe.carry(60, gap=SECOND)  # until ICE's memory of transactions is as full as it gets
    before, pipe.arrived = live_blocks(), 0
    pipe.carry(BATCHES, gap=10 * MILLISECOND)
    after = live_blocks()
    assert pipe.arrived == BATCHES * BATCH_PACKETS
    assert pipe.world.errors == []
    assert after - before < 200  # a block per packet would be 100,000, one per batch 2,000


@pytest.mark.usefixtures("tiny_numpy_buffer")
@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize("count", [1, BATCH_PACKETS])
def test_no_buffer_grows_with_the_packets_even_for_a_moment(direct: bool, count: int) -> None:
    small, large = (peak(Pipe(direct=direct, count=count, size=size)) for size in (SMALL, LARGE))
    assert abs(large - small) < LARGE // 2


def live_blocks() -> int:
    """Memory blocks in use, without those that the interpreter keeps for its next tuples."""
    gc.collect()
    return sys.getallocatedblocks()


def peak(pipe: Pipe) -> int:
    """The most memory that was in use beyond what stays, over some batches.

    The least of some times: whatever else runs in the process (the thread that talks to another one's pytest) can only
    add to it.
    """
    tracemalloc.start()
    try:
        pipe.carry(20)
        return min(_peak_of(pipe) for _ in range(3))
    finally:
        tracemalloc.stop()


def _peak_of(pipe: Pipe) -> int:
    before, _ = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    pipe.carry(20)
    return tracemalloc.get_traced_memory()[1] - before


def tcp_batch(count: int, size: int) -> tuple[VirtioNetHeader, bytes]:
    """What the client's TUN device hands out: packets to the resource as one super-packet."""
    segment = size - 40
    virtio, packet = super_packet(4, 6, bytes(segment * count), segment)
    header, built = VirtioNetHeader.decode(virtio), bytearray(packet)
    built[12:20] = ip_address(CLIENT_TUNNEL[0]).packed + ip_address("10.20.0.5").packed
    built[10:12] = bytes(2)
    built[10:12] = struct.pack(">H", internet_checksum(bytes(built[:20])))
    built[36:38] = struct.pack(">H", ~internet_checksum(pseudo_header(bytes(built))) & 0xFFFF)
    if count == 1:
        header = header._replace(gso_type=VIRTIO_NET_HDR_GSO_NONE, gso_size=0)
    return header, bytes(built)
