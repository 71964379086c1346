"""What channels relay, from one socket to another without a step between.

Most of what one arrival costs, a datagram or a run of them, is finding out whose it is and what to do with it. Both
were answered for the one before: as long as the same bytes stand around it (``connectivity.io.receive_buffer``) and the
core says of the channel that it relays, the answer is the same. So the first goes through the core, and its way is
remembered.

Datagrams of one channel that lie in a socket together leave as a run if they are of one kind and size, whatever
datagrams of others lay between them: the more there is to do, the less each costs. The order within a channel stays,
and what goes through the core finds all before it gone.

A way has a channel of the core's, which tells each time whether it may pass: nothing has to be forgotten when it ends.
What cannot go at once and whole (a full socket, an error, too few tokens, a run of several channels) takes the way
through the core.
"""

import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple, TypeAlias
from weakref import WeakValueDictionary

from connectivity.clock import Instant
from connectivity.io.passage import Part, Passage
from connectivity.io.receive_buffer import Arrival
from connectivity.io.udp import MAX_SEGMENTS, UdpSocket
from connectivity.run import Received, Run
from connectivity.turn.channel_data import HEADER_BYTES
from relay.core import Channel, DataPath, Direction, FiveTuple
from relay.core.allocation import ChannelBinding
from relay.core.channel_runs import MOST_PADDING, SCRATCH_BYTES, frame, strip_uniform
from relay.core.statistics import Volume
from relay.driver.sockets import RelaySockets

# Ways that are remembered by each listen socket, and towards clients, of some 3 KB; past this the oldest go.
MOST_WAYS: Final = 8_192
# What is made one run of single datagrams.
_MOST_MERGED_BYTES: Final = 65_000
_HEADER: Final = struct.Struct("!HH")  # of ChannelData: number, length

# Relays what arrived, now; False if it has not gone.
_Relay: TypeAlias = Callable[[memoryview, Instant], bool]
# The same for datagrams of one size.
_RelayMany: TypeAlias = Callable[[Sequence[Arrival], Instant], bool]
# Sends what has so many bytes of payload, if that may pass, and counts it.
_Send: TypeAlias = Callable[[Part, int, Instant], bool]
# The same for a run; of payload and of what goes, so many bytes a datagram.
_SendRun: TypeAlias = Callable[[Sequence[Part], int, int, int, Instant], bool]


class _Way(NamedTuple):
    """Of a channel in one direction, for what comes in one envelope.

    ``waiting`` is of all ways of the channel: nothing overtakes what came in another envelope. ``leaving`` is the size
    in which segments of a run go that the kernel has made; 0: a way of single datagrams.
    """

    channel: Channel
    waiting: "_Waiting"
    relay: _Relay
    relay_many: _RelayMany | None = None
    leaving: int = 0


class _Waiting(list[tuple[_Way, Arrival]]):
    """Empty but while arrivals are gone through. It lives as long as a way that has it."""

    __slots__ = ("__weakref__",)


_Ways: TypeAlias = dict[tuple[bytes, int], _Way]


class _Passed:
    """What is not in the totals yet; ``merged`` datagrams of it went behind another in a run."""

    __slots__ = ("merged", "volume")

    def __init__(self) -> None:
        self.volume = Volume()
        self.merged = 0


