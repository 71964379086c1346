"""Peers over ICE, WireGuard and relays, as one object without IO.

Data of known sessions does not come here: that is the data path's (``data_path``). ``seal`` and ``open_others``
take what it gives back; what they return or lend is borrowed. All else leaves by ``poll_transmit`` and ``poll_event``.
"""

import logging
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from connectivity.clock import Instant, WallTime, earliest
from connectivity.data_path import DataPath, Opened
from connectivity.endpoint import Endpoint, IPAddress
from connectivity.ice import IceCredentials
from connectivity.log_fields import peer_field
from connectivity.node.arrivals import Arrivals
from connectivity.node.connection import Connection, State
from connectivity.node.connections import ConnectionTable
from connectivity.node.errors import NoRelaysError, UnknownConnectionError
from connectivity.node.events import ConnectionClosed, ConnectionFailed, Event
from connectivity.node.handshakes import Handshakes
from connectivity.node.parameters import Parameters, Surroundings
from connectivity.node.path import CHANNEL_LEASE
from connectivity.node.relays import RelayServer, RelaySet
from connectivity.node.signalling import readable
from connectivity.node.statistics import ConnectionStatus, Statistics
from connectivity.run import Received, Run, Transmit, owned
from connectivity.turn.requests import software_attribute
from connectivity.wireguard import (
    HandshakeReason,
    KeyPair,
    RateLimiter,
    format_index,
)

log = logging.getLogger("connectivity.node")


