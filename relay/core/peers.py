"""Which peers a client may reach through the relay: address ranges with ports.

The classes are those of ``connectivity.address_classes``. By default a stand-alone relay serves global peers only;
under a portal private, shared (CGNAT) and documentation ranges are served too, because gateways and clients live there.
Deny beats allow beats this default.

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
from ipaddress import IPv4Network, IPv6Network
from typing import Final, TypeAlias

from connectivity.address_classes import AddressClass, carried, class_and_range, classify
from connectivity.endpoint import Endpoint, IPAddress
from relay.core.own import Network

HIGHEST_PORT: Final = 65_535


class Refused(Enum):
    """Why else a peer is refused than for its class."""

    OWN = "own"
    PORT_ZERO = "port zero"
    DENIED = "denied"


PeerRefusal: TypeAlias = AddressClass | Refused

_UNDER_A_PORTAL: Final = frozenset({AddressClass.PRIVATE, AddressClass.SHARED, AddressClass.DOCUMENTATION})
_NEVER: Final = frozenset({AddressClass.UNSPECIFIED, AddressClass.MULTICAST, AddressClass.DISGUISED})
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


@dataclass(slots=True)
class PeerPolicy:
    """Judges peers. ``own`` is all that its host takes as its own; the server treats it apart (hairpin).

    A host's addresses change, so ``own`` may be replaced at any time; it counts from the next judgement on.
    """

    under_portal: bool
    allow: tuple[PeerRule, ...] = ()
    deny: tuple[PeerRule, ...] = ()
    own: Container[IPAddress] = frozenset()
    _verdicts: dict[Endpoint, PeerRefusal | None] = field(default_factory=dict, init=False, repr=False, compare=False)

    def replace_own(self, own: Container[IPAddress]) -> None:
        """The host's addresses are these now."""
        self.own = own
        self._verdicts.clear()

    def refusal(self, peer: Endpoint) -> PeerRefusal | None:
        """Why this peer is refused; None if it may be reached."""
        if peer in self._verdicts:
            return self._verdicts[peer]
        if len(self._verdicts) >= _MOST_VERDICTS:
            self._verdicts.clear()
        verdict = self._verdicts[peer] = self._judge(peer)
        return verdict

    def permission_refusal(self, ip: IPAddress) -> PeerRefusal | None:
        """Why no port of this address may be reached; None if one may (a permission does not name it, RFC 8656 §9).

        ``OWN`` if it depends on what the server does with its own.
        """
        # Between the borders of rules all ports are alike.
        ports = {1}
        for rule in (*self.allow, *self.deny):
            if rule.covers(ip):
                ports |= {max(1, rule.lowest_port), min(HIGHEST_PORT, rule.highest_port + 1)}
        verdicts = [self.refusal(Endpoint(ip, port)) for port in sorted(ports)]
        return next((kind for kind in (None, Refused.OWN) if kind in verdicts), verdicts[0])

    def is_own(self, peer: Endpoint) -> bool:
        """Whether this is the relay's own, and no rule names just this address to say otherwise."""
        if peer.ip.is_loopback or peer.ip not in self.own:  # the former is a class of its own
            return False
        return not any(rule.names(peer.ip) and rule.matches(peer) for rule in self.allow)

    def _judge(self, peer: Endpoint) -> PeerRefusal | None:
        ip, port = peer
        if not port:
            return Refused.PORT_ZERO
        network, kind = class_and_range(ip)
        if kind in _NEVER:
            return kind
        for inner in carried(ip):
            is_denied = any(rule.covers(inner) for rule in self.deny)  # whatever port it is translated to
            if classify(inner) is not AddressClass.GLOBAL or inner in self.own or is_denied:
                return AddressClass.DISGUISED
        if any(rule.matches(peer) for rule in self.deny):
            return Refused.DENIED
        if self.is_own(peer):
            return Refused.OWN
        if kind is AddressClass.GLOBAL or (self.under_portal and kind in _UNDER_A_PORTAL):
            return None
        opening = (rule for rule in self.allow if rule.matches(peer))
        return None if any(kind in _UNDER_A_PORTAL or _within(rule.network, network) for rule in opening) else kind


def _within(inner: Network, outer: Network) -> bool:
    if isinstance(inner, IPv4Network):
        return isinstance(outer, IPv4Network) and inner.subnet_of(outer)
    return isinstance(outer, IPv6Network) and inner.subnet_of(outer)
