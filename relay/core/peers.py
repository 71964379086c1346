"""Which peers a client may reach through the relay.

The classes are a table of ours, so that a new Python release cannot change a security decision. An IPv6 address that
carries an IPv4 one (v4-mapped, v4-compatible, NAT64, 6to4, Teredo) is judged by what it carries as well, and then only
a globally reachable one passes: allowing a range never opens a disguised form of it.

Deny beats allow beats the default. By default a stand-alone relay serves global peers only; under a portal private,
shared (CGNAT) and documentation ranges are served too, because gateways and clients live there.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from typing import Final, TypeAlias

from connectivity.endpoint import IPAddress

Network: TypeAlias = IPv4Network | IPv6Network


class PeerClass(Enum):
    """What kind of address a peer has."""

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


_CLASSES_IPV4: Final = tuple(
    (IPv4Network(text), kind)
    for text, kind in (
        ("168.63.129.16/32", PeerClass.METADATA),  # Azure
        ("100.100.100.200/32", PeerClass.METADATA),  # Alibaba Cloud, within the shared range
        ("0.0.0.0/8", PeerClass.UNSPECIFIED),
        ("10.0.0.0/8", PeerClass.PRIVATE),
        ("100.64.0.0/10", PeerClass.SHARED),
        ("127.0.0.0/8", PeerClass.LOOPBACK),
        ("169.254.0.0/16", PeerClass.LINK_LOCAL),
        ("172.16.0.0/12", PeerClass.PRIVATE),
        ("192.0.2.0/24", PeerClass.DOCUMENTATION),
        ("192.0.0.0/24", PeerClass.RESERVED),  # IETF protocol assignments
        ("192.88.99.0/24", PeerClass.RESERVED),  # 6to4 relay anycast
        ("192.168.0.0/16", PeerClass.PRIVATE),
        ("198.18.0.0/15", PeerClass.RESERVED),  # benchmarking
        ("198.51.100.0/24", PeerClass.DOCUMENTATION),
        ("203.0.113.0/24", PeerClass.DOCUMENTATION),
        ("224.0.0.0/4", PeerClass.MULTICAST),
        ("240.0.0.0/4", PeerClass.RESERVED),  # with the limited broadcast address
    )
)
# First match wins. What is listed nowhere and lies outside 2000::/3 is reserved.
_CLASSES_IPV6: Final = tuple(
    (IPv6Network(text), kind)
    for text, kind in (
        ("::/128", PeerClass.UNSPECIFIED),
        ("::1/128", PeerClass.LOOPBACK),
        ("fd00:ec2::254/128", PeerClass.METADATA),  # AWS
        ("fd20:ce::254/128", PeerClass.METADATA),  # Google Cloud
        ("fc00::/7", PeerClass.PRIVATE),
        ("fe80::/10", PeerClass.LINK_LOCAL),
        ("ff00::/8", PeerClass.MULTICAST),
        ("2001:db8::/32", PeerClass.DOCUMENTATION),
        ("3fff::/20", PeerClass.DOCUMENTATION),
        ("64:ff9b::/96", PeerClass.GLOBAL),  # NAT64; what it carries is judged too
        ("2001::/32", PeerClass.GLOBAL),  # Teredo, likewise
        ("2001::/23", PeerClass.RESERVED),  # IETF protocol assignments
        ("2000::/3", PeerClass.GLOBAL),
    )
)
_V4_MAPPED: Final = IPv6Network("::ffff:0:0/96")
_V4_COMPATIBLE: Final = IPv6Network("::/96")
_NAT64: Final = IPv6Network("64:ff9b::/96")
_SIX_TO_FOUR: Final = IPv6Network("2002::/16")
_TEREDO: Final = IPv6Network("2001::/32")
_LOW_32_BITS: Final = 0xFFFF_FFFF

_UNDER_A_PORTAL: Final = frozenset({PeerClass.PRIVATE, PeerClass.SHARED, PeerClass.DOCUMENTATION})


def classify(ip: IPAddress) -> PeerClass:
    """The class of the address as it stands, not of what it may carry."""
    if isinstance(ip, IPv4Address):
        return next((kind for network, kind in _CLASSES_IPV4 if ip in network), PeerClass.GLOBAL)
    return next((kind for network, kind in _CLASSES_IPV6 if ip in network), PeerClass.RESERVED)


def disguised(ip: IPAddress) -> tuple[IPv4Address, ...]:
    """The IPv4 addresses that an IPv6 address carries."""
    if isinstance(ip, IPv4Address):
        return ()
    value = int(ip)
    if ip in _V4_MAPPED or ip in _V4_COMPATIBLE or ip in _NAT64:
        return (IPv4Address(value & _LOW_32_BITS),)
    if ip in _SIX_TO_FOUR:
        return (IPv4Address(value >> 80 & _LOW_32_BITS),)
    if ip in _TEREDO:  # the server in clear, the client's address inverted
        return IPv4Address(value >> 64 & _LOW_32_BITS), IPv4Address(value & _LOW_32_BITS ^ _LOW_32_BITS)
    return ()


@dataclass(slots=True)
class PeerPolicy:
    """Judges peers. ``own`` are the relay's own addresses, which the server treats apart (hairpin).

    A host's addresses change, so ``own`` may be replaced at any time; it counts from the next judgement on.
    """

    under_portal: bool
    allow: tuple[Network, ...] = ()
    deny: tuple[Network, ...] = ()
    own: frozenset[IPAddress] = frozenset()

    def refusal(self, ip: IPAddress) -> PeerClass | None:
        """Why this peer is refused; None if it may be reached."""
        carried = disguised(ip)
        if any(classify(inner) is not PeerClass.GLOBAL or _listed(inner, self.deny) for inner in carried):
            return PeerClass.DISGUISED
        if any(inner in self.own for inner in carried):
            return PeerClass.DISGUISED
        kind = classify(ip)
        if _listed(ip, self.deny):
            return PeerClass.RESERVED if kind is PeerClass.GLOBAL else kind
        if _listed(ip, self.allow) or kind is PeerClass.GLOBAL:
            return None
        return None if self.under_portal and kind in _UNDER_A_PORTAL else kind

    def is_own(self, ip: IPAddress) -> bool:
        """Whether the address is the relay's and no list decides about it."""
        return ip in self.own and not _listed(ip, self.allow) and not _listed(ip, self.deny)


def _listed(ip: IPAddress, networks: Iterable[Network]) -> bool:
    return any(ip.version == network.version and ip in network for network in networks)
