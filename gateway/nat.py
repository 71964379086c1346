"""Address translation for one client: which source ports of its flows to names stand for which on the other side.

A *binding* (RFC 2663 §2.4) ties an inside key (protocol, source port, proxy address) to an outside key (protocol,
mapped port, real address); both ways there is at most one. The identifier of an ICMP echo counts as the port. Of a
binding each port of the peer is a *session*, with a translation for each direction and a time-out of its own, and a
binding lives as long as it has one. A session keeps its real address, wherever its name points meanwhile.

Time-outs are looked for once a second: nothing here is called per packet, the flow table writes into the translations.
"""

from collections.abc import Callable
from itertools import chain
from typing import Final, NamedTuple

from connectivity.clock import SECOND, Duration, Instant
from connectivity.endpoint import IPAddress
from connectivity.ip.protocols import ICMP_PROTOCOLS, PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_TCP, PROTOCOL_UDP
from connectivity.verdict import Translation
from gateway.reasons import GatewayDrop

TCP_LIFETIME: Final[Duration] = (2 * 60 + 4) * 60 * SECOND  # RFC 5382 §5, REQ-5
UDP_LIFETIME: Final[Duration] = 120 * SECOND  # RFC 4787 §4.3, REQ-5
ICMP_LIFETIME: Final[Duration] = 120 * SECOND  # RFC 5508 §3.2, REQ-1 demands half of it
UNCONFIRMED_LIFETIME: Final[Duration] = 60 * SECOND  # nothing came back; RFC 5382 leaves a SYN as long for its answer
CLOSED_LIFETIME: Final[Duration] = 5 * SECOND  # for what is sent again after the FINs of both sides

# About 1 kB each. A client that scans finds its own share used up, not another's.
MAX_SESSIONS: Final = 65_536
MAX_CLIENT_SESSIONS: Final = 8192
# Outside keys whose late packets must not be taken for something else; no packet is in the network for so long.
MAX_EXPIRED: Final = 1024
EXPIRED_LIFETIME: Final[Duration] = 600 * SECOND

_PORTS: Final = 0x10000
_NEAR: Final = 64
_FIN, _SYN, _RST = 0x01, 0x02, 0x04
_ENDING: Final = _FIN | _RST
_LIFETIMES: Final = {
    PROTOCOL_TCP: TCP_LIFETIME,
    PROTOCOL_UDP: UDP_LIFETIME,
    PROTOCOL_ICMP: ICMP_LIFETIME,
    PROTOCOL_ICMPV6: ICMP_LIFETIME,
}


class Key(NamedTuple):
    """One side of a binding: the client's port, or what stands for it, and the address at the other end."""

    protocol: int
    port: int
    address: IPAddress


class Session:
    """What a client has with one port of a real address; verdicts about its flow rest on it."""

    __slots__ = ("binding", "closed_at", "due", "inbound", "outbound", "peer_port")

    def __init__(self, binding: "Binding", peer_port: int, now: Instant) -> None:
        inside, outside = binding.inside, binding.outside
        self.binding = binding
        self.peer_port = peer_port
        self.outbound = Translation(destination=outside.address, source_port=outside.port)
        self.inbound = Translation(source=inside.address, destination_port=inside.port)
        self.due = now + UNCONFIRMED_LIFETIME  # not over before, but for what TCP says
        self.closed_at: Instant | None = None

    def is_over(self, now: Instant) -> bool:
        """Whether it has timed out, was reset, or was closed by both sides a while ago."""
        sent, got = self.outbound, self.inbound
        seen = sent.tcp_flags | got.tcp_flags
        if seen & _RST or ((seen & _FIN or self.closed_at is not None) and self._is_closed(now)):
            return True
        if now < self.due:
            return False
        lifetime = UNCONFIRMED_LIFETIME if got.last_used is None else _LIFETIMES[self.binding.inside.protocol]
        last_used = max(sent.last_used or 0, got.last_used or 0)
        self.due = max(self.due, last_used + lifetime)
        return now >= self.due

    def _is_closed(self, now: Instant) -> bool:
        """Look at the FINs; a SYN after them opens a connection of the same ports anew."""
        sent, got = self.outbound, self.inbound
        if self.closed_at is not None and sent.tcp_flags & _SYN:
            self.closed_at = None
        if sent.tcp_flags & got.tcp_flags & _FIN:
            sent.tcp_flags = got.tcp_flags = 0
            self.closed_at = self.closed_at or now
        return self.closed_at is not None and now - self.closed_at >= CLOSED_LIFETIME


class Binding:
    """An inside key, its outside key, and the sessions of both by the peer's port."""

    __slots__ = ("inside", "outside", "resource_id", "sessions")

    def __init__(self, inside: Key, outside: Key, resource_id: str) -> None:
        self.inside = inside
        self.outside = outside
        self.resource_id = resource_id
        self.sessions: dict[int, Session] = {}


class Capacity:
    """How many sessions all clients of a gateway have, and may have."""

    __slots__ = ("limit", "used")

    def __init__(self, limit: int = MAX_SESSIONS) -> None:
        self.limit = limit
        self.used = 0


