"""A WireGuard tunnel to one peer: handshakes, timers and the queue in front of its sessions. Does no IO.

::

    initiate, a packet or a timer -> initiation sent -> response received: session is current, keep-alive sent
    initiation received           -> response sent, session stored -> first data on it: session is current

Invariants:
  * At most 8 sessions, one per local index modulo 8; a session is deleted 180 s after its establishment.
  * As responder we send on a session only after the peer has.
  * Messages that do not authenticate change nothing but counters.

The drain law: after every call that takes ``now`` but ``seal`` and ``open`` of a running session, poll
``poll_transmit`` until None, and wake up at ``poll_timeout``.
"""

import logging
from collections import Counter, deque
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from connectivity.clock import Duration, Instant, WallTime
from connectivity.endpoint import Endpoint, IPAddress
from connectivity.key_pair import KEY_BYTES, KeyPair
from connectivity.log_fields import OwnedLog
from connectivity.packet_queue import PacketQueue
from connectivity.run import Run
from connectivity.wireguard.errors import DropReason, HandshakeError, HandshakeReason
from connectivity.wireguard.handshake import Established, Handshakes, read_initiator
from connectivity.wireguard.index import format_index
from connectivity.wireguard.limiter import RateLimiter
from connectivity.wireguard.messages import INITIATION, message_type
from connectivity.wireguard.session import Session
from connectivity.wireguard.timers import MAX_JITTER, REKEY_ATTEMPT_TIME, Action, Timers
from connectivity.wireguard.transport import SessionValues, Transport
from connectivity.wireguard.workspace import Workspace

_log = logging.getLogger("connectivity.wireguard")


class Outgoing(NamedTuple):
    """A message to send, and the TOS byte of the packet in it; 0 for messages of our own."""

    message: bytes
    tos: int = 0


