"""Demultiplexing of what is no data of a known session: answers of relays, channel data, STUN, handshakes.

First match wins: relay traffic by the address of a known relay (STUN to its allocation, channel data unwrapped once),
STUN to the agents, WireGuard to the connection that its receiver index, or for an initiation its static key, names. The
source address never chooses a WireGuard connection.

Anybody may send here what is for nobody. Such datagrams are counted as they lie together, by one error for a stretch of
them, which is put into words only if somebody reads it.
"""

import logging
from collections.abc import Callable
from typing import Final

from connectivity.clock import Instant, WallTime
from connectivity.data_path import MAX_DATAGRAM_BYTES, DataPath, Opened
from connectivity.data_path.data_path import Stirred
from connectivity.data_path.segments import stretches, uniform
from connectivity.endpoint import Endpoint
from connectivity.node.connections import ConnectionTable
from connectivity.node.errors import NodeError, StrayDatagramError, UnknownConnectionError
from connectivity.node.handshakes import Handshakes, is_handshake_shaped
from connectivity.node.path import CHANNEL_LEASE
from connectivity.node.relays import RelaySet
from connectivity.run import Received, Run, Transmit
from connectivity.stun import DecodeError, Message, decode
from connectivity.turn.channel_data import HEADER_BYTES
from connectivity.wireguard import DATA, DATA_OVERHEAD_BYTES, HandshakeError, connection_of, receiver_index

log = logging.getLogger("connectivity.node")

_LARGEST_FIRST_BYTE: Final = 3  # of STUN, and of WireGuard's handshakes
_NOTHING: Final = 256


