"""Which peers a client may reach through the relay: address ranges with ports.

The classes are a table of ours, so that a new Python release cannot change a security decision. By default a
stand-alone relay serves global peers only; under a portal private, shared (CGNAT) and documentation ranges are served
too, because gateways and clients live there. Deny beats allow beats this default.

What no rule can open: the unspecified address (a kernel takes it for its own), multicast, port 0, and an address in
disguise. An IPv6 address that carries an IPv4 one (NAT64, 6to4, Teredo, ISATAP) is judged by what it carries as well,
and then only a globally reachable one passes; v4-mapped and v4-compatible forms are never on a wire and never pass. A
special range (loopback, metadata services and the like) is opened only by a rule that lies within it: "everything" does
not mean the services of this host.
"""

import ipaddress
import re
from collections.abc import Container
from dataclasses import dataclass, field
from enum import Enum
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from typing import Final

from connectivity.endpoint import Endpoint, IPAddress
from connectivity.ranges import METADATA_IPV4, METADATA_IPV6
from relay.core.own import Network

HIGHEST_PORT: Final = 65_535


class PeerClass(Enum):
    """What kind of address a peer has, or why else it is refused."""

    GLOBAL = "global"
    PRIVATE = "private"
    SHARED = "shared"
    DOCUMENTATION = "documentation"
    LOOPBACK = "loopback"
    LINK_LOCAL = "link-local"
    MULTICAST = "multicast"
    UNSPECIFIED = "unspecified"
    METADATA = "cloud metadata"
    RESERVED = "reserved"
    DISGUISED = "disguised"
    OWN = "own"
    PORT_ZERO = "port zero"
    DENIED = "denied"


_CLASSES_IPV4: Final = tuple(
    (IPv4Network(text), kind)
    for text, kind in (
        *((str(network), PeerClass.METADATA) for network in METADATA_IPV4),  # some within the shared range
        ("169.254.0.0/16", PeerClass.LINK_LOCAL),  # with the metadata services of most clouds
        ("0.0.0.0/8", PeerClass.UNSPECIFIED),
        ("10.0.0.0/8", PeerClass.PRIVATE),
        ("100.64.0.0/10", PeerClass.SHARED),
        ("127.0.0.0/8", PeerClass.LOOPBACK),
        ("172.16.0.0/12", PeerClass.PRIVATE),
        ("192.0.2.0/24", PeerClass.DOCUMENTATION),
        ("192.0.0.0/24", PeerClass.RESERVED),  # IETF protocol assignments; Oracle's metadata service
        ("192.88.99.0/24", PeerClass.RESERVED),  # 6to4 relay anycast
        ("192.168.0.0/16", PeerClass.PRIVATE),
        ("198.18.0.0/15", PeerClass.RESERVED),  # benchmarking
        ("198.51.100.0/24", PeerClass.DOCUMENTATION),
        ("203.0.113.0/24", PeerClass.DOCUMENTATION),
        ("224.0.0.0/4", PeerClass.MULTICAST),
        ("255.255.255.255/32", PeerClass.MULTICAST),  # broadcast: many at once, too
        ("240.0.0.0/4", PeerClass.RESERVED),
        ("0.0.0.0/0", PeerClass.GLOBAL),
    )
)
_CLASSES_IPV6: Final = tuple(
    (IPv6Network(text), kind)
    for text, kind in (
        ("::/128", PeerClass.UNSPECIFIED),
        ("::1/128", PeerClass.LOOPBACK),
        ("64:ff9b::/96", PeerClass.GLOBAL),  # NAT64; what it carries is judged too
        # v4-mapped, v4-compatible, v4-translated, and NAT64 of local use (64:ff9b:1::/48), which does not tell where in
        # it an IPv4 address stands.
        ("::/8", PeerClass.DISGUISED),
        *((str(network), PeerClass.METADATA) for network in METADATA_IPV6),  # within the private range
        ("fc00::/7", PeerClass.PRIVATE),
        ("fe80::/10", PeerClass.LINK_LOCAL),
        ("fec0::/10", PeerClass.RESERVED),  # site-local of old
        ("ff00::/8", PeerClass.MULTICAST),
        ("2001:db8::/32", PeerClass.DOCUMENTATION),
        ("3fff::/20", PeerClass.DOCUMENTATION),
        ("2001::/32", PeerClass.GLOBAL),  # Teredo, likewise
        ("2001::/23", PeerClass.RESERVED),  # IETF protocol assignments
        ("2000::/3", PeerClass.GLOBAL),
        ("::/0", PeerClass.RESERVED),
    )
)
_NAT64: Final = IPv6Network("64:ff9b::/96")
_SIX_TO_FOUR: Final = IPv6Network("2002::/16")
_TEREDO: Final = IPv6Network("2001::/32")
_ISATAP: Final = frozenset({0x0000_5EFE, 0x0200_5EFE})  # the upper half of its interface identifiers
_LOW_32_BITS: Final = 0xFFFF_FFFF

