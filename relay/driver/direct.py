"""What channels relay, from one socket to another without a step between.

Most of what one arrival costs, a datagram or a run of them, is finding out whose it is and what to do with it. Both
were answered for the one before: as long as the same bytes stand around it (``connectivity.io.receive_buffer``) and the
core says of the channel that it relays, the answer is the same. So the first goes through the core, and its way is
remembered.

A way has a channel of the core's, which tells with every arrival whether it may pass: nothing has to be forgotten when
it ends. What cannot go at once and whole (a full socket, an error, too few tokens, a run of several channels) takes the
way through the core.
"""

import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Final, TypeAlias

from connectivity.clock import Instant
from connectivity.io.receive_buffer import Arrival
from connectivity.io.udp import PassOn, UdpSocket
from connectivity.run import Received, Run
from connectivity.turn.channel_data import HEADER_BYTES
from relay.core import Channel, DataPath, Direction, FiveTuple
from relay.core.channel_runs import MOST_PADDING, SCRATCH_BYTES, frame, strip_uniform
from relay.driver.sockets import RelaySockets

# Ways that are remembered in each direction; past this the memory is emptied, not grown.
MOST_WAYS: Final = 16_384
_HEADER: Final = struct.Struct("!HH")  # of ChannelData: number, length

# Relays what arrived, now; False if it has not gone.
_Way: TypeAlias = Callable[[memoryview, Instant], bool]
_Ways: TypeAlias = dict[tuple[bytes, int], _Way]
_NONE: Final[_Ways] = {}


class _Passed:
    """What has passed in one direction and is not in the core's totals yet."""

    __slots__ = ("packets", "size")

    def __init__(self) -> None:
        self.packets = self.size = 0


