"""One connection of a node: an ICE agent, a WireGuard tunnel and the path between them.

States: *connecting* (ICE has nominated nothing yet: packets wait in the tunnel, its messages here) → *connected* ⇄
*idle* (no traffic for 20 s, checks slow down) → *failed* (removed by the node at the end of the same wake-up).

Decapsulation looks only at receiver indices and keys; the source address of a data packet moves nothing. Only a
nomination moves the path.
"""

import logging
from collections import deque
from enum import Enum, auto
from typing import Final

from connectivity.clock import SECOND, Duration, Instant, WallTime, earliest
from connectivity.data_path import Path
from connectivity.endpoint import Endpoint
from connectivity.ice import Candidate, CandidateKind
from connectivity.ice.agent import Agent
from connectivity.ice.events import AgentState, Nominated, StateChanged
from connectivity.ice.policy import CandidateRefusal
from connectivity.log_fields import peer_field
from connectivity.node.events import ConnectionEstablished, ConnectionSilent, PathChanged
from connectivity.node.parameters import Parameters, Surroundings
from connectivity.node.path import PathKind, PeerSocket, classify, path_of
from connectivity.node.signalling import Allowance, Signalling
from connectivity.node.silence import Silence
from connectivity.node.statistics import ConnectionStatus
from connectivity.run import Run, Transmit
from connectivity.turn.channel_data import HEADER_BYTES
from connectivity.wireguard import DropReason, Outgoing, Tunnel

log = logging.getLogger("connectivity.node")

CANDIDATE_TIMEOUT: Final = 10 * SECOND
DISCONNECT_GRACE: Final = 2 * SECOND
IDLE_AFTER: Final = 20 * SECOND  # must exceed the active ICE time-out
SESSION_DEBOUNCE: Final = 20 * SECOND  # must exceed the rekey attempt time, so that the last one has ended
_BUFFERED_MESSAGES: Final = 128  # of a tunnel without a path; handshakes that are lost are repeated


class State(Enum):
    """Where a connection is in its life."""

    CONNECTING = auto()
    CONNECTED = auto()
    IDLE = auto()
    FAILED = auto()