class Node:
    """The client controls its connections, the gateway is controlled; in all else the two are alike."""

    def __init__(
        self, *, keys: KeyPair, controlling: bool, rng: Callable[[int], bytes], data_path: DataPath | None = None
    ) -> None:
        self._controlling = controlling
        self._rng = rng
        self._relays = RelaySet(software=software_attribute(keys.public), rng=rng)
        self._connections = ConnectionTable(rng)
        self._refused: Counter[HandshakeReason] = Counter()
        self.data_path = data_path or DataPath()
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
        self.data_path.forget_channels()
        self._take_keys(keys)

    def _take_keys(self, keys: KeyPair) -> None:
        limiter = RateLimiter(keys.public, self._rng)
        self.keys = keys
        self._arrivals = Arrivals(
            data_path=self.data_path,
            relays=self._relays,
            connections=self._connections,
            handshakes=Handshakes(keys, limiter, self._connections, self._refused),
            stirred=self,
            transmit=self._transmits.append,
            settle=self._settle,
        )
        self._surroundings = Surroundings(
            keys=keys,
            controlling=self._controlling,
            limiter=limiter,
            data_path=self.data_path,
            relays=self._relays,
            rng=self._rng,
            emit=self._events.append,
            transmit=self._transmits.append,
        )

    # Relays and connections ----------------------------------------------------------------------------------------

    def update_relays(self, remove: Iterable[str], add: Iterable[RelayServer], now: Instant) -> None:
        """Apply a relay list of the portal."""
        self._relays.update(remove, add, now)
        self.data_path.forget_channels()
        self._migrate()
        self._settle()

    def leave_relays(self, now: Instant) -> None:
        """Give back what they lend us, at the end: behind the goodbyes, some of which lead through them."""
        self._transmits.extendleft(reversed(list(iter(self._relays.poll_transmit, None))))  # a channel for a goodbye
        self._relays.leave_all(now)
        self._transmits.extend(iter(self._relays.poll_transmit, None))

    def relay_user(self, relay_id: str | None) -> str | None:
        """Our name at one of the relays."""
        return None if relay_id is None else self._relays.username(relay_id)

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
        fields = self._fields(connection_id)
        held = self._connections.get(connection_id)
        if held is not None and held.parameters == parameters and held.state is not State.FAILED:
            log.debug("Reusing existing connection", extra={"fields": fields})
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
        index = self._connections.unused_index(self.data_path.welcomes)
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
        log.debug(phrase, extra={"fields": fields | {"index": format_index(index << 8)}})
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
        log.debug("Connection closed by us", extra={"fields": connection.fields})
        self._connections.remove(connection)

    def remove(self, connection_id: str, reason: str) -> None:
        """Forget a connection that the peer closed."""
        connection = self._connections.get(connection_id)
        if connection is not None:
            log.debug("Connection closed by peer", extra={"fields": connection.fields | {"reason": reason}})
            self._connections.remove(connection)

    def add_remote_candidates(self, connection_id: str, texts: Sequence[str], now: Instant, wall_now: WallTime) -> None:
        """Take signalled candidates in their order. Unreadable ones, or all for a connection unknown, are skipped."""
        connection = self._connections.get(connection_id)
        if connection is None:
            log.debug("Candidates for an unknown connection", extra={"fields": self._fields(connection_id)})
            return
        for candidate in readable(connection.fields, texts):
            fields = connection.fields | {"candidate": candidate.to_text()}
            log.debug("Received candidate", extra={"fields": fields})
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
        for candidate in readable(connection.fields, texts):
            fields = connection.fields | {"candidate": candidate.to_text()}
            log.debug("Peer invalidated candidate", extra={"fields": fields})
            connection.agent.remove_remote_candidate(candidate, now)
        connection.handle_timeout(now, wall_now)
        self._settle()

    def has_connection(self, connection_id: str) -> bool:
        """Whether there is a connection in any state but failed."""
        return connection_id in self._connections

    def connections(self) -> list[ConnectionStatus]:
        """Each connection, for people."""
        return [connection.status() for connection in self._connections]

    def connection(self, connection_id: str) -> ConnectionStatus | None:
        """One of them, for people."""
        connection = self._connections.get(connection_id)
        return None if connection is None else connection.status()

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
            raise UnknownConnectionError("no connection for ID {}", connection_id)
        transmit = connection.seal(run, tos, now)
        if transmit is None:
            connection.drain_tunnel(now)
        return transmit

    def send(self, connection_id: str, packet: bytes, tos: int, now: Instant) -> None:
        """Send a packet that nobody stands by to take: it leaves by ``poll_transmit``, where ``seal`` would lend it."""
        transmit = self.seal(connection_id, Run.single(packet), tos, now)
        if transmit is not None:
            self._transmits.append(owned(transmit))

    def open_others(
        self,
        received: Received,
        now: Instant,
        wall_now: WallTime,
        sink: Callable[[Opened], None],
        errors: list[Exception],
    ) -> None:
        """Take datagrams in that the data path has not opened as a whole.

        ``sink`` gets decrypted runs, borrowed for the call. Errors join the batch's list.
        """
        self._arrivals.open(received, now, wall_now, sink, errors)

    def peer_stirred(self, index: int, now: Instant) -> None:
        """The data path has received something of which the connection wants to know."""
        connection = self._connections.at_index(index << 8)
        if connection is not None:
            connection.stirred(now)

    def renew_path(self, index: int, now: Instant) -> None:
        """A data path wants to know how to send to a peer from now on."""
        connection = self._connections.at_index(index << 8)
        if connection is not None:
            connection.renew_path(now)

    def renew_channel(self, server: Endpoint, number: int, now: Instant) -> None:
        """A data path wants to know whether this channel still is one."""
        allocation = self._relays.at(server)
        if allocation is not None and allocation.receive_channel(server, number, now) is not None:
            self.data_path.allow_channel(server, number, now + CHANNEL_LEASE)

    # Time and output -----------------------------------------------------------------------------------------------

    def handle_timeout(self, now: Instant, wall_now: WallTime) -> None:
        """Run whatever is due."""
        self._relays.handle_timeout(now)
        self.data_path.forget_channels()
        self._relay_changes()
        self._take_activity()
        due = self._connections.due(now)
        for connection in due:
            connection.handle_timeout(now, wall_now)
        if self._relays.free_dead(now):
            self._relay_changes()
            self._migrate()
        self._relays.leave_unused(self._connections.relays_in_use, now)
        for connection in due:
            if connection.state is State.FAILED:
                fields = connection.fields | {"reason": connection.failure}
                # Of one that was connected there is another line for people (``PeerLeft``).
                log.log(
                    logging.DEBUG if connection.is_established else logging.INFO,
                    "Connection failed",
                    extra={"fields": fields},
                )
                self._connections.remove(connection)
                self._events.append(ConnectionFailed(connection.connection_id, connection.failure))
        self._settle()

    def poll_timeout(self) -> Instant | None:
        """When ``handle_timeout`` wants to be called; a ``seal`` that returned None may have moved it to now."""
        self._take_activity()
        return earliest(self._relays.poll_timeout(), self._connections.poll_timeout())

    def poll_transmit(self) -> Transmit | None:
        """The next datagram of the control path."""
        transmit = self._relays.poll_transmit()  # first, so that a channel's request leaves before its data
        return self._transmits.popleft() if transmit is None and self._transmits else transmit

    def poll_event(self) -> Event | None:
        """The next event."""
        return self._events.popleft() if self._events else None

    # Private -------------------------------------------------------------------------------------------------------

    def _take_activity(self) -> None:
        """What has passed moves the deadlines of whose it was."""
        for index in self.data_path.take_active():
            self._connections.at_index(index << 8)

    def _fields(self, connection_id: str) -> dict[str, object]:
        return {peer_field(controlling=self._controlling): connection_id}

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
