"""The fast path of channels in user space: from one socket to another without the core between.

Most of what one arrival costs, a datagram or a run of them, is finding out whose it is and what to do with it. Both
were answered for the one before: as long as the same bytes stand around it (``connectivity.io.receive_buffer``) and the
core says of the channel that it relays, the answer is the same. So the first goes through the core, and a forwarder is
remembered for the others.

Datagrams of one channel that lie in a socket together leave as a run if they are of one kind and size, whatever
datagrams of others lay between them: the more there is to do, the less each costs. The order within a channel stays,
and what goes through the core finds all before it gone.

A forwarder (``relay.driver.forwarders``) has a channel of the core's, which tells each time whether it may pass:
nothing has to be forgotten when it ends. What cannot go at once and whole (a full socket, an error, too few tokens, a
run of several channels) goes through the core.
"""

from collections.abc import Iterator, Sequence
from typing import Final, TypeAlias
from weakref import WeakValueDictionary

from connectivity.clock import Instant
from connectivity.io.receive_buffer import Arrival
from connectivity.io.udp import UdpSocket
from connectivity.run import MAX_SEGMENTS, Received
from connectivity.turn.channel_data import HEADER_BYTES
from relay.core import Channel, DataPath, Direction, FiveTuple
from relay.core.allocation import ChannelBinding
from relay.core.channel_runs import strip_uniform
from relay.driver.forwarders import (
    HEADER,
    SCRATCH,
    DatagramsToClient,
    DatagramsToPeer,
    Forwarder,
    Passed,
    RunsToClient,
    RunsToPeer,
    Waiting,
)
from relay.driver.sockets import RelaySockets

# Ways that are remembered by each listen socket, and towards clients, of some 1.2 KB; past this the oldest go.
MOST_FORWARDERS: Final = 16_384
# What is made one run of single datagrams.
_MOST_MERGED_BYTES: Final = 65_000

_Forwarders: TypeAlias = dict[tuple[bytes, int], Forwarder]


class FastPath:
    """The forwarders of one relay's datagrams."""

    def __init__(self, data_path: DataPath, sockets: RelaySockets) -> None:
        self._data_path = data_path
        self._sockets = sockets
        self._to_peer: dict[UdpSocket, _Forwarders] = {}  # by listen socket; then by envelope and channel number
        self._to_client: _Forwarders = {}  # by envelope and relayed port
        # So that nothing overtakes what came in another envelope.
        self._waiting: WeakValueDictionary[tuple[ChannelBinding, Direction], Waiting] = WeakValueDictionary()
        self._passed = {direction: Passed() for direction in Direction}

    def to_peers(self, listening: UdpSocket, arrivals: Sequence[Arrival], now: Instant) -> Iterator[Arrival]:
        """Relay what clients sent; yields what has to go through the core instead."""
        forwarders, unpack = self._to_peer.setdefault(listening, {}), HEADER.unpack_from
        busy: list[Waiting] = []
        for arrival in arrivals:
            envelope, data = arrival
            forwarder = None
            if len(data) >= HEADER_BYTES:
                number, _ = unpack(data)
                forwarder = forwarders.get((envelope, number))
            if forwarder is None:
                yield from _empty(busy, now)
                yield arrival
                continue
            if not forwarder.merges:  # several channels may be in a run of the kernel's: it overtakes nothing
                yield from _empty(busy, now)
                if not forwarder.relay(data, now):
                    yield arrival
                continue
            waiting = forwarder.waiting
            if not waiting:
                busy.append(waiting)
            waiting.append((forwarder, arrival))
        yield from _empty(busy, now)
        self._count(Direction.TO_PEER)

    def to_clients(
        self, ready: Sequence[tuple[int, UdpSocket]], now: Instant
    ) -> Iterator[tuple[int, UdpSocket, Arrival | None]]:
        """Read relayed ports and relay what came; yields what has to go through the core instead.

        None is of a socket that was ready without having anything.
        """
        forwarders = self._to_client
        busy: list[Waiting] = []
        for port, readable in ready:
            arrivals = readable.arrivals()
            if not arrivals:
                yield port, readable, None
            for arrival in arrivals:
                envelope, _ = arrival
                forwarder = forwarders.get((envelope, port))
                if forwarder is None:
                    for left in _empty(busy, now):
                        yield port, readable, left
                    yield port, readable, arrival
                    continue
                waiting = forwarder.waiting
                if not waiting:
                    busy.append(waiting)
                waiting.append((forwarder, arrival))
            for left in _empty(busy, now):  # before the next socket is read into the same memory
                yield port, readable, left
        self._count(Direction.TO_CLIENT)

    def learn_to_peer(self, listening: UdpSocket, envelope: bytes, received: Received) -> None:
        """What came in this envelope has gone through the core; remember the forwarder if it is a channel's."""
        data, arriving = received.run.data, listening.segment(envelope)
        if len(data) < HEADER_BYTES:
            return
        number, length = HEADER.unpack_from(data)
        channel = self._data_path.channel_to_peer(FiveTuple(received.remote, received.local), number)
        if channel is None or (arriving and strip_uniform(data, arriving, length, SCRATCH) is None):
            return  # of several channels, as those that follow, probably
        peer = channel.binding.peer
        forwarders, leaving = self._to_peer.setdefault(listening, {}), length if arriving else 0
        by = self._sockets.relayed(channel.allocation.port, peer.ip.version)
        if by is not None and not _knows(forwarders, (envelope, number), channel, leaving):
            sender = by.prepared_sender(None, peer, received.tos)
            passed, waiting = self._passed[Direction.TO_PEER], self._waiting_of(channel, Direction.TO_PEER)
            kind = RunsToPeer if arriving else DatagramsToPeer
            forwarder = kind(self._data_path, channel, sender, passed, waiting, arriving, leaving)
            _remember(forwarders, (envelope, number), forwarder)

    def learn_to_client(self, readable: UdpSocket, port: int, envelope: bytes, received: Received) -> None:
        """What came to a relayed port in this envelope has gone through the core; remember its forwarder likewise."""
        channel = self._data_path.channel_to_client(port, received.remote)
        if channel is None:
            return
        client, server = channel.allocation.client, channel.allocation.server
        arriving = readable.segment(envelope)
        forwarders, leaving = self._to_client, HEADER_BYTES + arriving if arriving else 0
        by = self._sockets.listening(server)
        if by is not None and not _knows(forwarders, (envelope, port), channel, leaving):
            sender = by.prepared_sender(server, client, received.tos)
            passed, waiting = self._passed[Direction.TO_CLIENT], self._waiting_of(channel, Direction.TO_CLIENT)
            kind = RunsToClient if arriving else DatagramsToClient
            forwarder = kind(self._data_path, channel, sender, passed, waiting, arriving, leaving)
            _remember(forwarders, (envelope, port), forwarder)

    def _waiting_of(self, channel: Channel, direction: Direction) -> Waiting:
        return self._waiting.setdefault((channel.binding, direction), Waiting())

    def _count(self, direction: Direction) -> None:
        passed = self._passed[direction]
        packets, size = passed.volume.packets, passed.volume.size
        self._data_path.count_passed(direction, packets, size)
        self._sockets.counters.count_passed(packets - passed.merged, packets)
        passed.volume.packets = passed.volume.size = passed.merged = 0