class Direct:
    """The ways of one relay's datagrams."""

    def __init__(self, data_path: DataPath, sockets: RelaySockets) -> None:
        self._data_path = data_path
        self._sockets = sockets
        self._to_peer: dict[UdpSocket, _Ways] = {}  # by listen socket; then by envelope and channel number
        self._to_client: _Ways = {}  # by envelope and relayed port
        self._passed = {direction: _Passed() for direction in Direction}
        self._scratch = memoryview(bytearray(SCRATCH_BYTES))

    def to_peers(self, listening: UdpSocket, arrivals: Sequence[Arrival], now: Instant) -> Iterator[Arrival]:
        """Relay what clients sent; yields what has to go through the core instead, each at its turn."""
        ways, unpack = self._to_peer.get(listening, _NONE), _HEADER.unpack_from
        for arrival in arrivals:
            envelope, data = arrival
            if len(data) > HEADER_BYTES:
                number, _ = unpack(data)
                way = ways.get((envelope, number))
                if way is not None and way(data, now):
                    continue
            yield arrival
            ways = self._to_peer.get(listening, _NONE)  # there may be some now
        self._count(Direction.TO_PEER)

    def to_clients(
        self, ready: Sequence[tuple[int, UdpSocket]], now: Instant
    ) -> Iterator[tuple[int, UdpSocket, Arrival | None]]:
        """Read relayed ports and relay what came; yields what has to go through the core instead, each at its turn.

        None is of a socket that was ready without having anything.
        """
        ways = self._to_client
        for port, readable in ready:
            arrivals = readable.arrivals()
            if not arrivals:
                yield port, readable, None
            for arrival in arrivals:
                envelope, data = arrival
                way = ways.get((envelope, port))
                if way is None or not way(data, now):
                    yield port, readable, arrival
        self._count(Direction.TO_CLIENT)

    def learn_to_peer(self, listening: UdpSocket, envelope: bytes, received: Received) -> None:
        """What came in this envelope has gone through the core; remember the way if it is a channel's."""
        data, arriving = received.run.data, listening.segment(envelope)
        if len(data) < HEADER_BYTES:
            return
        number, length = _HEADER.unpack_from(data)
        channel = self._data_path.channel_to_peer(FiveTuple(received.remote, received.local), number)
        if channel is None:
            return
        peer = channel.binding.peer
        by = self._sockets.relayed(channel.allocation.port, peer.ip.version)
        if by is None:
            return
        if arriving:
            way = self._run_to_peer(channel, by.passing(None, peer, received.tos, length), arriving, length)
        else:
            way = self._datagram_to_peer(channel, by.passing(None, peer, received.tos))
        _remember(self._to_peer.setdefault(listening, {}), (envelope, number), way)

    def learn_to_client(self, readable: UdpSocket, port: int, envelope: bytes, received: Received) -> None:
        """The same for what came to a relayed port."""
        arriving = readable.segment(envelope)
        channel = self._data_path.channel_to_client(port, received.remote)
        if channel is None:
            return
        client, server = channel.allocation.client, channel.allocation.server
        by = self._sockets.listening(server)
        if by is None:
            return
        if arriving:
            pass_on = by.passing(server, client, received.tos, HEADER_BYTES + arriving)
            way = self._run_to_client(channel, pass_on, arriving)
        else:
            way = self._datagram_to_client(channel, by.passing(server, client, received.tos))
        _remember(self._to_client, (envelope, port), way)

    def _datagram_to_peer(self, channel: Channel, pass_on: PassOn) -> _Way:
        lets_pass, passed, unpack = self._data_path.lets_pass, self._passed[Direction.TO_PEER], _HEADER.unpack_from
        allocation = channel.allocation

        def relay(data: memoryview, now: Instant) -> bool:
            _, size = unpack(data)
            end = HEADER_BYTES + size
            if not HEADER_BYTES < end <= len(data) <= end + MOST_PADDING:
                return False
            if not lets_pass(channel, Direction.TO_PEER, size, size, now) or not pass_on(data[HEADER_BYTES:end]):
                return False
            allocation.to_peer_packets += 1
            allocation.to_peer_bytes += size
            passed.packets += 1
            passed.size += size
            return True

        return relay

    def _run_to_peer(self, channel: Channel, pass_on: PassOn, arriving: int, leaving: int) -> _Way:
        lets_pass, passed, scratch = self._data_path.lets_pass, self._passed[Direction.TO_PEER], self._scratch
        allocation = channel.allocation

        def relay(data: memoryview, now: Instant) -> bool:
            payloads = strip_uniform(data, arriving, leaving, scratch)
            if payloads is None:
                return False
            size = len(payloads)
            if not lets_pass(channel, Direction.TO_PEER, size, leaving, now) or not pass_on(payloads):
                return False
            count = -(-size // leaving)
            allocation.to_peer_packets += count
            allocation.to_peer_bytes += size
            passed.packets += count
            passed.size += size
            return True

        return relay

    def _datagram_to_client(self, channel: Channel, pass_on: PassOn) -> _Way:
        lets_pass, passed, pack = self._data_path.lets_pass, self._passed[Direction.TO_CLIENT], _HEADER.pack
        allocation, number = channel.allocation, channel.binding.number

        def relay(data: memoryview, now: Instant) -> bool:
            size = len(data)
            if not size or not lets_pass(channel, Direction.TO_CLIENT, size, size, now):
                return False
            if not pass_on(pack(number, size) + data):  # takes less than to send from two places
                return False
            allocation.to_client_packets += 1
            allocation.to_client_bytes += size
            passed.packets += 1
            passed.size += size
            return True

        return relay

    def _run_to_client(self, channel: Channel, pass_on: PassOn, arriving: int) -> _Way:
        lets_pass, passed, scratch = self._data_path.lets_pass, self._passed[Direction.TO_CLIENT], self._scratch
        allocation, number = channel.allocation, channel.binding.number

        def relay(data: memoryview, now: Instant) -> bool:
            size = len(data)
            if not size or not lets_pass(channel, Direction.TO_CLIENT, size, arriving, now):
                return False
            if not pass_on(frame(Run(data, arriving), number, scratch).data):
                return False
            count = -(-size // arriving)
            allocation.to_client_packets += count
            allocation.to_client_bytes += size
            passed.packets += count
            passed.size += size
            return True

        return relay

    def _count(self, direction: Direction) -> None:
        passed = self._passed[direction]
        self._data_path.count_passed(direction, passed.packets, passed.size)
        self._sockets.counters.count_passed(passed.packets)
        passed.packets = passed.size = 0


def _remember(ways: _Ways, key: tuple[bytes, int], way: _Way) -> None:
    if len(ways) >= MOST_WAYS:
        ways.clear()
    ways[key] = way
