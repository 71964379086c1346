"""Peers over ICE, WireGuard and relays, as one object without IO.

Datagrams are told apart as follows (first match wins): relay traffic by the address of a known relay (STUN to its
allocation, channel data unwrapped once), STUN to the agents, WireGuard to the connection that its receiver index, or
for an initiation its static key, names. The source address never chooses a WireGuard connection.

Hot calls are ``seal`` and ``open``; what they return is borrowed. Everything else leaves through ``poll_transmit`` and
``poll_event``.
"""

import logging
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Final

from connectivity.clock import Instant, WallTime, earliest
from connectivity.endpoint import Endpoint, IPAddress
from connectivity.ice import IceCredentials
from connectivity.node.connection import Connection, Parameters, State, Surroundings
from connectivity.node.connections import ConnectionTable
from connectivity.node.errors import NodeError, NoRelaysError, StrayDatagramError, UnknownConnectionError
from connectivity.node.events import ConnectionClosed, ConnectionFailed, Event, Opened
from connectivity.node.handshakes import Handshakes, is_handshake_shaped
from connectivity.node.relays import RelayServer, RelaySet
from connectivity.node.segments import uniform
from connectivity.node.signalling import readable
from connectivity.node.statistics import ConnectionStatus, Statistics
from connectivity.run import Received, Run, Transmit, owned
from connectivity.stun import DecodeError, decode
from connectivity.turn.channel_data import HEADER_BYTES
from connectivity.turn.requests import software_attribute
from connectivity.wireguard import (
    HandshakeError,
    HandshakeReason,
    KeyPair,
    RateLimiter,
    Workspace,
    format_index,
    receiver_index,
)

log = logging.getLogger("connectivity.node")

MAX_DATAGRAM_BYTES: Final = 1316  # an inner packet of 1280, WireGuard's 32, a channel header of 4
_LARGEST_STUN_FIRST_BYTE: Final = 3
_TRANSPORT_DATA: Final = 4
_DATA_MESSAGE_BYTES: Final = 32  # a keep-alive, the shortest data message