class Connection:
    """Owned by the node, which calls ``handle_timeout`` and ``drain`` after every input to it."""

    def __init__(
        self,
        *,
        connection_id: str,
        index: int,
        parameters: Parameters,
        relay_id: str,
        surroundings: Surroundings,
        now: Instant,
    ) -> None:
        public_key, preshared_key, local, remote = parameters
        node = surroundings
        self.connection_id = connection_id
        self.fields: dict[str, object] = {peer_field(controlling=node.controlling): connection_id}
        self.index = index
        self.parameters = parameters
        self.relay_id = relay_id
        self.agent = Agent(
            controlling=node.controlling, local=local, remote=remote, rng=node.rng, now=now, owner=self.fields
        )
        self.tunnel = Tunnel(
            keys=node.keys,
            peer_public_key=public_key,
            preshared_key=preshared_key,
            connection_index=index,
            limiter=node.limiter,
            rng=node.rng,
            now=now,
            transport=node.data_path.add_peer(connection_id, index, now),
            owner=self.fields,
        )
        self._activity = self.tunnel.transport.activity
        self.state = State.CONNECTING
        self.socket: PeerSocket | None = None
        self.failure = ""
        self._relays = node.relays
        self._data_path = node.data_path
        self._controlling = node.controlling
        self._emit = node.emit
        self._transmit = node.transmit
        self._created_at = now
        self._failed_at: Instant | None = None
        self._disconnected_at: Instant | None = None
        self._initiated_at: Instant | None = None
        self._established = False
        self._waiting_messages: deque[Outgoing] = deque(maxlen=_BUFFERED_MESSAGES)
        self._signalling = Signalling(connection_id, self.fields)
        self._silence = Silence()
        self._allowance = Allowance(now)

    # Candidates ----------------------------------------------------------------------------------------------------

    def add_local_candidate(self, relay_id: str, candidate: Candidate) -> None:
        """Use and signal a candidate; relayed ones count only from the selected relay."""
        if candidate.kind is CandidateKind.RELAY and relay_id != self.relay_id:
            return
        if candidate.kind is not CandidateKind.SRFLX:  # reflexive ones are sent from their base: signalled only
            numbered = self.agent.add_local_candidate(candidate)
            if numbered is None:
                return
            candidate = numbered
        self._signalling.add(candidate)

    def remove_local_candidate(self, candidate: Candidate) -> None:
        """Stop using a candidate and tell the peer, if the peer was told of it."""
        known = self.agent.remove_local_candidate(candidate)
        if known or candidate.kind is CandidateKind.SRFLX:
            self._signalling.remove(candidate)

    def signal_again(self) -> None:
        """Repeat every live candidate: the peer may have lost its half."""
        self._signalling.repeat()

    def add_remote_candidate(self, candidate: Candidate, now: Instant) -> None:
        """Take a signalled candidate, bind a channel to it ahead of need, and wake up."""
        if self._allowance.is_used_up(now):
            self.agent.refuse(CandidateRefusal.TOO_MANY, candidate)
            return
        if not self.agent.add_remote_candidate(candidate, now):
            return
        self._allowance.take()
        allocation = self._relays.get(self.relay_id)
        if allocation is not None and candidate.kind is not CandidateKind.HOST:
            allocation.bind_channel(candidate.address, now)
        self.touch(now)

    @property
    def named(self) -> str:
        """The connection as a line of the log names it."""
        return " ".join(f"{field}={value}" for field, value in self.fields.items())

    def path(self) -> PeerSocket | None:
        """The path as it is to be shown: the peer may have signalled by now what kind of address it sends from."""
        return None if self.socket is None else self._classify(self.socket.source, self.socket.destination)

    def status(self) -> ConnectionStatus:
        """What people ask about it."""
        return ConnectionStatus(
            peer_id=self.connection_id,
            state=self.state.name.lower(),
            socket=self.path(),
            round_trip=self.agent.round_trip,
            sent_bytes=self.tunnel.sent_bytes,
            received_bytes=self.tunnel.received_bytes,
            handshake_at=self.tunnel.established_at,
        )

    @property
    def is_established(self) -> bool:
        """Whether there ever was a session."""
        return self._established

    @property
    def waiting_packets(self) -> int:
        """How many packets wait for a path or a session."""
        return self.tunnel.waiting_packets

    # Traffic -------------------------------------------------------------------------------------------------------

    def seal(self, run: Run, tos: int, now: Instant) -> Transmit | None:
        """Encrypt a run of IP packets; None when it waits (no path or no session yet) or was dropped (no channel)."""
        socket = self.socket
        if socket is None:
            if self._controlling:  # the responder must not start sessions, its packets would only grow stale
                self.tunnel.keep(run, tos)
            else:
                self.tunnel.drops[DropReason.NO_PATH] += run.segment_count
            return None
        if self.state is State.IDLE:
            self._wake(now)
        self._activity.last_data_at = now
        if not self.tunnel.transport.can_send(now):
            self.tunnel.seal(run, now, tos=tos)  # waits there
            return None
        path = self._path_now(socket, run, now)
        if path is None:
            return None
        self._data_path.set_path(self.index, path)
        sealed = self.tunnel.seal(run, now, headroom=path.headroom, tos=tos)
        return None if sealed is None else path.addressed(sealed, tos)

    def renew_path(self, now: Instant) -> None:
        """Let the data path know how to send from now on."""
        path = None if self.socket is None or self.state is State.IDLE else path_of(self.socket, self._relays, now)
        if path is None:
            self._reset_path()
        else:
            self._data_path.set_path(self.index, path)

    def stirred(self, now: Instant) -> None:
        """The data path has received something of which the connection wants to know."""
        if self._activity.last_data_at == now:
            if self.state is State.IDLE:
                self._wake(now)
            self._reset_path()
        self.tunnel.send_waiting(now)
        self.drain_tunnel(now)

    def touch(self, now: Instant) -> None:
        """Count as activity what is not traffic: an upsert, a new candidate."""
        if self.state is State.IDLE:
            self._wake(now)
        if self.state is State.CONNECTED:
            self._activity.last_data_at = now

    def start_session(self, now: Instant, wall_now: WallTime) -> None:
        """Begin a new WireGuard session, unless one was begun a moment ago or there is no path to send it on."""
        if self.socket is None or self.tunnel.handshake_in_flight:
            return
        if self._initiated_at is not None and now - self._initiated_at < SESSION_DEBOUNCE:
            return
        self._initiated_at = now
        self.tunnel.initiate(now, wall_now)

    def handshake_completed(self) -> None:
        """Report the first completed handshake."""
        if not self._established:
            self._established = True
            log.debug("Completed handshake", extra={"fields": self.fields})
            self._emit(ConnectionEstablished(self.connection_id))

    # Time ----------------------------------------------------------------------------------------------------------

    def handle_timeout(self, now: Instant, wall_now: WallTime) -> None:
        """Run whatever is due and collect the output of agent and tunnel."""
        self.agent.handle_timeout(now)
        self.drain(now, wall_now)
        if self.state is State.CONNECTED and now - self._activity.last_data_at >= IDLE_AFTER and self._may_idle():
            self.state = State.IDLE
            self._data_path.set_path(self.index, None)
            self.agent.set_idle(True, now)
            log.debug("Connection is idle", extra={"fields": self.fields})
        if not self.agent.remote_candidates and now - self._created_at >= CANDIDATE_TIMEOUT:
            self._fail("no candidates received", now)
        if self._disconnected_at is not None and now - self._disconnected_at >= DISCONNECT_GRACE:
            self._fail("ICE timed out", now)
        if self.socket is not None:
            self.tunnel.handle_timeout(now, wall_now)
            if self.tunnel.expired:
                self._fail("WireGuard session expired", now)
            self._notice_silence(now)
        self.drain(now, wall_now)

    def poll_timeout(self) -> Instant | None:
        """The first deadline of this connection."""
        return earliest(
            self._failed_at,  # the node has to take it out
            self.agent.poll_timeout(),
            self.tunnel.poll_timeout() if self.socket is not None else None,
            self._silence.poll_timeout(self._silent_since(), self._round_trip()) if self.socket is not None else None,
            None if self.agent.remote_candidates else self._created_at + CANDIDATE_TIMEOUT,
            None if self._disconnected_at is None else self._disconnected_at + DISCONNECT_GRACE,
            self._activity.last_data_at + IDLE_AFTER if self.state is State.CONNECTED and self._may_idle() else None,
        )

    def drain(self, now: Instant, wall_now: WallTime) -> None:
        """Move the output of agent and tunnel on: nominations, checks, handshakes, queued packets."""
        while (event := self.agent.poll_event()) is not None:
            match event:
                case Nominated(source, destination):
                    self._nominated(source, destination, now, wall_now)
                case StateChanged(state):
                    self._disconnected_at = now if state is AgentState.DISCONNECTED else None
                    if state is AgentState.DISCONNECTED:
                        self._relays.ask(now)
        while (check := self.agent.poll_transmit()) is not None:
            self._send_check(check, now)
        self.drain_tunnel(now)

    def drain_tunnel(self, now: Instant) -> None:
        """Send what the tunnel wants sent, or keep it until there is a path."""
        while (outgoing := self.tunnel.poll_transmit()) is not None:
            if self.socket is None:
                self._waiting_messages.append(outgoing)
            else:
                self._send_message(self.socket, outgoing.message, now, outgoing.tos)

    def close(self) -> None:
        """The node forgets it."""
        self.tunnel.discard()
        self._data_path.remove_peer(self.index)

    def drain_signalling(self) -> None:
        """Emit the candidates that the peer has to be told of, and those that it must forget."""
        for event in self._signalling.drain():
            self._emit(event)

    def migrate(self, relay_id: str) -> None:
        """Continue with another relay after the selected one is gone."""
        log.info("Migrating connection to new relay", extra={"fields": self.fields | {"rid": relay_id}})
        self.relay_id = relay_id
        for owner, candidate in self._relays.candidates():
            if candidate.kind is CandidateKind.RELAY:
                self.add_local_candidate(owner, candidate)

    # Private -------------------------------------------------------------------------------------------------------

    def _notice_silence(self, now: Instant) -> None:
        check, tell = self._silence.due(self._silent_since(), self._round_trip(), now)
        if check:
            self.agent.check_again(now)
        if tell:
            log.debug("Peer is silent", extra={"fields": self.fields})
            self._emit(ConnectionSilent(self.connection_id, now))
            self._relays.ask(now)

    def _silent_since(self) -> Instant | None:
        """Of who controls: only it can have another connection made."""
        since = self.tunnel.unanswered_since if self._controlling else None
        return since if since is None or self.agent.answered_at is None else max(since, self.agent.answered_at)

    def _round_trip(self) -> Duration:
        return self.agent.round_trip or 0

    def _nominated(self, source: Endpoint, destination: Endpoint, now: Instant, wall_now: WallTime) -> None:
        socket = self._classify(source, destination)
        if socket == self.socket:
            return
        fields = self.fields | {"old": str(self.socket), "new": str(socket)}
        log.debug("Updating remote socket", extra={"fields": fields})
        self._emit(PathChanged(self.connection_id))
        first, self.socket = self.socket is None, socket
        if self.state is State.CONNECTING:
            self.state = State.CONNECTED
            self._activity.last_data_at = now
        self._reset_path()
        if first:
            while self._waiting_messages:
                message, tos = self._waiting_messages.popleft()
                self._send_message(socket, message, now, tos)
        if self._controlling:
            self.start_session(now, wall_now)
        if first:
            self.tunnel.send_waiting(now)

    def _classify(self, source: Endpoint, destination: Endpoint) -> PeerSocket:
        to_relay = any(
            candidate.kind is CandidateKind.RELAY and candidate.address == destination
            for candidate in self.agent.remote_candidates
        )
        return classify(source, destination, self._relays.owner_of(source), to_relay=to_relay)

    def _path_now(self, socket: PeerSocket, run: Run, now: Instant) -> Path | None:
        """Where a run goes; without a channel on its relay it is dropped."""
        path = path_of(socket, self._relays, now)
        if path is None:
            self.tunnel.drops[DropReason.NO_CHANNEL] += run.segment_count
        return path

    def _reset_path(self) -> None:
        """Give the data path what it may send by before we are asked: the direct path; over a relay it asks first."""
        path = None if self.socket is None or self.state is State.IDLE else self.socket.initial_path
        self._data_path.set_path(self.index, path)

    def _send_message(self, socket: PeerSocket, message: bytes, now: Instant, tos: int = 0) -> None:
        headroom = bytes(HEADER_BYTES if socket.is_relayed else 0)
        run = Run.single(bytearray(headroom + message))
        path = self._path_now(socket, run, now)
        if path is not None:
            self._transmit(path.addressed(run, tos))

    def _send_check(self, check: Transmit, now: Instant) -> None:
        relay_id = None if check.source is None else self._relays.owner_of(check.source)
        if relay_id is None or check.source is None:
            self._transmit(check)
            return
        socket = PeerSocket(PathKind.RELAY_TO_PEER, check.source, check.destination, relay_id)
        self._send_message(socket, bytes(check.run.data), now)

    def _wake(self, now: Instant) -> None:
        self.state = State.CONNECTED
        self._activity.last_data_at = now
        self._reset_path()
        self.agent.set_idle(False, now)

    def _may_idle(self) -> bool:
        return self.agent.state in {AgentState.CONNECTED, AgentState.COMPLETED}

    def _fail(self, reason: str, now: Instant) -> None:
        if self.state is not State.FAILED:
            self.state = State.FAILED
            self.failure = reason
            self._failed_at = now
