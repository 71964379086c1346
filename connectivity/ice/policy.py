"""Which addresses a peer may have us check: a candidate is an instruction to send packets somewhere.

Private and shared addresses pass, since peers of one network meet there. What does not: what only this host can be
(loopback, unspecified, our own), what is nobody or many (multicast, broadcast, reserved, port 0), services of clouds
that trust whoever asks, addresses inside the tunnel, whose packets would go in circles, and IPv4 addresses in disguise.
Link-local ones of IPv6 count only where we have such an address ourselves.
"""

from collections.abc import Iterable
from enum import Enum
from ipaddress import IPv4Network, IPv6Address, IPv6Network
from typing import Final

from connectivity.endpoint import Endpoint, IPAddress
from connectivity.ice.candidate import Candidate, CandidateKind
from connectivity.ranges import METADATA_IPV4, METADATA_IPV6

# Where client and gateway have their addresses inside the tunnel (connectivity facts §9.3).
TUNNEL_IPV4: Final = IPv4Network("100.64.0.0/11")
TUNNEL_IPV6: Final = IPv6Network("fd00:2021:1111::/107")


class CandidateRefusal(Enum):
    """Why a candidate is not checked."""

    LOOPBACK = "loopback"
    LINK_LOCAL = "link_local"
    UNSPECIFIED = "unspecified"
    MULTICAST = "multicast"
    RESERVED = "reserved"
    METADATA = "metadata"
    TUNNEL = "tunnel"
    DISGUISED = "disguised"
    OWN = "own"
    PORT_ZERO = "port_zero"
    TOO_MANY = "too_many"


# The first that matches counts. A table of ours: no release of Python changes what is checked.
_IPV4: Final = tuple(
    (IPv4Network(text), reason)
    for text, reason in (
        (str(TUNNEL_IPV4), CandidateRefusal.TUNNEL),
        *((str(network), CandidateRefusal.METADATA) for network in METADATA_IPV4),
        ("192.0.0.0/24", CandidateRefusal.RESERVED),  # IETF protocol assignments; Oracle's metadata service
        ("0.0.0.0/8", CandidateRefusal.UNSPECIFIED),
        ("127.0.0.0/8", CandidateRefusal.LOOPBACK),
        ("169.254.0.0/16", CandidateRefusal.LINK_LOCAL),  # with the metadata services of most clouds
        ("224.0.0.0/4", CandidateRefusal.MULTICAST),
        ("255.255.255.255/32", CandidateRefusal.MULTICAST),  # broadcast: many at once, too
        ("240.0.0.0/4", CandidateRefusal.RESERVED),
    )
)
_IPV6: Final = tuple(
    (IPv6Network(text), reason)
    for text, reason in (
        (str(TUNNEL_IPV6), CandidateRefusal.TUNNEL),
        *((str(network), CandidateRefusal.METADATA) for network in METADATA_IPV6),
        ("::1/128", CandidateRefusal.LOOPBACK),
        ("::/128", CandidateRefusal.UNSPECIFIED),
        ("::/8", CandidateRefusal.DISGUISED),  # v4-mapped, v4-compatible, v4-translated, NAT64
        ("fe80::/10", CandidateRefusal.LINK_LOCAL),
        ("ff00::/8", CandidateRefusal.MULTICAST),
    )
)


def refusal(address: Endpoint, own: Iterable[Candidate] = ()) -> CandidateRefusal | None:
    """Why we do not check ``address``; None if we do. ``own`` are our live candidates."""
    if address.port == 0:
        return CandidateRefusal.PORT_ZERO
    for candidate in own:
        # Another port of a relay may be another client of it, and of a NAT our neighbour: only hosts are whole our own.
        if candidate.address == address or (
            candidate.kind is CandidateKind.HOST and candidate.address.ip == address.ip
        ):
            return CandidateRefusal.OWN
    reason = _class_of(address.ip)
    if reason is CandidateRefusal.LINK_LOCAL and address.ip.version == 6 and _has_link_local(own):
        return None
    return reason


def _class_of(ip: IPAddress) -> CandidateRefusal | None:
    if not isinstance(ip, IPv6Address):
        return next((reason for network, reason in _IPV4 if ip in network), None)
    found = next((reason for network, reason in _IPV6 if ip in network), None)
    carried = ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
    if found is None and carried is not None and (carried.is_private or _class_of(carried) is not None):
        return CandidateRefusal.DISGUISED
    return found


def _has_link_local(own: Iterable[Candidate]) -> bool:
    return any(candidate.kind is CandidateKind.HOST and candidate.address.ip.is_link_local for candidate in own)
