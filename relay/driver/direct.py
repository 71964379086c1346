"""Single datagrams of live channels, from one socket to another without a step between.

Most of what one datagram costs is finding out whose it is and what to do with it. Both were answered for the datagram
before: as long as the same bytes stand around it (``connectivity.io.receive_buffer``) and the core says of the channel
that it relays, the answer is the same. So the first datagram goes through the core, and its way is remembered; runs of
many go through the core always, where they cost one decision each.

What is remembered is a channel of the core's, which tells with every datagram whether it may pass: nothing has to be
forgotten when it ends. What cannot go at once (a full socket, an error, no tokens) takes the way through the core.
"""

import struct
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple, TypeAlias

from connectivity.clock import Instant
from connectivity.io.receive_buffer import Arrival
from connectivity.io.udp import PassOn, UdpSocket
from connectivity.run import Received, Transmit
from connectivity.turn.channel_data import HEADER_BYTES
from relay.core import Channel, DataPath, Direction, FiveTuple
from relay.core.channel_runs import MOST_PADDING
from relay.driver.sockets import RelaySockets

# Ways that are remembered in each direction; past this the memory is emptied, not grown.
MOST_WAYS: Final = 16_384
_HEADER: Final = struct.Struct("!HH")  # of ChannelData: number, length


class _Way(NamedTuple):
    """By which channel, and what sends."""

    channel: Channel
    pass_on: PassOn


_Ways: TypeAlias = dict[tuple[bytes, int], _Way]
_NONE: Final[_Ways] = {}


class Direct:
    """The ways of one relay's datagrams."""

    def __init__(self, data_path: DataPath, sockets: RelaySockets) -> None:
        self._data_path = data_path
        self._sockets = sockets
        self._to_peer: dict[UdpSocket, _Ways] = {}  # by listen socket; then by envelope and channel number
        self._to_client: _Ways = {}  # by envelope and relayed port

    def to_peers(self, listening: UdpSocket, arrivals: Sequence[Arrival], now: Instant) -> Iterator[Arrival]:
        """Relay what clients sent; yields what has to go through the core instead, each at its turn."""
        ways, lets_pass, unpack = self._to_peer.get(listening, _NONE), self._data_path.lets_pass, _HEADER.unpack_from
        passed = octets = 0
        for arrival in arrivals:
            envelope, data = arrival
            size = len(data) - HEADER_BYTES
            if size > 0:
                number, length = unpack(data)
                way = ways.get((envelope, number))
                if way is not None and 0 < length <= size <= length + MOST_PADDING:
                    channel, pass_on = way
                    payload = data[HEADER_BYTES : HEADER_BYTES + length]
                    if lets_pass(channel, Direction.TO_PEER, length, now) and pass_on(payload):
                        allocation = channel.allocation
                        allocation.to_peer_packets += 1
                        allocation.to_peer_bytes += length
                        passed += 1
                        octets += length
                        continue
            yield arrival
            ways = self._to_peer.get(listening, _NONE)  # there may be some now
        self._count(Direction.TO_PEER, passed, octets)

    def to_clients(
        self, ready: Sequence[tuple[int, UdpSocket]], now: Instant
    ) -> Iterator[tuple[int, UdpSocket, Arrival | None]]:
        """Read relayed ports and relay what came; yields what has to go through the core instead, each at its turn.

        None is of a socket that was ready without having anything.
        """
        ways, lets_pass, pack = self._to_client, self._data_path.lets_pass, _HEADER.pack
        passed = octets = 0
        for port, readable in ready:
            arrivals = readable.arrivals()
            if not arrivals:
                yield port, readable, None
            for arrival in arrivals:
                envelope, data = arrival
                way, length = ways.get((envelope, port)), len(data)
                if way is not None and length:
                    channel, pass_on = way
                    message = pack(channel.binding.number, length) + data  # takes less than to send from two places
                    if lets_pass(channel, Direction.TO_CLIENT, length, now) and pass_on(message):
                        allocation = channel.allocation
                        allocation.to_client_packets += 1
                        allocation.to_client_bytes += length
                        passed += 1
                        octets += length
                        continue
                yield port, readable, arrival
        self._count(Direction.TO_CLIENT, passed, octets)

    def learn_to_peer(self, listening: UdpSocket, envelope: bytes, received: Received) -> None:
        """What came alone in this envelope has gone through the core; remember the way if it is a channel's."""
        data = received.run.data
        if len(data) < HEADER_BYTES:
            return
        number, _ = _HEADER.unpack_from(data)
        channel = self._data_path.channel_to_peer(FiveTuple(received.remote, received.local), number)
        if channel is not None:
            peer = channel.binding.peer
            by = self._sockets.relayed(channel.allocation.port, peer.ip.version)
            like = Transmit(None, peer, received.run, received.tos)
            _remember(self._to_peer.setdefault(listening, {}), (envelope, number), channel, by, like)

    def learn_to_client(self, port: int, envelope: bytes, received: Received) -> None:
        """The same for what came to a relayed port."""
        channel = self._data_path.channel_to_client(port, received.remote)
        if channel is not None:
            allocation = channel.allocation
            like = Transmit(allocation.server, allocation.client, received.run, received.tos)
            _remember(self._to_client, (envelope, port), channel, self._sockets.listening(allocation.server), like)

    def _count(self, direction: Direction, passed: int, octets: int) -> None:
        self._data_path.count_passed(direction, passed, octets)
        self._sockets.counters.count_passed(passed)


def _remember(ways: _Ways, key: tuple[bytes, int], channel: Channel, by: UdpSocket | None, like: Transmit) -> None:
    if by is None:
        return
    if len(ways) >= MOST_WAYS:
        ways.clear()
    ways[key] = _Way(channel, by.passing(like))