def _empty(busy: list[Waiting], now: Instant) -> list[Arrival]:
    """Relay what waits; returns what has not gone, which is to go before anything else."""
    left: list[Arrival] = []
    for waiting in busy:
        if len(waiting) == 1:
            ((forwarder, arrival),) = waiting
            _, data = arrival
            if not forwarder.relay(data, now):
                left.append(arrival)
        else:
            left += _relay_all(waiting, now)
        waiting.clear()
    busy.clear()
    return left


def _relay_all(waiting: Waiting, now: Instant) -> list[Arrival]:
    """Several, in order: once something has not gone, nothing behind it goes directly."""
    begin = 0
    while begin < len(waiting):
        forwarder, _ = waiting[begin]
        end = _end_of_kind(waiting, begin)
        if (
            end - begin == 1
            or not forwarder.merges
            or not forwarder.relay_many([each for _, each in waiting[begin:end]], now)
        ):
            for index in range(begin, end):
                _, (_, data) = waiting[index]
                if not forwarder.relay(data, now):
                    return [arrival for _, arrival in waiting[index:]]
        begin = end
    return []


def _end_of_kind(waiting: Waiting, begin: int) -> int:
    """Where the datagrams of one kind and size that begin here end, if a run may not be longer."""
    forwarder, (_, data) = waiting[begin]
    size = len(data)
    most = begin + min(MAX_SEGMENTS, _MOST_MERGED_BYTES // (size + HEADER_BYTES))
    end = begin + 1
    while end < min(most, len(waiting)):
        other, (_, data) = waiting[end]
        if other is not forwarder or len(data) != size:
            break
        end += 1
    return end


def _knows(forwarders: _Forwarders, key: tuple[bytes, int], channel: Channel, leaving: int) -> bool:
    """Whether there is such a forwarder, and what has not gone by it had another reason."""
    forwarder = forwarders.get(key)
    return forwarder is not None and forwarder.channel == channel and forwarder.leaving == leaving


def _remember(forwarders: _Forwarders, key: tuple[bytes, int], forwarder: Forwarder) -> None:
    if len(forwarders) >= MOST_FORWARDERS and key not in forwarders:
        del forwarders[next(iter(forwarders))]
    forwarders[key] = forwarder
