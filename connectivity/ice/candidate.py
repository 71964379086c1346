"""ICE candidates: kinds, priorities, and the text form that travels through the portal (RFC 8445 §5.1, RFC 8839 §5.1).

Only UDP and IP literals exist here: text of any other transport does not parse. A candidate holds an address that
``is_valid_address`` accepts, whichever constructor made it; its component is checked by the agent, not here.

Priority = type preference << 24 | local preference << 8 | 255. Candidates that never pass through a local agent
(server-reflexive ones are only signalled) keep the first local preference of their family; the agent renumbers
the others with ``local_preference``.

The foundation begins with the bytes of the priority in reverse, which makes plain string order of candidate text run
relay, server-reflexive, host: portals that sort the strings still deliver the best last. Receivers treat it as opaque.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import Enum
from hashlib import blake2b
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from connectivity.endpoint import Endpoint, IPAddress

RTP_COMPONENT: Final = 1  # RFC 8445 §4: a data stream with a single component uses id 1

# Implementation constants.
_FIRST_PREFERENCE: Final = {6: 65535, 4: 65534}  # IPv6 before IPv4 at equal kind (RFC 8421 §4)
CROSS_FAMILY_PENALTY: Final = 1000  # a relay that translates between families comes after every one that does not
_BROADCAST: Final = IPv4Address("255.255.255.255")

_ICE_CHARS: Final = "[A-Za-z0-9+/]"
_GRAMMAR: Final = re.compile(
    rf"candidate:(?P<foundation>{_ICE_CHARS}{{1,32}}) (?P<component>[0-9]{{1,5}}) (?P<protocol>[A-Za-z]{{1,8}})"
    r" (?P<priority>[0-9]{1,10}) (?P<ip>[0-9A-Fa-f:.]{2,45}) (?P<port>[0-9]{1,5}) typ (?P<kind>host|srflx|prflx|relay)"
    r"(?: tcptype [a-z]+)?"
    r"(?: raddr (?P<related_ip>[0-9A-Fa-f:.]{2,45}) rport (?P<related_port>[0-9]{1,5}))?"
    r"(?: generation [0-9]+)?"
    r"(?: network-id [0-9]+)?"
    rf"(?: ufrag (?P<ufrag>{_ICE_CHARS}{{1,256}}))?"
    r"(?: network-cost [0-9]+)?"
    r"(?: .*)?"  # extensions that nobody has defined yet
)


class CandidateKind(Enum):
    """Where an address comes from; the value is its name in candidate text."""

    HOST = "host"
    SRFLX = "srflx"
    PRFLX = "prflx"
    RELAY = "relay"


TYPE_PREFERENCE: Final = {  # RFC 8445 §5.1.2.2
    CandidateKind.HOST: 126,
    CandidateKind.PRFLX: 110,
    CandidateKind.SRFLX: 100,
    CandidateKind.RELAY: 2,
}
_PREFERENCE_OFFSET: Final = {  # one quarter of the range for each kind, best kind on top
    CandidateKind.HOST: 0,
    CandidateKind.PRFLX: 16384,
    CandidateKind.SRFLX: 32768,
    CandidateKind.RELAY: 49152,
}


@dataclass(frozen=True, slots=True)
class Candidate:
    """One address at which a peer may be reachable.

    ``base`` is the local address that packets leave from; for relayed and for signalled remote candidates it equals
    ``address``. ``related`` is what the text calls raddr and rport. ``local_interface`` is the address over which a
    relayed address was allocated: it only decides the penalty and never travels.
    """

    kind: CandidateKind
    address: Endpoint
    base: Endpoint
    priority: int
    related: Endpoint | None
    foundation: str
    ufrag: str | None = None
    component: int = RTP_COMPONENT
    local_interface: Endpoint | None = field(default=None, compare=False)

    @classmethod
    def host(cls, endpoint: Endpoint) -> "Candidate":
        """An address of our own.

        Raises:
            ValueError: not an address that a candidate may have.
        """
        return _make(CandidateKind.HOST, endpoint, endpoint, None)

    @classmethod
    def server_reflexive(cls, address: Endpoint, base: Endpoint) -> "Candidate":
        """``address`` as a STUN server saw what we sent from ``base``. The base is not disclosed in the text.

        Raises:
            ValueError: not an address that a candidate may have, or of another family than the base.
        """
        if address.ip.version != base.ip.version:
            raise ValueError(f"server-reflexive address {address} and base {base} differ in family")
        return _make(CandidateKind.SRFLX, address, base, _undisclosed(address.ip))

    @classmethod
    def relayed(cls, address: Endpoint, local_interface: Endpoint) -> "Candidate":
        """``address`` as allocated on a TURN server that we talk to from ``local_interface``.

        Raises:
            ValueError: not an address that a candidate may have.
        """
        made = _make(CandidateKind.RELAY, address, address, _undisclosed(address.ip))
        return replace(made, local_interface=local_interface)

    def to_text(self) -> str:
        """The SDP attribute without ``a=``, as the portal carries it."""
        address, related = self.address, self.related
        text = f"candidate:{self.foundation} {self.component} udp {self.priority} {address.ip} {address.port}"
        text += f" typ {self.kind.value}"
        if related is not None:
            text += f" raddr {related.ip} rport {related.port}"
        return text if self.ufrag is None else f"{text} ufrag {self.ufrag}"

    def numbered(self, known_count: int, ufrag: str) -> "Candidate":
        """This candidate as an agent announces it that already knows ``known_count`` of its kind and family."""
        crossed = self.local_interface is not None and self.local_interface.ip.version != self.address.ip.version
        preference = local_preference(self.kind, self.address.ip.version, known_count, cross_family=crossed)
        priority = candidate_priority(self.kind, preference)
        foundation = _foundation(self.kind, priority, self.base, self.related)
        return replace(self, priority=priority, foundation=foundation, ufrag=ufrag)


def parse(text: str) -> Candidate:
    """Read one candidate, with the optional tails in the order that browsers and str0m write them.

    Raises:
        ValueError: not a candidate, not UDP, or an address that a candidate may not have.
    """
    match = _GRAMMAR.fullmatch(text)
    if match is None:
        raise ValueError("not an ICE candidate")
    if match["protocol"].lower() != "udp":
        raise ValueError(f"transport {match['protocol']} is not supported")
    priority, component = int(match["priority"]), int(match["component"])
    if priority > 0xFFFFFFFF or component > 0xFFFF:
        raise ValueError("priority or component of an ICE candidate is out of range")
    address = _endpoint(match["ip"], match["port"])
    if not is_valid_address(address):
        raise ValueError(f"{address} cannot be the address of an ICE candidate")
    related = _endpoint(match["related_ip"], match["related_port"]) if match["related_ip"] else None
    kind = CandidateKind(match["kind"])
    return Candidate(kind, address, address, priority, related, match["foundation"], match["ufrag"], component)


def is_valid_address(endpoint: Endpoint) -> bool:
    """Whether packets can be sent there: a unicast address (loopback and IPv6 link-local included) and a port."""
    ip = endpoint.ip
    if ip.is_multicast or ip.is_unspecified or endpoint.port == 0:
        return False
    if isinstance(ip, IPv6Address):
        return ip.ipv4_mapped is None  # the same place has an IPv4 name, and drivers only know that one
    return not ip.is_link_local and ip != _BROADCAST


def local_preference(kind: CandidateKind, version: int, known_count: int, *, cross_family: bool = False) -> int:
    """65535 downwards: a quarter of the range per kind, odd values for IPv6, two lower for each one already known."""
    first = _FIRST_PREFERENCE[version] - _PREFERENCE_OFFSET[kind]
    return max(first - 2 * known_count - (CROSS_FAMILY_PENALTY if cross_family else 0), 0)


def candidate_priority(kind: CandidateKind, preference: int) -> int:
    """RFC 8445 §5.1.2.1 for component 1."""
    return TYPE_PREFERENCE[kind] << 24 | preference << 8 | 256 - RTP_COMPONENT


def peer_reflexive_priority(local: Candidate) -> int:
    """The PRIORITY attribute of checks from ``local``: what it would have as a peer-reflexive one (RFC 8445 §7.1.1)."""
    return TYPE_PREFERENCE[CandidateKind.PRFLX] << 24 | local.priority & 0xFFFFFF


def signalling_order(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Best first, the text breaking ties: equal priorities are all kept and the order is the same every time."""
    return sorted(candidates, key=lambda candidate: (-candidate.priority, candidate.to_text()))


