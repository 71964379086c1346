"""Which addresses a peer may have us check: a candidate is an instruction to send packets somewhere.

Private and shared addresses pass, since peers of one network meet there. What does not: what only this host can be
(loopback, unspecified, our own), what is nobody or many (multicast, broadcast, reserved, port 0), services of clouds
that trust whoever asks, addresses inside the tunnel, whose packets would go in circles, and IPv4 addresses in disguise.
Link-local ones of IPv6 count only where we have such an address ourselves.
"""

from collections.abc import Iterable
from enum import Enum
from ipaddress import IPv4Network, IPv6Network
from typing import Final

from connectivity.address_classes import AddressClass, carried, classify
from connectivity.endpoint import Endpoint, IPAddress
from connectivity.ice.candidate import Candidate, CandidateKind

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


# Private, shared and documentation addresses pass: peers of one network meet there.
_REFUSED: Final = {
    AddressClass.LOOPBACK: CandidateRefusal.LOOPBACK,
    AddressClass.LINK_LOCAL: CandidateRefusal.LINK_LOCAL,
    AddressClass.MULTICAST: CandidateRefusal.MULTICAST,
    AddressClass.UNSPECIFIED: CandidateRefusal.UNSPECIFIED,
    AddressClass.METADATA: CandidateRefusal.METADATA,
    AddressClass.RESERVED: CandidateRefusal.RESERVED,
    AddressClass.DISGUISED: CandidateRefusal.DISGUISED,
}


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
    reason = _class_refusal(address.ip)
    if reason is CandidateRefusal.LINK_LOCAL and address.ip.version == 6 and _has_link_local(own):
        return None
    return reason


def _class_refusal(ip: IPAddress) -> CandidateRefusal | None:
    if ip in (TUNNEL_IPV4 if ip.version == 4 else TUNNEL_IPV6):
        return CandidateRefusal.TUNNEL
    if any(classify(inner) is not AddressClass.GLOBAL for inner in carried(ip)):
        return CandidateRefusal.DISGUISED
    return _REFUSED.get(classify(ip))


def _has_link_local(own: Iterable[Candidate]) -> bool:
    return any(candidate.kind is CandidateKind.HOST and candidate.address.ip.is_link_local for candidate in own)