class Tunnel:
    """One peer. ``drops`` counts what was dropped, by reason; ``expired`` tunnels do nothing any more."""

    def __init__(
        self,
        *,
        keys: KeyPair,
        peer_public_key: bytes,
        preshared_key: bytes,
        connection_index: int,
        limiter: RateLimiter,
        rng: Callable[[int], bytes],
        now: Instant,
        rekey_attempt_time: Duration = REKEY_ATTEMPT_TIME,
        transport: Transport | None = None,
        owner: Mapping[str, object] = MappingProxyType({}),
    ) -> None:
        """``transport`` has the sessions, one of its own if None; ``owner`` names the connection in the log."""
        if len(preshared_key) != KEY_BYTES or len(peer_public_key) != KEY_BYTES:
            raise ValueError(f"keys have {KEY_BYTES} bytes")
        self._log = OwnedLog(_log, **owner)
        self._rng = rng
        self._limiter = limiter
        self._handshakes = Handshakes(
            keys=keys,
            peer_public_key=peer_public_key,
            preshared_key=preshared_key,
            connection_index=connection_index,
            rng=rng,
        )
        self.transport = transport or Transport(Workspace(), now)
        self._activity = self.transport.activity
        self._timers = Timers(activity=self._activity, jitter=self._jitter, attempt_time=rekey_attempt_time, now=now)
        self._outgoing: deque[Outgoing] = deque()
        self._waiting = PacketQueue()
        self.expired = False
        self.drops: Counter[DropReason] = self.transport.drops
        self.established_at: Instant | None = None  # the last handshake

    @property
    def handshake_in_flight(self) -> bool:
        """Whether an initiation of ours waits for its response."""
        return self._timers.handshake_in_flight

    @property
    def has_session(self) -> bool:
        """Whether there is a session to send on (it may be too old to, until the next wake-up)."""
        return self.transport.current is not None

    @property
    def sent_bytes(self) -> int:
        """Of IP packets, on this connection."""
        return self._activity.sent_bytes

    @property
    def received_bytes(self) -> int:
        """Of IP packets that came on this connection, with their padding."""
        return self._activity.received_bytes

    @property
    def unanswered_since(self) -> Instant | None:
        """When the first data was sent that nothing authentic has answered yet."""
        return self._activity.unanswered_since

    @property
    def waiting_packets(self) -> int:
        """How many packets wait for a path or a session."""
        return len(self._waiting)

    def keep(self, run: Run, tos: int) -> None:
        """Let packets wait: there is no path yet, and so no session either."""
        if self.expired:
            self.drops[DropReason.EXPIRED_TUNNEL] += run.segment_count
        else:
            self.drops[DropReason.QUEUE_FULL] += self._waiting.push(run, tos)

    def seal(self, run: Run, now: Instant, *, headroom: int = 0, tos: int = 0) -> Run | None:
        """Data messages of a run of IP packets, each behind ``headroom`` unspecified bytes.

        Without a usable session the packets wait and a handshake becomes due: ``poll_timeout`` is then ``now`` at the
        latest, and ``handle_timeout`` starts it.

        Returns:
            A run borrowed until the next call, or None.
        """
        if not self.transport.can_send(now):
            self.keep(run, tos)
            if not self.expired:
                self._timers.want_initiation(now)
            return None
        return self.transport.seal(run, now, headroom, tos)

    def open(self, run: Run, now: Instant, *, headroom: int = 0) -> Run | None:
        """Decrypt as ``Transport.open`` does, and send what waited for that."""
        current = self.transport.current
        packets = self.transport.open(run, now, headroom)
        if self.transport.current is not current:
            self.send_waiting(now)
        return packets

    def initiate(self, now: Instant, wall_now: WallTime) -> None:
        """Start a handshake now, unless one is in flight or the tunnel is expired."""
        if not self.expired and not self._timers.handshake_in_flight:
            self._send_initiation(now, wall_now)

    def handle_handshake(
        self,
        data: bytes | memoryview,
        source_ip: IPAddress,
        now: Instant,
        wall_now: WallTime,
        *,
        known: Endpoint | None = None,
    ) -> bool:
        """Handle a message of type 1, 2 or 3; ``known`` as the limiter has it.

        Returns:
            True when it completed a handshake: a session is established.

        Raises:
            HandshakeError: the message was refused and changed nothing.
        """
        del wall_now  # timestamps of others are only compared with each other
        if self.expired:
            raise HandshakeError(HandshakeReason.TUNNEL_EXPIRED)
        message = bytes(data)
        match message_type(message):
            case 1 | 2 as kind:
                reply = self._limiter.admit(message, source_ip, now, known=known)
                if reply is not None:
                    self._log.debug("Sending cookie reply under load")
                    self._outgoing.append(Outgoing(reply))
                    return False
                if kind == INITIATION:
                    self._respond(message, now)
                else:
                    self._finish(message, now)
                return True
            case 3:
                self._handshakes.take_cookie(message, now)
                return False
            case _:
                raise HandshakeError(HandshakeReason.MALFORMED)

    def discard(self) -> None:
        """The connection is gone; what waits is dropped."""
        self.drops[DropReason.EXPIRED_TUNNEL] += len(self._waiting.take())

    def poll_transmit(self) -> Outgoing | None:
        """The next message to send: handshakes, keep-alives and packets that have waited, sealed."""
        return self._outgoing.popleft() if self._outgoing else None

    def poll_timeout(self) -> Instant | None:
        """When ``handle_timeout`` has something to do."""
        if self.expired:
            return None
        deadline = self._timers.poll_timeout()
        for session in self.transport.sessions:
            if session is not None and session.reject_at < deadline:
                deadline = session.reject_at
        return deadline

    def handle_timeout(self, now: Instant, wall_now: WallTime) -> None:
        """Do what is due: delete old sessions, start or repeat a handshake, keep alive, expire."""
        if self.expired:
            return
        self._reject_old_sessions(now)
        for action in self._timers.due(now):
            match action:
                case Action.EXPIRE:
                    self._expire()
                case Action.INITIATE:
                    self._send_initiation(now, wall_now)
                case Action.KEEP_ALIVE:
                    self._send_keep_alive(now)

    def _send_initiation(self, now: Instant, wall_now: WallTime) -> None:
        self._log.debug("Sending handshake initiation")
        self._outgoing.append(Outgoing(self._handshakes.initiate(now, wall_now)))
        self._timers.note_initiation_sent(now)

    def _respond(self, message: bytes, now: Instant) -> None:
        response, established = self._handshakes.respond(message, now)
        self._outgoing.append(Outgoing(response))
        self._store(established, is_initiator=False, now=now)

    def _finish(self, message: bytes, now: Instant) -> None:
        session = self._store(self._handshakes.finish(message, now), is_initiator=True, now=now)
        self.transport.use(session)
        self._send_keep_alive(now)  # confirms it
        self.send_waiting(now)

    def _store(self, established: Established, *, is_initiator: bool, now: Instant) -> Session:
        values = SessionValues(
            established.keys, established.local_index, established.remote_index, is_initiator, established_at=now
        )
        session = self.transport.add(values)
        self.established_at = now
        self._timers.note_established(now, is_initiator=is_initiator)
        self._log.debug(
            "New session",
            extra={"fields": {"local": format_index(values.local_index), "initiator": is_initiator}},
        )
        return session

    def send_waiting(self, now: Instant) -> None:
        """Seal what waits, if there is a session for it."""
        if not self._waiting or not self.transport.can_send(now):
            return
        for packet, tos in self._waiting.take():
            sealed = self.transport.seal(Run.single(packet), now, tos=tos)
            if sealed is not None:
                self._outgoing.append(Outgoing(bytes(sealed.data), tos))

    def _send_keep_alive(self, now: Instant) -> None:
        message = self.transport.keep_alive(now)
        if message is not None:
            self._outgoing.append(Outgoing(message))

    def _reject_old_sessions(self, now: Instant) -> None:
        for session in self.transport.sessions:
            if session is None or now < session.reject_at:
                continue
            is_current = session is self.transport.current
            self.transport.remove(session.local_index)
            if is_current and session.is_initiator:
                self._timers.plan_initiation(now)

    def _expire(self) -> None:
        self._log.debug("Tunnel expired")
        self.expired = True
        self.discard()
        self.transport.clear()
        self._outgoing.clear()

    def _jitter(self) -> Duration:
        return int.from_bytes(self._rng(8), "big") % (MAX_JITTER + 1)


def peek_initiator(
    keys: KeyPair,
    initiation: bytes | memoryview,
    *,
    limiter: RateLimiter | None = None,
    source_ip: IPAddress | None = None,
    now: Instant = 0,
    known: Endpoint | None = None,
) -> bytes:
    """The static public key of the peer that an initiation claims to be from: finds its tunnel.

    mac1 is checked first. With ``limiter``, ``source_ip`` and ``now`` the message is also counted before the costly
    part, and the tunnel does not count it again.

    Raises:
        HandshakeError: not an initiation to ``keys``; UNDER_LOAD comes with a cookie reply for the sender.
    """
    if message_type(initiation) != INITIATION:
        raise HandshakeError(HandshakeReason.MALFORMED)
    if limiter is not None and source_ip is not None:
        reply = limiter.admit_once(bytes(initiation), source_ip, now, known=known)
        if reply is not None:
            raise HandshakeError(HandshakeReason.UNDER_LOAD, reply=reply)
    return read_initiator(keys, initiation)