_UNDER_A_PORTAL: Final = frozenset({PeerClass.PRIVATE, PeerClass.SHARED, PeerClass.DOCUMENTATION})
_NEVER: Final = frozenset({PeerClass.UNSPECIFIED, PeerClass.MULTICAST, PeerClass.DISGUISED})
# Verdicts kept, so that a packet of a known peer costs one lookup.
_MOST_VERDICTS: Final = 4096

_RANGE: Final = r"{0}+(?:/\d{{1,3}}|-{0}+)?"
_RULE: Final = re.compile(
    rf"(?:\[(?P<bracketed>{_RANGE.format('[0-9a-fA-F:.]')})\]|(?P<ipv4>{_RANGE.format('[0-9.]')})):(?P<ports>\d{{1,5}}(?:-\d{{1,5}})?)",
    re.ASCII,
)
_RULE_EXPECTED: Final = (
    "expected CIDR or first-last, alone or with :port or :port-port behind it, brackets around IPv6 with ports"
)


@dataclass(frozen=True, slots=True)
class PeerRule:
    """A range of addresses with a range of ports."""

    network: Network
    lowest_port: int = 0
    highest_port: int = HIGHEST_PORT

    def covers(self, ip: IPAddress) -> bool:
        """Whether it says anything about this address."""
        return ip.version == self.network.version and ip in self.network

    def matches(self, peer: Endpoint) -> bool:
        """Whether it says something about this address and port."""
        return self.lowest_port <= peer.port <= self.highest_port and self.covers(peer.ip)

    def names(self, ip: IPAddress) -> bool:
        """Whether it is about this one address and nothing else."""
        return self.network.num_addresses == 1 and self.network.network_address == ip

    def __str__(self) -> str:
        if (self.lowest_port, self.highest_port) == (0, HIGHEST_PORT):
            return str(self.network)
        network = f"[{self.network}]" if self.network.version == 6 else str(self.network)
        last = "" if self.highest_port == self.lowest_port else f"-{self.highest_port}"
        return f"{network}:{self.lowest_port}{last}"


def parse_rules(text: str) -> tuple[PeerRule, ...]:
    """Read ``10.0.0.0/8``, ``10.0.0.5-10.0.0.9``, ``10.0.0.0/8:53``, ``10.0.0.0/8:1024-65535`` or ``[fd00::/8]:53``.

    A range from one address to another is as many rules as it takes prefixes (at most 254) to cover it exactly.

    Raises:
        ValueError: it is none of these; says what is expected.
    """
    with_ports = _RULE.fullmatch(text)
    if with_ports is None:
        return tuple(PeerRule(network) for network in _networks(text))
    first, _, last = with_ports["ports"].partition("-")
    lowest, highest = int(first), int(last or first)
    if not 1 <= lowest <= highest <= HIGHEST_PORT:
        raise ValueError(f"expected ports from 1 to {HIGHEST_PORT}, the lower one first")
    bracketed = with_ports["bracketed"]
    networks = _networks(bracketed or with_ports["ipv4"])
    if (networks[0].version == 6) != (bracketed is not None):
        raise ValueError(_RULE_EXPECTED)
    return tuple(PeerRule(network, lowest, highest) for network in networks)


def _networks(text: str) -> list[Network]:
    first, is_range, last = text.partition("-")
    try:
        if "%" in text:
            raise ValueError("a zone is no part of a range")
        if not is_range:
            return [ipaddress.ip_network(text)]
        ends = ipaddress.ip_address(first.strip()), ipaddress.ip_address(last.strip())
    except ValueError as error:
        # Its own text names what it could not read, which may be all that was given.
        reason = " (host bits are set)" if "host bits" in str(error) else ""
        raise ValueError(f"{_RULE_EXPECTED}{reason}") from None
    if ends[0].version != ends[1].version or int(ends[0]) > int(ends[1]):
        raise ValueError("expected two addresses of one family, the lower one first")
    return list(ipaddress.summarize_address_range(*ends))


