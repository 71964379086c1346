"""Peers over ICE, WireGuard and relays, as one object without IO.

Datagrams are told apart as follows (first match wins): relay traffic by the address of a known relay (STUN to its
allocation, channel data unwrapped once), STUN to the agents, WireGuard to the connection that its receiver index, or
for an initiation its static key, names. The source address never chooses a WireGuard connection.

Hot calls are ``seal`` and ``open``; what they return is borrowed. Everything else leaves through ``poll_transmit`` and
``poll_event``.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from connectivity.clock import Instant, WallTime, earliest
from connectivity.endpoint import Endpoint
from connectivity.ice import IceCredentials
from connectivity.ice.agent import Agent
from connectivity.ice.candidate import parse as parse_candidate
from connectivity.node.connection import Connection, State
from connectivity.node.events import ConnectionClosed, ConnectionFailed, Event, Opened
from connectivity.node.path import PeerSocket
from connectivity.node.relays import RelayServer, RelaySet
from connectivity.node.segments import groups
from connectivity.run import Received, Run, Transmit, owned
from connectivity.stun import DecodeError, decode
from connectivity.turn.channel_data import HEADER_BYTES
from connectivity.turn.requests import software_attribute
from connectivity.wireguard import (
    HandshakeError,
    KeyPair,
    RateLimiter,
    Tunnel,
    Workspace,
    format_index,
    format_key,
    message_type,
    peek_initiator,
    receiver_index,
)

log = logging.getLogger("connectivity.node")

MAX_DATAGRAM_BYTES: Final = 1316  # an inner packet of 1280, WireGuard's 32, a channel header of 4
_LARGEST_STUN_FIRST_BYTE: Final = 3
_TRANSPORT_DATA: Final = 4
_INITIATION: Final = 1


class NodeError(Exception):
    """A packet that could not be handled; one of possibly many in a batch."""


class UnknownConnectionError(NodeError):
    """The packet names a connection that does not exist (any more)."""


class NoRelaysError(NodeError):
    """A connection needs a relay and none is known: the portal has to be asked for some."""


class Node:
    """The client controls its connections, the gateway is controlled; in all else the two are alike."""

    def __init__(self, *, keys: KeyPair, controlling: bool, rng: Callable[[int], bytes]) -> None:
        self.keys = keys
        self._controlling = controlling
        self._rng = rng
        self._limiter = RateLimiter(keys.public, rng)
        self._workspace = Workspace()  # one for all tunnels: what they hand out is borrowed until the node's next call
        self._relays = RelaySet(software=software_attribute(keys.public), rng=rng)
        self._connections: dict[str, Connection] = {}
        self._by_index: dict[int, Connection] = {}
        self._transmits: deque[Transmit] = deque()
        self._events: deque[Event] = deque()

    # Relays and connections ----------------------------------------------------------------------------------------

    def update_relays(self, remove: Iterable[str], add: Iterable[RelayServer], now: Instant) -> None:
        """Apply a relay list of the portal."""
        self._relays.update(remove, add, now)
        self._settle()

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
    ) -> None:
        """Make a connection, or keep the one there is if keys and both credentials are unchanged.

        Raises:
            NoRelaysError: a new connection is needed and no relay is known; an existing one is left alone.
        """
        parameters = (public_key, preshared_key, local, remote)
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
            return
        relay_id = self._relays.pick()
        if relay_id is None:
            raise NoRelaysError("no TURN servers")
        if held is not None:
            self._forget(held)
        connection = self._connect(connection_id, relay_id, parameters, now)
        phrase = "Replaced connection" if held is not None else "Created new connection"
        log.info(phrase, extra={"fields": fields | {"index": format_index(connection.index << 8)}})
        for owner, candidate in self._relays.candidates():
            connection.add_local_candidate(owner, candidate)
        self._settle()

    def close(self, connection_id: str, goodbye: bytes, now: Instant) -> None:
        """Forget a connection after sending ``goodbye`` (an IP packet) through it, if it has a path."""
        connection = self._connections.get(connection_id)
        if connection is None:
            return
        transmit = connection.seal(Run.single(goodbye), 0, now) if connection.socket is not None else None
        if transmit is not None:
            self.queue(transmit)
            self._events.append(ConnectionClosed(connection_id))
        log.info("Connection closed by us", extra={"fields": {"cid": connection_id}})
        self._forget(connection)

    def remove(self, connection_id: str, reason: str) -> None:
        """Forget a connection that the peer closed."""
        connection = self._connections.get(connection_id)
        if connection is not None:
            log.info("Connection closed by peer", extra={"fields": {"cid": connection_id, "reason": reason}})
            self._forget(connection)

    def add_remote_candidate(self, connection_id: str, text: str, now: Instant, wall_now: WallTime) -> None:
        """Take one signalled candidate. An unreadable one, or one for a connection unknown, is skipped."""
        self._remote_candidate(connection_id, text, now, wall_now, added=True)

    def remove_remote_candidate(self, connection_id: str, text: str, now: Instant, wall_now: WallTime) -> None:
        """Stop using a candidate that the peer revoked."""
        self._remote_candidate(connection_id, text, now, wall_now, added=False)

    def has_connection(self, connection_id: str) -> bool:
        """Whether there is a connection in any state but failed."""
        return connection_id in self._connections

    def paths(self) -> Iterator[tuple[str, str, PeerSocket | None]]:
        """Each connection: id, state in lower case, path."""
        for connection_id, connection in self._connections.items():
            yield connection_id, connection.state.name.lower(), connection.path()

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

    def queue(self, transmit: Transmit) -> None:
        """Keep a copy of a borrowed transmit for ``poll_transmit``: for the few packets that the core itself sends."""
        self._transmits.append(owned(transmit))

    def open(self, received: Received, now: Instant, wall_now: WallTime, errors: list[Exception]) -> Iterator[Opened]:
        """Take datagrams in; yields decrypted runs, each borrowed until the next step. Errors join the batch's list."""
        local, remote, run, tos = received
        if run.segment_size > MAX_DATAGRAM_BYTES or not run.data:
            return
        first = run.data[0]
        if 0x40 <= first <= 0x4F and self._relays.is_relay_address(remote):
            for group in groups(run, HEADER_BYTES):
                yield from self._open_channel_data(remote, group, tos, now, wall_now, errors)
            return
        if first == _TRANSPORT_DATA:
            for group in groups(run, 0):
                yield from self._open_segments(local, remote, group, 0, tos, now, wall_now, errors)
            return
        for segment in run.segments():
            yield from self._open_segments(local, remote, Run.single(segment), 0, tos, now, wall_now, errors)

    def _open_channel_data(
        self, remote: Endpoint, run: Run, tos: int, now: Instant, wall_now: WallTime, errors: list[Exception]
    ) -> Iterator[Opened]:
        """One channel's frames: unwrap once, as if the peer had sent the payload to our relayed address."""
        allocation = self._relays.at(remote)
        if allocation is None:
            return
        peer = allocation.receive_channel(remote, run.data[0] << 8 | run.data[1], now)
        if peer is None:
            return
        relayed = allocation.relayed_address(peer.ip.version)
        if relayed is not None:
            yield from self._open_segments(relayed, peer, run, HEADER_BYTES, tos, now, wall_now, errors)

    def _open_segments(
        self,
        local: Endpoint,
        remote: Endpoint,
        run: Run,
        skip: int,
        tos: int,
        now: Instant,
        wall_now: WallTime,
        errors: list[Exception],
    ) -> Iterator[Opened]:
        """Segments of one kind: a run of data messages of one session, or one message of any kind."""
        if len(run.data) > skip and run.data[skip] == _TRANSPORT_DATA and len(run.data) >= skip + 32:
            yield from self._open_data(run, skip, tos, now, errors)
            return
        for segment in run.segments():
            try:
                self._handle_message(local, remote, segment[skip:], unwrapped=skip > 0, now=now, wall_now=wall_now)
            except NodeError as error:
                errors.append(error)
        self._settle()

    def _open_data(self, run: Run, skip: int, tos: int, now: Instant, errors: list[Exception]) -> Iterator[Opened]:
        index = receiver_index(run.data[skip:])
        connection = self._by_index.get(index >> 8)
        if connection is None:
            errors.append(UnknownConnectionError(f"no connection for index {index >> 8}"))
            return
        opened = connection.tunnel.open(run, now, headroom=skip)
        connection.drain_tunnel(now)
        if opened is not None:
            connection.received(now)
            yield Opened(connection.connection_id, opened, tos)

    def _handle_message(
        self,
        local: Endpoint,
        remote: Endpoint,
        data: memoryview,
        *,
        unwrapped: bool,
        now: Instant,
        wall_now: WallTime,
    ) -> None:
        """A single STUN message or WireGuard handshake message."""
        if data and data[0] <= _LARGEST_STUN_FIRST_BYTE:
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
                for connection in self._connections.values():
                    if connection.agent.accepts(message):
                        connection.agent.handle_message(message, source=remote, destination=local, now=now)
                        connection.agent.handle_timeout(now)
                        connection.drain(now, wall_now)
                        return
                log.debug("No agent accepts this STUN message", extra={"fields": {"remote": str(remote)}})
                return
        try:
            self._handle_handshake(remote, data, now, wall_now)
        except HandshakeError as error:
            if error.reply is not None and not unwrapped:  # under load, and the cookie proves only an address
                self._transmits.append(Transmit(local, remote, Run.single(error.reply)))
            raise NodeError(f"from={remote} length={len(data)}: {error}") from error

    def _handle_handshake(self, remote: Endpoint, data: memoryview, now: Instant, wall_now: WallTime) -> None:
        kind = message_type(data)
        if kind is None:
            raise NodeError(f"not a WireGuard packet: from={remote} length={len(data)}")
        connection = self._initiator(remote, data, now) if kind == _INITIATION else self._receiver(data)
        try:
            completed = connection.tunnel.handle_handshake(data, remote.ip, now, wall_now)
        except HandshakeError as error:
            raise NodeError(f"cid={connection.connection_id} length={len(data)}: handshake packet: {error}") from error
        if completed:
            connection.handshake_completed()
        connection.drain_tunnel(now)

    def _initiator(self, remote: Endpoint, data: memoryview, now: Instant) -> Connection:
        key = peek_initiator(self.keys, data, limiter=self._limiter, source_ip=remote.ip, now=now)
        for connection in self._connections.values():
            if connection.parameters[0] == key:
                return connection
        raise UnknownConnectionError(f"no connection for key {format_key(key)}")

    def _receiver(self, data: memoryview) -> Connection:
        index = receiver_index(data) >> 8
        connection = self._by_index.get(index)
        if connection is None:
            raise UnknownConnectionError(f"no connection for index {index}")
        return connection

    # Time and output -----------------------------------------------------------------------------------------------

    def handle_timeout(self, now: Instant, wall_now: WallTime) -> None:
        """Run whatever is due."""
        self._relays.handle_timeout(now)
        self._relay_changes()
        for connection in self._connections.values():
            connection.handle_timeout(now, wall_now)
        self._relays.free_dead()
        self._relay_changes()
        self._migrate()
        for connection in list(self._connections.values()):
            if connection.state is State.FAILED:
                fields = {"cid": connection.connection_id, "reason": connection.failure}
                log.info("Connection failed", extra={"fields": fields})
                self._forget(connection)
                self._events.append(ConnectionFailed(connection.connection_id, connection.failure))
        self._settle()

    def poll_timeout(self) -> Instant | None:
        """When ``handle_timeout`` wants to be called; a ``seal`` that returned None may have moved it to now."""
        connections = (connection.poll_timeout() for connection in self._connections.values())
        return earliest(self._relays.poll_timeout(), *connections)

    def poll_transmit(self) -> Transmit | None:
        """The next datagram of the control path."""
        transmit = self._relays.poll_transmit()  # first, so that a channel's request leaves before its data
        if transmit is None and self._transmits:
            return self._transmits.popleft()
        return transmit

    def poll_event(self) -> Event | None:
        """The next event."""
        return self._events.popleft() if self._events else None

    # Private -------------------------------------------------------------------------------------------------------

    def _connect(
        self,
        connection_id: str,
        relay_id: str,
        parameters: tuple[bytes, bytes, IceCredentials, IceCredentials],
        now: Instant,
    ) -> Connection:
        public_key, preshared_key, local, remote = parameters
        index = self._unused_index()
        agent = Agent(controlling=self._controlling, local=local, remote=remote, rng=self._rng, now=now)
        tunnel = Tunnel(
            keys=self.keys,
            peer_public_key=public_key,
            preshared_key=preshared_key,
            connection_index=index,
            limiter=self._limiter,
            rng=self._rng,
            now=now,
            workspace=self._workspace,
        )
        connection = Connection(
            connection_id=connection_id,
            index=index,
            agent=agent,
            tunnel=tunnel,
            relays=self._relays,
            relay_id=relay_id,
            parameters=parameters,
            controlling=self._controlling,
            emit=self._events.append,
            transmit=self._transmits.append,
            now=now,
        )
        self._connections[connection_id] = connection
        self._by_index[index] = connection
        return connection

    def _unused_index(self) -> int:
        while (index := int.from_bytes(self._rng(3), "big")) in self._by_index:
            continue
        return index

    def _forget(self, connection: Connection) -> None:
        del self._connections[connection.connection_id]
        del self._by_index[connection.index]

    def _remote_candidate(
        self, connection_id: str, text: str, now: Instant, wall_now: WallTime, *, added: bool
    ) -> None:
        fields = {"cid": connection_id, "candidate": text}
        connection = self._connections.get(connection_id)
        if connection is None:
            log.debug("Candidate for an unknown connection", extra={"fields": fields})
            return
        try:
            candidate = parse_candidate(text)
        except ValueError as error:
            log.debug("Skipping faulty candidate", extra={"fields": fields | {"reason": str(error)}})
            return
        if added:
            log.info("Received candidate", extra={"fields": fields})
            connection.add_remote_candidate(candidate, now)
        else:
            log.info("Peer invalidated candidate", extra={"fields": fields})
            connection.agent.remove_remote_candidate(candidate, now)
        connection.handle_timeout(now, wall_now)
        self._settle()

    def _relay_changes(self) -> None:
        for change in self._relays.poll_changes():
            for connection in self._connections.values():
                if change.added:
                    connection.add_local_candidate(change.relay_id, change.candidate)
                else:
                    connection.remove_local_candidate(change.candidate)

    def _migrate(self) -> None:
        for connection in self._connections.values():
            if connection.relay_id not in self._relays:
                relay_id = self._relays.pick()
                if relay_id is not None:
                    connection.migrate(relay_id)

    def _settle(self) -> None:
        """Spread candidate changes of the relays and emit what is to be signalled."""
        self._relay_changes()
        for connection in self._connections.values():
            connection.drain_signalling()
