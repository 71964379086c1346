"""Address translation for one client: which source ports of its flows to names stand for which on the other side.

A *binding* (RFC 2663 §2.4) ties an inside key (protocol, source port, proxy address) to an outside key (protocol,
mapped port, real address); both ways there is at most one. The identifier of an ICMP echo counts as the port. Of a
binding each port of the peer is a *session*, with a translation for each direction and a time-out of its own, and a
binding lives as long as it has one. A session keeps its real address, wherever its name points meanwhile.

Time-outs are looked for once a second: nothing here is called per packet, the flow table writes into the translations.
"""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Final, NamedTuple

from connectivity.clock import SECOND, Duration, Instant
from connectivity.endpoint import IPAddress
from connectivity.ip.checksum import PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_TCP, PROTOCOL_UDP
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

_AVOIDED: Final = 16
_LARGEST_PORT: Final = 0xFFFF
_FIN, _SYN, _RST = 0x01, 0x02, 0x04
_LIFETIMES: Final = {
    PROTOCOL_TCP: TCP_LIFETIME,
    PROTOCOL_UDP: UDP_LIFETIME,
    PROTOCOL_ICMP: ICMP_LIFETIME,
    PROTOCOL_ICMPV6: ICMP_LIFETIME,
}
_ICMP: Final = frozenset({PROTOCOL_ICMP, PROTOCOL_ICMPV6})


class Key(NamedTuple):
    """One side of a binding: the client's port, or what stands for it, and the address at the other end."""

    protocol: int
    port: int
    address: IPAddress


class Session:
    """What a client has with one port of a real address; verdicts about its flow rest on it."""

    __slots__ = ("_closed_at", "_due", "binding", "inbound", "outbound", "peer_port")

    def __init__(self, binding: "Binding", peer_port: int, now: Instant) -> None:
        inside, outside = binding.inside, binding.outside
        self.binding = binding
        self.peer_port = peer_port
        self.outbound = Translation(destination=outside.address, source_port=outside.port)
        self.inbound = Translation(source=inside.address, destination_port=inside.port)
        self._due = now + UNCONFIRMED_LIFETIME  # not over before
        self._closed_at: Instant | None = None

    def is_over(self, now: Instant) -> bool:
        """Whether it has timed out, was reset, or was closed by both sides a while ago."""
        sent, got = self.outbound, self.inbound
        seen = sent.tcp_flags | got.tcp_flags
        if seen & _RST or ((seen & _FIN or self._closed_at is not None) and self._is_closed(now)):
            return True
        if now < self._due:
            return False
        lifetime = UNCONFIRMED_LIFETIME if got.last_used is None else _LIFETIMES[self.binding.inside.protocol]
        last_used = max(sent.last_used or 0, got.last_used or 0)
        self._due = max(self._due, last_used + lifetime)
        return now >= self._due

    def _is_closed(self, now: Instant) -> bool:
        """Look at the FINs; a SYN after them opens a connection of the same ports anew."""
        sent, got = self.outbound, self.inbound
        if self._closed_at is not None and sent.tcp_flags & _SYN:
            self._closed_at = None
        if sent.tcp_flags & got.tcp_flags & _FIN:
            sent.tcp_flags = got.tcp_flags = 0
            self._closed_at = self._closed_at or now
        return self._closed_at is not None and now - self._closed_at >= CLOSED_LIFETIME


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
        self._session_count = 0
        self._inside: dict[Key, Binding] = {}
        self._outside: dict[tuple[int, IPAddress], dict[int, Binding]] = {}  # then by mapped port
        self._expired: dict[Key, Instant] = {}  # outside keys, oldest first

    def __len__(self) -> int:
        """How many sessions there are."""
        return self._session_count

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
        return None if ports is None else ports.get(key.port)

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
        if self._session_count >= self._limit:
            return GatewayDrop.NAT_FULL_FOR_CLIENT
        if self._capacity.used >= self._capacity.limit:
            return GatewayDrop.NAT_FULL
        if binding is None:
            ports = self._outside.get((inside.protocol, real), {})
            free = list(islice((port for port in _from(inside.port) if port not in ports), _AVOIDED))
            if not free:
                return GatewayDrop.NAT_EXHAUSTED
            mapped = next((port for port in free if not is_taken(port)), free[0])
            self._outside[inside.protocol, real] = ports
            binding = Binding(inside, Key(inside.protocol, mapped, real), resource_id)
            self._inside[inside] = ports[mapped] = binding
            self._expired.pop(binding.outside, None)
        session = binding.sessions[peer_port] = Session(binding, peer_port, now)
        self._session_count += 1
        self._capacity.used += 1
        return session

    def sweep(self, now: Instant) -> list[Session]:
        """End what has timed out, and give it back."""
        over = [session for session in self._sessions() if session.is_over(now)]
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
        ended = [session for session in self._sessions() if session.binding.resource_id == resource_id]
        for session in ended:
            self._end(session, now)
        return ended

    def clear(self) -> list[Session]:
        """End everything and remember nothing."""
        ended = list(self._sessions())
        self._capacity.used -= self._session_count
        self._session_count = 0
        self._inside.clear()
        self._outside.clear()
        self._expired.clear()
        return ended

    def _sessions(self) -> Iterator[Session]:
        for binding in self._inside.values():
            yield from binding.sessions.values()

    def _end(self, session: Session, now: Instant) -> None:
        binding = session.binding
        del binding.sessions[session.peer_port]
        self._session_count -= 1
        self._capacity.used -= 1
        if binding.sessions:
            return
        outside = binding.outside
        del self._inside[binding.inside]
        ports = self._outside[outside.protocol, outside.address]
        del ports[outside.port]
        if not ports:
            del self._outside[outside.protocol, outside.address]
        self._expired.pop(outside, None)
        self._expired[outside] = now
        if len(self._expired) > MAX_EXPIRED:
            del self._expired[next(iter(self._expired))]


def peer_port(protocol: int, port: int) -> int:
    """A session's peer port, from a flow's: an echo's identifier is none."""
    return 0 if protocol in _ICMP else port


def is_translatable(protocol: int, *, is_echo: bool) -> bool:
    """Whether packets of this kind have something to tell sessions apart by."""
    return is_echo or protocol in (PROTOCOL_TCP, PROTOCOL_UDP)


def _from(first: int) -> Iterator[int]:
    """All ports, upwards from the first and around; 0 is none, unless the client chose it."""
    yield first
    yield from range(first + 1, _LARGEST_PORT + 1)
    yield from range(1, first)