def classify(ip: IPAddress) -> PeerClass:
    """The class of the address as it stands, not of what it may carry."""
    return _class_of(ip)[1]


def _class_of(ip: IPAddress) -> tuple[Network, PeerClass]:
    """The class and the range that it comes from; the first match in the table."""
    if isinstance(ip, IPv4Address):
        return next(entry for entry in _CLASSES_IPV4 if ip in entry[0])
    return next(entry for entry in _CLASSES_IPV6 if ip in entry[0])


def disguised(ip: IPAddress) -> tuple[IPv4Address, ...]:
    """The IPv4 addresses that an IPv6 address carries and that may be global."""
    if isinstance(ip, IPv4Address):
        return ()
    value = int(ip)
    if ip in _NAT64 or value >> 32 & _LOW_32_BITS in _ISATAP:
        return (IPv4Address(value & _LOW_32_BITS),)
    if ip in _SIX_TO_FOUR:
        return (IPv4Address(value >> 80 & _LOW_32_BITS),)
    if ip in _TEREDO:  # the server in clear, the client's address inverted
        return IPv4Address(value >> 64 & _LOW_32_BITS), IPv4Address(value & _LOW_32_BITS ^ _LOW_32_BITS)
    return ()


@dataclass(slots=True)
class PeerPolicy:
    """Judges peers. ``own`` is all that its host takes as its own; the server treats it apart (hairpin).

    A host's addresses change, so ``own`` may be replaced at any time; it counts from the next judgement on.
    """

    under_portal: bool
    allow: tuple[PeerRule, ...] = ()
    deny: tuple[PeerRule, ...] = ()
    own: Container[IPAddress] = frozenset()
    _verdicts: dict[Endpoint, PeerClass | None] = field(default_factory=dict, init=False, repr=False, compare=False)

    def replace_own(self, own: Container[IPAddress]) -> None:
        """The host's addresses are these now."""
        self.own = own
        self._verdicts.clear()

    def refusal(self, peer: Endpoint) -> PeerClass | None:
        """Why this peer is refused; None if it may be reached."""
        if peer in self._verdicts:
            return self._verdicts[peer]
        if len(self._verdicts) >= _MOST_VERDICTS:
            self._verdicts.clear()
        verdict = self._verdicts[peer] = self._judge(peer)
        return verdict

    def permission_refusal(self, ip: IPAddress) -> PeerClass | None:
        """Why no port of this address may be reached; None if one may (a permission does not name it, RFC 8656 §9).

        ``OWN`` if it depends on what the server does with its own.
        """
        # Between the borders of rules all ports are alike.
        ports = {1}
        for rule in (*self.allow, *self.deny):
            if rule.covers(ip):
                ports |= {max(1, rule.lowest_port), min(HIGHEST_PORT, rule.highest_port + 1)}
        verdicts = [self.refusal(Endpoint(ip, port)) for port in sorted(ports)]
        return next((kind for kind in (None, PeerClass.OWN) if kind in verdicts), verdicts[0])

    def is_own(self, peer: Endpoint) -> bool:
        """Whether this is the relay's own, and no rule names just this address to say otherwise."""
        if peer.ip.is_loopback or peer.ip not in self.own:  # the former is a class of its own
            return False
        return not any(rule.names(peer.ip) and rule.matches(peer) for rule in self.allow)

    def _judge(self, peer: Endpoint) -> PeerClass | None:
        ip, port = peer
        if not port:
            return PeerClass.PORT_ZERO
        network, kind = _class_of(ip)
        if kind in _NEVER:
            return kind
        for inner in disguised(ip):
            is_denied = any(rule.covers(inner) for rule in self.deny)  # whatever port it is translated to
            if classify(inner) is not PeerClass.GLOBAL or inner in self.own or is_denied:
                return PeerClass.DISGUISED
        if any(rule.matches(peer) for rule in self.deny):
            return PeerClass.DENIED
        if self.is_own(peer):
            return PeerClass.OWN
        if kind is PeerClass.GLOBAL or (self.under_portal and kind in _UNDER_A_PORTAL):
            return None
        opening = (rule for rule in self.allow if rule.matches(peer))
        return None if any(kind in _UNDER_A_PORTAL or _within(rule.network, network) for rule in opening) else kind


def _within(inner: Network, outer: Network) -> bool:
    if isinstance(inner, IPv4Network):
        return isinstance(outer, IPv4Network) and inner.subnet_of(outer)
    return isinstance(outer, IPv6Network) and inner.subnet_of(outer)