def peer_reflexive(address: Endpoint, base: Endpoint, priority: int) -> Candidate:
    """A candidate that only a connectivity check revealed (RFC 8445 §7.3.1.3); its foundation is provisional."""
    foundation = _foundation(CandidateKind.PRFLX, priority, base, None)
    return Candidate(CandidateKind.PRFLX, address, base, priority, None, foundation)


def optimistic(address: Endpoint, base: Endpoint) -> Candidate:
    """A remote server-reflexive candidate that nobody signalled: a guess that ``address`` is forwarded to ``base``."""
    return _make(CandidateKind.SRFLX, address, base, None)


def _make(kind: CandidateKind, address: Endpoint, base: Endpoint, related: Endpoint | None) -> Candidate:
    if not is_valid_address(address):
        raise ValueError(f"{address} cannot be the address of an ICE candidate")
    priority = candidate_priority(kind, _FIRST_PREFERENCE[address.ip.version])
    return Candidate(kind, address, base, priority, related, _foundation(kind, priority, base, related))


def _foundation(kind: CandidateKind, priority: int, base: Endpoint, related: Endpoint | None) -> str:
    facts = f"{kind.value} {base.ip} {related.ip if related else '-'} udp"
    return priority.to_bytes(4, "little").hex() + blake2b(facts.encode(), digest_size=8).hexdigest()


def _undisclosed(ip: IPAddress) -> Endpoint:
    return Endpoint(IPv6Address(0) if ip.version == 6 else IPv4Address(0), 0)


def _endpoint(ip: str, port: str) -> Endpoint:
    if int(port) > 0xFFFF:
        raise ValueError(f"port {port} is out of range")
    return Endpoint(ip_address(ip), int(port))
