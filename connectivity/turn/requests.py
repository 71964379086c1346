"""The requests of a TURN client, as values, and their attributes in wire order (RFC 8656 §7, §8, §12).

Relays hold one allocation per client address for both families, so each Allocate asks for IPv6 besides IPv4; Refresh
repeats it, as Firezone's peers do. Lifetimes are left to the relay. No request carries FINGERPRINT.
"""

import hashlib
from dataclasses import dataclass
from typing import Final, TypeAlias, assert_never

from connectivity.endpoint import Endpoint
from connectivity.stun import (
    AdditionalAddressFamily,
    AddressFamily,
    Attribute,
    ChannelNumber,
    Lifetime,
    Method,
    RequestedTransport,
    Software,
    XorPeerAddress,
)

_UDP: Final = 17


@dataclass(frozen=True, slots=True)
class Binding:
    """Asks for our reflexive address; also the probe of a relay and its keep-alive."""


@dataclass(frozen=True, slots=True)
class Allocate:
    """Asks for relayed addresses of both families."""


@dataclass(frozen=True, slots=True)
class Refresh:
    """Prolongs the allocation."""


@dataclass(frozen=True, slots=True)
class Delete:
    """A Refresh with lifetime zero: ends the allocation that the relay still holds for our address."""


@dataclass(frozen=True, slots=True)
class BindChannel:
    """Binds or refreshes a channel."""

    peer: Endpoint
    number: int


Request: TypeAlias = Binding | Allocate | Refresh | Delete | BindChannel


def method_of(request: Request) -> Method:
    """The STUN method of a request."""
    match request:
        case Binding():
            return Method.BINDING
        case Allocate():
            return Method.ALLOCATE
        case Refresh() | Delete():
            return Method.REFRESH
        case BindChannel():
            return Method.CHANNEL_BIND
        case _:
            assert_never(request)


def attributes_of(request: Request, software: str) -> tuple[Attribute, ...]:
    """The attributes in front of the credentials."""
    shape = (RequestedTransport(_UDP), AdditionalAddressFamily(AddressFamily.IPV6), Software(software))
    match request:
        case Binding():
            return (Software(software),)
        case Allocate() | Refresh():
            return shape
        case Delete():
            return (*shape, Lifetime(0))
        case BindChannel(peer, number):
            return (XorPeerAddress(peer), ChannelNumber(number), Software(software))
        case _:
            assert_never(request)


def software_attribute(public_key: bytes) -> str:
    """What our requests carry as SOFTWARE: it ties a relay's log to one key pair without disclosing the key."""
    return f"snownet; session={hashlib.sha256(b'SESSION-ID' + public_key).hexdigest().upper()}"