class NatTable:
    """All bindings of one client."""

    def __init__(self, capacity: Capacity, *, limit: int = MAX_CLIENT_SESSIONS) -> None:
        self._capacity = capacity
        self._limit = limit
        self._sessions: dict[Session, None] = {}
        self._inside: dict[Key, Binding] = {}
        self._outside: dict[tuple[int, IPAddress], _Ports] = {}
        self._expired: dict[Key, Instant] = {}  # outside keys, oldest first

    def __len__(self) -> int:
        """How many sessions there are."""
        return len(self._sessions)

    @property
    def is_idle(self) -> bool:
        """Whether nothing can time out."""
        return not self._inside and not self._expired

    def inside(self, key: Key) -> Binding | None:
        """The binding of an inside key."""
        return self._inside.get(key)

    def outside(self, key: Key) -> Binding | None:
        """The binding of an outside key."""
        ports = self._outside.get((key.protocol, key.address))
        return None if ports is None else ports.bindings.get(key.port)

    def is_expired(self, key: Key) -> bool:
        """Whether an outside key was somebody's a while ago."""
        return key in self._expired

    def release(self, key: Key) -> None:
        """An outside key that has expired is used again, without translation."""
        self._expired.pop(key, None)

    def open(
        self,
        inside: Key,
        peer_port: int,
        real: IPAddress,
        resource_id: str,
        now: Instant,
        *,
        is_taken: Callable[[int], bool] = lambda _port: False,
    ) -> Session | GatewayDrop:
        """The session of an inside key with a port of its peer, made if need be.

        Args:
            inside: the client's side of the flow.
            peer_port: 0 for ICMP.
            real: for a new binding; one that is there keeps its own.
            resource_id: for a new binding.
            now: the time.
            is_taken: whether a mapped port is in use outside of this table; avoided as long as that is cheap.

        Returns:
            Or why there is none.
        """
        binding = self._inside.get(inside)
        session = None if binding is None else binding.sessions.get(peer_port)
        if session is not None:
            return session
        if len(self._sessions) >= self._limit:
            return GatewayDrop.NAT_FULL_FOR_CLIENT
        if self._capacity.used >= self._capacity.limit:
            return GatewayDrop.NAT_FULL
        if binding is None:
            ports = self._outside.get((inside.protocol, real)) or _Ports()
            mapped = ports.choose(inside.port, is_taken)
            if mapped is None:
                return GatewayDrop.NAT_EXHAUSTED
            self._outside[inside.protocol, real] = ports
            binding = Binding(inside, Key(inside.protocol, mapped, real), resource_id)
            self._inside[inside] = ports.bindings[mapped] = binding
            self._expired.pop(binding.outside, None)
        session = binding.sessions[peer_port] = Session(binding, peer_port, now)
        self._sessions[session] = None
        self._capacity.used += 1
        return session

    def sweep(self, now: Instant) -> list[Session]:
        """End what has timed out, and give it back."""
        looked_at = [
            session
            for session in self._sessions  # in line, as there may be thousands
            if now >= session.due
            or (session.outbound.tcp_flags | session.inbound.tcp_flags) & _ENDING
            or session.closed_at is not None
        ]
        over = [session for session in looked_at if session.is_over(now)]
        for session in over:
            self._end(session, now)
        while self._expired:
            oldest = next(iter(self._expired))
            if now - self._expired[oldest] < EXPIRED_LIFETIME:
                break
            del self._expired[oldest]
        return over

    def end_resource(self, resource_id: str, now: Instant) -> list[Session]:
        """End all sessions of a resource, and give them back."""
        ended = [session for session in self._sessions if session.binding.resource_id == resource_id]
        for session in ended:
            self._end(session, now)
        return ended

    def clear(self) -> list[Session]:
        """End everything and remember nothing."""
        ended = list(self._sessions)
        self._capacity.used -= len(ended)
        self._sessions.clear()
        self._inside.clear()
        self._outside.clear()
        self._expired.clear()
        return ended

    def _end(self, session: Session, now: Instant) -> None:
        binding = session.binding
        del binding.sessions[session.peer_port], self._sessions[session]
        self._capacity.used -= 1
        if binding.sessions:
            return
        outside = binding.outside
        del self._inside[binding.inside]
        ports = self._outside[outside.protocol, outside.address]
        del ports.bindings[outside.port]
        if not ports.bindings:
            del self._outside[outside.protocol, outside.address]
        self._expired.pop(outside, None)
        self._expired[outside] = now
        if len(self._expired) > MAX_EXPIRED:
            del self._expired[next(iter(self._expired))]


class _Ports:
    """The mapped ports of one protocol towards one real address."""

    __slots__ = ("_next", "bindings")

    def __init__(self) -> None:
        self.bindings: dict[int, Binding] = {}
        self._next: int | None = None  # behind the last one that was far away

    def choose(self, wanted: int, is_taken: Callable[[int], bool]) -> int | None:
        """A port that is free: the wanted one, or the first above it, around at the end; None if there is none.

        Where a row of ports is taken, it is not counted through again for each: one behind the last such row serves.
        """
        near: int | None = None
        for port in range(wanted, min(wanted + _NEAR, _PORTS)):
            if port not in self.bindings:
                if not is_taken(port):
                    return port
                near = near or port
        if near is not None:
            return near
        first = self._next or wanted + _NEAR
        for port in chain(range(first, _PORTS), range(1, min(first, _PORTS))):
            if port not in self.bindings:
                self._next = port + 1
                return port
        return None


def peer_port(protocol: int, port: int) -> int:
    """A session's peer port, from a flow's: an echo's identifier is none."""
    return 0 if protocol in ICMP_PROTOCOLS else port


def is_translatable(protocol: int, *, is_echo: bool) -> bool:
    """Whether packets of this kind have something to tell sessions apart by."""
    return is_echo or protocol in (PROTOCOL_TCP, PROTOCOL_UDP)