class Arrivals:
    """The demultiplexer of a node, for as long as the node has the same key."""

    def __init__(
        self,
        *,
        data_path: DataPath,
        relays: RelaySet,
        connections: ConnectionTable,
        handshakes: Handshakes,
        stirred: Stirred,
        transmit: Callable[[Transmit], None],
        settle: Callable[[], None],
    ) -> None:
        """``settle`` spreads what a message may have changed."""
        self._data_path = data_path
        self._relays = relays
        self._connections = connections
        self._handshakes = handshakes
        self._stirred = stirred
        self._transmit = transmit
        self._settle = settle

    def open(
        self,
        received: Received,
        now: Instant,
        wall_now: WallTime,
        sink: Callable[[Opened], None],
        errors: list[Exception],
    ) -> None:
        """Take datagrams in that the data path has not opened as a whole; the rest is as for ``Node.open_others``."""
        local, remote, run, tos = received
        if not run.data or self._takes_uniform(received, now, wall_now, sink, errors):
            return
        for part in stretches(run):  # the kernel joins what comes from one address, whatever it is
            stretch = Received(local, remote, part, tos)
            if self._opened(stretch, now, sink) or self._takes_uniform(stretch, now, wall_now, sink, errors):
                continue
            for segment in part.segments():
                single = Received(local, remote, Run.single(segment), tos)
                if len(segment) <= MAX_DATAGRAM_BYTES and not self._opened(single, now, sink):
                    headroom = self._headroom(remote, segment)
                    headroom = headroom if uniform(single.run, headroom) else 0
                    self._take(single, headroom, now, wall_now, sink, errors)

    def _takes_uniform(
        self,
        received: Received,
        now: Instant,
        wall_now: WallTime,
        sink: Callable[[Opened], None],
        errors: list[Exception],
    ) -> bool:
        """Whether the datagrams are all of one kind; then they were taken."""
        run = received.run
        data, size = run
        headroom = self._headroom(received.remote, data)
        if size > MAX_DATAGRAM_BYTES or ((len(data) > size or headroom) and not uniform(run, headroom)):
            return False
        self._take(received, headroom, now, wall_now, sink, errors)
        return True

    def _headroom(self, remote: Endpoint, segment: memoryview) -> int:
        """The bytes of a channel header, if this is channel data of a relay of ours."""
        is_channel_data = 0x40 <= segment[0] <= 0x4F and self._relays.is_relay_address(remote)
        return HEADER_BYTES if is_channel_data else 0

    def _take(
        self,
        received: Received,
        headroom: int,
        now: Instant,
        wall_now: WallTime,
        sink: Callable[[Opened], None],
        errors: list[Exception],
    ) -> None:
        """Datagrams of one kind. Channel data is unwrapped once, as if the peer had sent it to our relayed address."""
        local, remote, run, _ = received
        data = run.data
        if headroom:
            number = data[0] << 8 | data[1]
            allocation = self._relays.at(remote)
            peer = None if allocation is None else allocation.receive_channel(remote, number, now)
            relayed = None if allocation is None or peer is None else allocation.relayed_address(peer.ip.version)
            if peer is None or relayed is None:
                return
            self._data_path.allow_channel(remote, number, now + CHANNEL_LEASE)
            local, remote = relayed, peer
        kind = data[headroom] if len(data) > headroom else _NOTHING
        if kind == DATA and len(data) >= headroom + DATA_OVERHEAD_BYTES:
            # What lies in a channel could not be opened before the channel was allowed; all else was tried.
            if not (headroom and self._opened(received, now, sink)):
                index = connection_of(receiver_index(data[headroom:]))
                errors.append(UnknownConnectionError("no connection for index {}", index, datagrams=run.segment_count))
        elif kind > _LARGEST_FIRST_BYTE:
            words = "not a WireGuard packet: from={} length={}"
            length = min(len(data), run.segment_size) - headroom
            errors.append(StrayDatagramError(words, remote, length, datagrams=run.segment_count))
        else:
            self._take_messages(local, remote, run, headroom, now, wall_now, errors)

    def _take_messages(
        self,
        local: Endpoint,
        remote: Endpoint,
        run: Run,
        headroom: int,
        now: Instant,
        wall_now: WallTime,
        errors: list[Exception],
    ) -> None:
        """What may be STUN or a handshake, one by one."""
        for segment in run.segments():
            message = segment[headroom:]
            if self._handshakes.is_flood(remote, message, now):
                continue
            try:
                self._handle_message(local, remote, message, unwrapped=headroom > 0, now=now, wall_now=wall_now)
            except NodeError as error:
                errors.append(error)
        self._settle()

    def _opened(self, received: Received, now: Instant, sink: Callable[[Opened], None]) -> bool:
        """Whether it was data that the data path could open."""
        opened = self._data_path.decrypt(received, now, self._stirred)
        if isinstance(opened, Opened):
            sink(opened)
        return opened is not False

    def _handle_message(
        self, local: Endpoint, remote: Endpoint, data: memoryview, *, unwrapped: bool, now: Instant, wall_now: WallTime
    ) -> None:
        """A single STUN message or WireGuard handshake message."""
        if not is_handshake_shaped(data):
            try:
                message = decode(data)
            except DecodeError:
                pass  # a WireGuard handshake message begins with the same bytes
            else:
                self._handle_stun(local, remote, message, unwrapped=unwrapped, now=now, wall_now=wall_now)
                return
        try:
            self._handshakes.handle(remote, data, now, wall_now)
        except HandshakeError as error:
            if error.reply is not None and not unwrapped:  # under load, and the cookie proves only an address
                self._transmit(Transmit(local, remote, Run.single(error.reply)))
            raise StrayDatagramError("from={} length={}: {}", remote, len(data), error) from error

    def _handle_stun(
        self, local: Endpoint, remote: Endpoint, message: Message, *, unwrapped: bool, now: Instant, wall_now: WallTime
    ) -> None:
        """An answer of a relay is for its allocation, all else for an agent."""
        if not unwrapped and self._relays.is_relay_address(remote):
            allocation = self._relays.at(remote)
            if allocation is not None and allocation.handle_message(local, remote, message, now):
                self._data_path.forget_channels()
            return
        connection = self._connections.accepting(message, remote)
        if connection is None:
            log.debug("No agent accepts this STUN message", extra={"fields": {"remote": str(remote)}})
            return
        connection.agent.handle_message(message, source=remote, destination=local, now=now)
        connection.agent.handle_timeout(now)
        connection.drain(now, wall_now)