class Node:
    """The client controls its connections, the gateway is controlled; in all else the two are alike."""

    def __init__(self, *, keys: KeyPair, controlling: bool, rng: Callable[[int], bytes]) -> None:
        self._controlling = controlling
        self._rng = rng
        self._relays = RelaySet(software=software_attribute(keys.public), rng=rng)
        self._connections = ConnectionTable(rng)
        self._refused: Counter[HandshakeReason] = Counter()
        self._workspace = Workspace()  # one for all tunnels: what they hand out is borrowed until the node's next call
        self._transmits: deque[Transmit] = deque()
        self._events: deque[Event] = deque()
        self._take_keys(keys)

    def reset(self, keys: KeyPair, now: Instant) -> None:
        """Begin anew, with other keys and from other sockets.

        Connections end without a goodbye or an event, what was to be sent is not sent, and the relays that are known
        are asked for allocations again. What is counted goes on.
        """
        self._connections.clear()
        self._transmits.clear()
        self._events.clear()
        self._relays = self._relays.anew(software=software_attribute(keys.public), now=now)
        self._take_keys(keys)

    def _take_keys(self, keys: KeyPair) -> None:
        limiter = RateLimiter(keys.public, self._rng)
        self.keys = keys
        self._handshakes = Handshakes(keys, limiter, self._connections, self._refused)
        self._surroundings = Surroundings(
            keys=keys,
            controlling=self._controlling,
            limiter=limiter,
            workspace=self._workspace,
            relays=self._relays,
            rng=self._rng,
            emit=self._events.append,
            transmit=self._transmits.append,
        )

    # Relays and connections ----------------------------------------------------------------------------------------

    def update_relays(self, remove: Iterable[str], add: Iterable[RelayServer], now: Instant) -> None:
        """Apply a relay list of the portal."""
        self._relays.update(remove, add, now)
        self._migrate()
        self._settle()

    def relay_addresses(self) -> list[IPAddress]:
        """Where the relays are that are known now."""
        return [address.ip for address in self._relays.addresses()]

    def upsert(
        self,
        connection_id: str,
        *,
        public_key: bytes,
        preshared_key: bytes,
        local: IceCredentials,
        remote: IceCredentials,
        now: Instant,
        wall_now: WallTime,
    ) -> bool:
        """Make a connection, or keep the one there is if keys and both credentials are unchanged.

        Returns:
            Whether it is a new one.

        Raises:
            NoRelaysError: a new connection is needed and no relay is known; an existing one is left alone.
        """
        parameters = Parameters(public_key, preshared_key, local, remote)
        fields = {"cid": connection_id}
        held = self._connections.get(connection_id)
        if held is not None and held.parameters == parameters and held.state is not State.FAILED:
            log.info("Reusing existing connection", extra={"fields": fields})
            held.touch(now)
            held.signal_again()
            if self._controlling:
                held.start_session(now, wall_now)
            held.drain(now, wall_now)
            self._settle()
            return False
        relay_id = self._relays.pick()
        if relay_id is None:
            raise NoRelaysError(f"no relay for ID {connection_id}")
        if held is not None:
            self._connections.remove(held)
        index = self._connections.unused_index()
        connection = Connection(
            connection_id=connection_id,
            index=index,
            parameters=parameters,
            relay_id=relay_id,
            surroundings=self._surroundings,
            now=now,
        )
        self._connections.add(connection)
        phrase = "Replaced connection" if held is not None else "Created new connection"
        log.info(phrase, extra={"fields": fields | {"index": format_index(index << 8)}})
        for owner, candidate in self._relays.candidates():
            connection.add_local_candidate(owner, candidate)
        self._settle()
        return True

    def close(self, connection_id: str, goodbye: bytes, now: Instant) -> None:
        """Forget a connection after sending ``goodbye`` (an IP packet) through it, if it has a path."""
        connection = self._connections.get(connection_id)
        if connection is None:
            return
        transmit = connection.seal(Run.single(goodbye), 0, now) if connection.socket is not None else None
        if transmit is not None:
            self._transmits.append(owned(transmit))
            self._events.append(ConnectionClosed(connection_id))
        log.info("Connection closed by us", extra={"fields": {"cid": connection_id}})
        self._connections.remove(connection)

    def remove(self, connection_id: str, reason: str) -> None:
        """Forget a connection that the peer closed."""
        connection = self._connections.get(connection_id)
        if connection is not None:
            log.info("Connection closed by peer", extra={"fields": {"cid": connection_id, "reason": reason}})
            self._connections.remove(connection)

    def add_remote_candidates(self, connection_id: str, texts: Sequence[str], now: Instant, wall_now: WallTime) -> None:
        """Take signalled candidates in their order. Unreadable ones, or all for a connection unknown, are skipped."""
        connection = self._connections.get(connection_id)
        if connection is None:
            log.debug("Candidates for an unknown connection", extra={"fields": {"cid": connection_id}})
            return
        for candidate in readable(connection_id, texts):
            log.info("Received candidate", extra={"fields": {"cid": connection_id, "candidate": candidate.to_text()}})
            connection.add_remote_candidate(candidate, now)
        connection.handle_timeout(now, wall_now)
        self._settle()

    def remove_remote_candidates(
        self, connection_id: str, texts: Sequence[str], now: Instant, wall_now: WallTime
    ) -> None:
        """Stop using candidates that the peer revoked."""
        connection = self._connections.get(connection_id)
        if connection is None:
            return
        for candidate in readable(connection_id, texts):
            fields = {"cid": connection_id, "candidate": candidate.to_text()}
            log.info("Peer invalidated candidate", extra={"fields": fields})
            connection.agent.remove_remote_candidate(candidate, now)
        connection.handle_timeout(now, wall_now)
        self._settle()

    def has_connection(self, connection_id: str) -> bool:
        """Whether there is a connection in any state but failed."""
        return connection_id in self._connections

    def connections(self) -> list[ConnectionStatus]:
        """Each connection, for people."""
        return [connection.status() for connection in self._connections]

    def statistics(self) -> Statistics:
        """What to count; looks at every connection, so ask once a second at most."""
        return replace(self._connections.statistics(), handshakes_refused=self._refused.copy())

    # Traffic -------------------------------------------------------------------------------------------------------

    def seal(self, connection_id: str, run: Run, tos: int, now: Instant) -> Transmit | None:
        """Encrypt a run of whole IP packets (≤ 1280 bytes each) for a peer. The result is borrowed.

        None when it waits for a path or a session, or was dropped.

        Raises:
            UnknownConnectionError: there is no such connection.
        """
        connection = self._connections.get(connection_id)
        if connection is None:
            raise UnknownConnectionError(f"no connection for ID {connection_id}")
        transmit = connection.seal(run, tos, now)
        if transmit is None:
            connection.drain_tunnel(now)
        return transmit

    def send(self, connection_id: str, packet: bytes, tos: int, now: Instant) -> None:
        """Send a packet that nobody stands by to take: it leaves by ``poll_transmit``, where ``seal`` would lend it."""
        transmit = self.seal(connection_id, Run.single(packet), tos, now)
        if transmit is not None:
            self._transmits.append(owned(transmit))

    def open(
        self,
        received: Received,
        now: Instant,
        wall_now: WallTime,
        sink: Callable[[Opened], None],
        errors: list[Exception],
    ) -> None:
        """Take datagrams in; ``sink`` gets decrypted runs, borrowed for the call. Errors join the batch's list."""
        local, remote, run, tos = received
        if not run.data:
            return
        headroom = self._headroom(remote, run.data)
        if run.segment_size <= MAX_DATAGRAM_BYTES and uniform(run, headroom):
            self._open_group(local, remote, run, headroom, tos, now, wall_now, sink, errors)
            return
        for segment in run.segments():  # the kernel joins what comes from one address, whatever it is
            if len(segment) <= MAX_DATAGRAM_BYTES:
                single = Run.single(segment)
                headroom = self._headroom(remote, segment)
                headroom = headroom if uniform(single, headroom) else 0
                self._open_group(local, remote, single, headroom, tos, now, wall_now, sink, errors)

    def _headroom(self, remote: Endpoint, segment: memoryview) -> int:
        """The bytes of a channel header, if this is channel data of a relay of ours."""
        is_channel_data = 0x40 <= segment[0] <= 0x4F and self._relays.is_relay_address(remote)
        return HEADER_BYTES if is_channel_data else 0

    def _open_group(
        self,
        local: Endpoint,
        remote: Endpoint,
        run: Run,
        headroom: int,
        tos: int,
        now: Instant,
        wall_now: WallTime,
        sink: Callable[[Opened], None],
        errors: list[Exception],
    ) -> None:
        """Datagrams of one kind. Channel data is unwrapped once, as if the peer had sent it to our relayed address."""
        if headroom:
            allocation = self._relays.at(remote)
            peer = None
            if allocation is not None:
                peer = allocation.receive_channel(remote, run.data[0] << 8 | run.data[1], now)
            relayed = None if allocation is None or peer is None else allocation.relayed_address(peer.ip.version)
            if peer is None or relayed is None:
                return
            local, remote = relayed, peer
        if len(run.data) >= headroom + _DATA_MESSAGE_BYTES and run.data[headroom] == _TRANSPORT_DATA:
            self._open_data(run, headroom, tos, now, sink, errors)
            return
        for segment in run.segments():
            data = segment[headroom:]
            if self._handshakes.is_flood(remote, data, now):
                continue
            try:
                self._handle_message(local, remote, data, unwrapped=headroom > 0, now=now, wall_now=wall_now)
            except NodeError as error:
                errors.append(error)
        self._settle()

    def _open_data(
        self,
        run: Run,
        headroom: int,
        tos: int,
        now: Instant,
        sink: Callable[[Opened], None],
        errors: list[Exception],
    ) -> None:
        index = receiver_index(run.data[headroom:])
        connection = self._connections.at_index(index)
        if connection is None:
            errors.append(UnknownConnectionError(f"no connection for index {index >> 8}"))
            return
        opened = connection.tunnel.open(run, now, headroom=headroom)
        connection.drain_tunnel(now)
        if opened is not None:
            connection.received(now)
            sink(Opened(connection.connection_id, opened, tos))

    def _handle_message(
        self, local: Endpoint, remote: Endpoint, data: memoryview, *, unwrapped: bool, now: Instant, wall_now: WallTime
    ) -> None:
        """A single STUN message or WireGuard handshake message."""
        if data and data[0] <= _LARGEST_STUN_FIRST_BYTE and not is_handshake_shaped(data):
            try:
                message = decode(data)
            except DecodeError:
                pass  # a WireGuard handshake message begins with the same bytes
            else:
                if not unwrapped and self._relays.is_relay_address(remote):
                    allocation = self._relays.at(remote)
                    if allocation is not None:
                        allocation.handle_message(local, remote, message, now)
                        self._relay_changes()
                    return
                connection = self._connections.accepting(message, remote)
                if connection is None:
                    log.debug("No agent accepts this STUN message", extra={"fields": {"remote": str(remote)}})
                    return
                connection.agent.handle_message(message, source=remote, destination=local, now=now)
                connection.agent.handle_timeout(now)
                connection.drain(now, wall_now)
                return
        try:
            self._handshakes.handle(remote, data, now, wall_now)
        except HandshakeError as error:
            if error.reply is not None and not unwrapped:  # under load, and the cookie proves only an address
                self._transmits.append(Transmit(local, remote, Run.single(error.reply)))
            raise StrayDatagramError(f"from={remote} length={len(data)}: {error}") from error

    # Time and output -----------------------------------------------------------------------------------------------

    def handle_timeout(self, now: Instant, wall_now: WallTime) -> None:
        """Run whatever is due."""
        self._relays.handle_timeout(now)
        self._relay_changes()
        due = self._connections.due(now)
        for connection in due:
            connection.handle_timeout(now, wall_now)
        if self._relays.free_dead(now):
            self._relay_changes()
            self._migrate()
        self._relays.leave_unused(self._connections.relays_in_use, now)
        for connection in due:
            if connection.state is State.FAILED:
                fields = {"cid": connection.connection_id, "reason": connection.failure}
                log.info("Connection failed", extra={"fields": fields})
                self._connections.remove(connection)
                self._events.append(ConnectionFailed(connection.connection_id, connection.failure))
        self._settle()

    def poll_timeout(self) -> Instant | None:
        """When ``handle_timeout`` wants to be called; a ``seal`` that returned None may have moved it to now."""
        return earliest(self._relays.poll_timeout(), self._connections.poll_timeout())

    def poll_transmit(self) -> Transmit | None:
        """The next datagram of the control path."""
        transmit = self._relays.poll_transmit()  # first, so that a channel's request leaves before its data
        return self._transmits.popleft() if transmit is None and self._transmits else transmit

    def poll_event(self) -> Event | None:
        """The next event."""
        return self._events.popleft() if self._events else None

    # Private -------------------------------------------------------------------------------------------------------

    def _relay_changes(self) -> None:
        """Spread what came and went with the relays."""
        changes = list(self._relays.poll_changes())
        if not changes:
            return
        self._migrate()
        for connection in self._connections:
            for change in changes:
                if change.added:
                    connection.add_local_candidate(change.relay_id, change.candidate)
                else:
                    connection.remove_local_candidate(change.candidate)

    def _migrate(self) -> None:
        """Give each connection whose relay is gone another one, if there is one."""
        self._connections.touch_all()
        for connection in self._connections:
            if connection.relay_id not in self._relays:
                relay_id = self._relays.pick()
                if relay_id is not None:
                    connection.migrate(relay_id)

    def _settle(self) -> None:
        """Spread candidate changes of the relays and emit what is to be signalled."""
        self._relay_changes()
        for connection in self._connections.touched():
            connection.drain_signalling()