class Direct:
    """The ways of one relay's datagrams."""

    def __init__(self, data_path: DataPath, sockets: RelaySockets) -> None:
        self._data_path = data_path
        self._sockets = sockets
        self._to_peer: dict[UdpSocket, _Ways] = {}  # by listen socket; then by envelope and channel number
        self._to_client: _Ways = {}  # by envelope and relayed port
        self._waiting: WeakValueDictionary[tuple[ChannelBinding, Direction], _Waiting] = WeakValueDictionary()
        self._passed = {direction: _Passed() for direction in Direction}
        self._scratch = memoryview(bytearray(SCRATCH_BYTES))

    def to_peers(self, listening: UdpSocket, arrivals: Sequence[Arrival], now: Instant) -> Iterator[Arrival]:
        """Relay what clients sent; yields what has to go through the core instead."""
        ways, unpack = self._to_peer.setdefault(listening, {}), _HEADER.unpack_from
        busy: list[_Waiting] = []
        for arrival in arrivals:
            envelope, data = arrival
            way = None
            if len(data) > HEADER_BYTES:
                number, _ = unpack(data)
                way = ways.get((envelope, number))
            if way is None:
                yield from _empty(busy, now)
                yield arrival
                continue
            if way.relay_many is None:  # several channels may be in a run of the kernel's: it overtakes nothing
                yield from _empty(busy, now)
                if not way.relay(data, now):
                    yield arrival
                continue
            waiting = way.waiting
            if not waiting:
                busy.append(waiting)
            waiting.append((way, arrival))
        yield from _empty(busy, now)
        self._count(Direction.TO_PEER)

    def to_clients(
        self, ready: Sequence[tuple[int, UdpSocket]], now: Instant
    ) -> Iterator[tuple[int, UdpSocket, Arrival | None]]:
        """Read relayed ports and relay what came; yields what has to go through the core instead.

        None is of a socket that was ready without having anything.
        """
        ways = self._to_client
        busy: list[_Waiting] = []
        for port, readable in ready:
            arrivals = readable.arrivals()
            if not arrivals:
                yield port, readable, None
            for arrival in arrivals:
                envelope, _ = arrival
                way = ways.get((envelope, port))
                if way is None:
                    for left in _empty(busy, now):
                        yield port, readable, left
                    yield port, readable, arrival
                    continue
                waiting = way.waiting
                if not waiting:
                    busy.append(waiting)
                waiting.append((way, arrival))
            for left in _empty(busy, now):  # before the next socket is read into the same memory
                yield port, readable, left
        self._count(Direction.TO_CLIENT)

    def learn_to_peer(self, listening: UdpSocket, envelope: bytes, received: Received) -> None:
        """What came in this envelope has gone through the core; remember the way if it is a channel's."""
        data, arriving = received.run.data, listening.segment(envelope)
        if len(data) <= HEADER_BYTES:
            return
        number, length = _HEADER.unpack_from(data)
        channel = self._data_path.channel_to_peer(FiveTuple(received.remote, received.local), number)
        if channel is None:
            return
        ways, key, leaving = self._to_peer.setdefault(listening, {}), (envelope, number), length if arriving else 0
        if _knows(ways, key, channel, leaving):
            return
        if arriving and strip_uniform(data, arriving, length, self._scratch) is None:
            return  # as those that follow, probably
        peer = channel.binding.peer
        by = self._sockets.relayed(channel.allocation.port, peer.ip.version)
        if by is not None:
            passage = by.passing(None, peer, received.tos)
            runs = arriving and self._runs_to_peer(channel, passage, arriving, leaving)
            _remember(ways, key, runs or self._way_to_peer(channel, passage))

    def learn_to_client(self, readable: UdpSocket, port: int, envelope: bytes, received: Received) -> None:
        """The same for what came to a relayed port."""
        channel = self._data_path.channel_to_client(port, received.remote)
        if channel is None:
            return
        arriving = readable.segment(envelope)
        ways, key, leaving = self._to_client, (envelope, port), HEADER_BYTES + arriving if arriving else 0
        if _knows(ways, key, channel, leaving):
            return
        client, server = channel.allocation.client, channel.allocation.server
        by = self._sockets.listening(server)
        if by is not None:
            passage = by.passing(server, client, received.tos)
            runs = arriving and self._runs_to_client(channel, passage, arriving, leaving)
            _remember(ways, key, runs or self._way_to_client(channel, passage))

    def _way_to_peer(self, channel: Channel, passage: Passage) -> _Way:
        """Of single datagrams."""
        direction, unpack = Direction.TO_PEER, _HEADER.unpack_from
        send, send_run = self._sends(channel, direction, passage), self._sends_runs(channel, direction, passage)

        def relay(data: memoryview, now: Instant) -> bool:
            _, size = unpack(data)
            end = HEADER_BYTES + size
            return HEADER_BYTES < end <= len(data) <= end + MOST_PADDING and send(data[HEADER_BYTES:end], size, now)

        def relay_many(arrivals: Sequence[Arrival], now: Instant) -> bool:
            _, first = arrivals[0]
            _, length = unpack(first)
            end = HEADER_BYTES + length
            if not HEADER_BYTES < end <= len(first) <= end + MOST_PADDING:
                return False
            payloads = [data[HEADER_BYTES:end] for _, data in arrivals if unpack(data)[1] == length]
            return len(payloads) == len(arrivals) and send_run(payloads, length * len(payloads), length, length, now)

        return _Way(channel, self._waiting_of(channel, direction), relay, relay_many)

    def _way_to_client(self, channel: Channel, passage: Passage) -> _Way:
        """Of single datagrams."""
        direction = Direction.TO_CLIENT
        send, send_run = self._sends(channel, direction, passage), self._sends_runs(channel, direction, passage)
        pack, number = _HEADER.pack, channel.binding.number

        def relay(data: memoryview, now: Instant) -> bool:
            size = len(data)
            return size > 0 and send(pack(number, size) + data, size, now)  # takes less than to send from two places

        def relay_many(arrivals: Sequence[Arrival], now: Instant) -> bool:
            _, first = arrivals[0]
            length = len(first)
            header = pack(number, length)
            parts = [part for _, data in arrivals for part in (header, data)]
            return length > 0 and send_run(parts, length * len(arrivals), length, HEADER_BYTES + length, now)

        return _Way(channel, self._waiting_of(channel, direction), relay, relay_many)

    def _runs_to_peer(self, channel: Channel, passage: Passage, arriving: int, leaving: int) -> _Way:
        """Of runs that the kernel has made."""
        send_run, scratch = self._sends_runs(channel, Direction.TO_PEER, passage), self._scratch

        def relay(data: memoryview, now: Instant) -> bool:
            payloads = strip_uniform(data, arriving, leaving, scratch)
            return payloads is not None and send_run((payloads,), len(payloads), leaving, leaving, now)

        return _Way(channel, self._waiting_of(channel, Direction.TO_PEER), relay, leaving=leaving)

    def _runs_to_client(self, channel: Channel, passage: Passage, arriving: int, leaving: int) -> _Way:
        """Of runs that the kernel has made."""
        send_run, scratch = self._sends_runs(channel, Direction.TO_CLIENT, passage), self._scratch
        number = channel.binding.number

        def relay(data: memoryview, now: Instant) -> bool:
            framed, _ = frame(Run(data, arriving), number, scratch)
            return send_run((framed,), len(data), arriving, leaving, now)

        return _Way(channel, self._waiting_of(channel, Direction.TO_CLIENT), relay, leaving=leaving)

    def _sends(self, channel: Channel, direction: Direction, passage: Passage) -> _Send:
        lets_pass, returns_tokens = self._data_path.lets_pass, self._data_path.returns_tokens
        moved, passed, send = channel.allocation.moved(direction), self._passed[direction].volume, passage.datagram

        def send_one(data: Part, size: int, now: Instant) -> bool:
            if not lets_pass(channel, direction, size, size, now):
                return False
            if not send(data):
                returns_tokens(channel, direction, size)
                return False
            moved.packets += 1
            moved.size += size
            passed.packets += 1
            passed.size += size
            return True

        return send_one

    def _sends_runs(self, channel: Channel, direction: Direction, passage: Passage) -> _SendRun:
        lets_pass, returns_tokens = self._data_path.lets_pass, self._data_path.returns_tokens
        moved, passed = channel.allocation.moved(direction), self._passed[direction]

        def send_run(parts: Sequence[Part], size: int, segment: int, leaving: int, now: Instant) -> bool:
            if not lets_pass(channel, direction, size, segment, now):
                return False
            if not passage.run(parts, leaving):
                returns_tokens(channel, direction, size)
                return False
            count = -(-size // segment)
            moved.add(count, size)
            passed.volume.add(count, size)
            passed.merged += count - 1
            return True

        return send_run

    def _waiting_of(self, channel: Channel, direction: Direction) -> _Waiting:
        return self._waiting.setdefault((channel.binding, direction), _Waiting())

    def _count(self, direction: Direction) -> None:
        passed = self._passed[direction]
        packets, size = passed.volume.packets, passed.volume.size
        self._data_path.count_passed(direction, packets, size)
        self._sockets.counters.count_passed(packets - passed.merged, packets)
        passed.volume.packets = passed.volume.size = passed.merged = 0


def _empty(busy: list[_Waiting], now: Instant) -> list[Arrival]:
    """Relay what waits; returns what has not gone, which is to go before anything else."""
    left: list[Arrival] = []
    for waiting in busy:
        if len(waiting) == 1:
            ((way, arrival),) = waiting
            _, data = arrival
            if not way.relay(data, now):
                left.append(arrival)
        else:
            left += _relay_all(waiting, now)
        waiting.clear()
    busy.clear()
    return left


def _relay_all(waiting: _Waiting, now: Instant) -> list[Arrival]:
    """Several, in order: once something has not gone, nothing behind it goes directly."""
    begin = 0
    while begin < len(waiting):
        way, _ = waiting[begin]
        end = _end_of_kind(waiting, begin)
        if end - begin == 1 or not way.relay_many or not way.relay_many([each for _, each in waiting[begin:end]], now):
            for index in range(begin, end):
                _, (_, data) = waiting[index]
                if not way.relay(data, now):
                    return [arrival for _, arrival in waiting[index:]]
        begin = end
    return []


def _end_of_kind(waiting: _Waiting, begin: int) -> int:
    """Where the datagrams of one kind and size that begin here end, if a run may not be longer."""
    way, (_, data) = waiting[begin]
    size = len(data)
    most = begin + min(MAX_SEGMENTS, _MOST_MERGED_BYTES // (size + HEADER_BYTES))
    end = begin + 1
    while end < min(most, len(waiting)):
        other, (_, data) = waiting[end]
        if other is not way or len(data) != size:
            break
        end += 1
    return end


def _knows(ways: _Ways, key: tuple[bytes, int], channel: Channel, leaving: int) -> bool:
    """Whether there is such a way, and what has not gone by it had another reason."""
    way = ways.get(key)
    return way is not None and way.channel == channel and way.leaving == leaving


def _remember(ways: _Ways, key: tuple[bytes, int], way: _Way) -> None:
    if len(ways) >= MOST_WAYS and key not in ways:
        del ways[next(iter(ways))]
    ways[key] = way
