"""STUN and TURN attributes as values: one frozen dataclass each (RFC 8489 §14, RFC 8656 §18, RFC 8445 §16).

How they look on the wire is in ``attribute_table``. MESSAGE-INTEGRITY, MESSAGE-INTEGRITY-SHA256 and FINGERPRINT are
not here: they depend on the bytes around them and belong to the message.

Invariant: a value that the codec handed out encodes to an attribute that decodes to an equal value.
"""

from dataclasses import dataclass, field
from typing import TypeAlias

from connectivity.endpoint import Endpoint
from connectivity.stun.protocol import AddressFamily


@dataclass(frozen=True, slots=True)
class MappedAddress:
    """The client's address as the server sees it, in clear (RFC 8489 §14.1)."""

    endpoint: Endpoint


@dataclass(frozen=True, slots=True)
class XorMappedAddress:
    """The client's address as the server sees it, masked against meddling NATs (RFC 8489 §14.2)."""

    endpoint: Endpoint


@dataclass(frozen=True, slots=True)
class XorPeerAddress:
    """A peer as the server sees it (RFC 8656 §18.3). May be an IPv6 address that disguises an IPv4 one."""

    endpoint: Endpoint


@dataclass(frozen=True, slots=True)
class XorRelayedAddress:
    """A relayed transport address (RFC 8656 §18.5)."""

    endpoint: Endpoint


@dataclass(frozen=True, slots=True)
class AlternateServer:
    """Where to try instead, with error 300 (RFC 8489 §14.15)."""

    endpoint: Endpoint


@dataclass(frozen=True, slots=True)
class Username:
    """At most 508 bytes of UTF-8 (RFC 8489 §14.3)."""

    value: str


@dataclass(frozen=True, slots=True)
class Realm:
    """At most 762 bytes of UTF-8 (RFC 8489 §14.9)."""

    value: str


@dataclass(frozen=True, slots=True)
class Nonce:
    """At most 762 bytes of UTF-8 (RFC 8489 §14.10). Kept out of ``repr``: nonces never reach a log."""

    value: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Software:
    """What the sender calls itself, at most 762 bytes of UTF-8 (RFC 8489 §14.14)."""

    value: str


@dataclass(frozen=True, slots=True)
class AlternateDomain:
    """The domain name of an alternate server (RFC 8489 §14.16)."""

    value: str


@dataclass(frozen=True, slots=True)
class ErrorCodeAttribute:
    """``code`` from 300 to 699 and a reason phrase for people (RFC 8489 §14.8)."""

    code: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class AddressErrorCode:
    """Why one family of a dual-stack allocation failed (RFC 8656 §18.12)."""

    family: AddressFamily
    code: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class UnknownAttributes:
    """The comprehension-required types that the server did not understand (RFC 8489 §14.13)."""

    types: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Userhash:
    """SHA-256 of ``username:realm``, 32 bytes (RFC 8489 §14.4)."""

    value: bytes


@dataclass(frozen=True, slots=True)
class PasswordAlgorithm:
    """The algorithm a client chose: 1 = MD5, 2 = SHA-256 (RFC 8489 §14.12)."""

    algorithm: int
    parameters: bytes = b""


@dataclass(frozen=True, slots=True)
class PasswordAlgorithms:
    """The algorithms a server offers, best first (RFC 8489 §14.11)."""

    algorithms: tuple[PasswordAlgorithm, ...]


@dataclass(frozen=True, slots=True)
class ChannelNumber:
    """Any 16-bit number; which ones may be bound is the server's decision (RFC 8656 §18.1)."""

    number: int


@dataclass(frozen=True, slots=True)
class Lifetime:
    """Seconds until an allocation expires without refresh (RFC 8656 §18.2)."""

    seconds: int


@dataclass(frozen=True, slots=True)
class Data:
    """The payload of a Send or Data indication (RFC 8656 §18.4)."""

    value: bytes


@dataclass(frozen=True, slots=True)
class RequestedAddressFamily:
    """The one family wanted for the relayed address (RFC 8656 §18.6). May be a number that is no family."""

    family: AddressFamily | int


@dataclass(frozen=True, slots=True)
class AdditionalAddressFamily:
    """A second family wanted besides IPv4 (RFC 8656 §18.11). May be a number that is no family."""

    family: AddressFamily | int


@dataclass(frozen=True, slots=True)
class EvenPort:
    """Asks for an even port; ``reserve`` asks to keep the next higher one (RFC 8656 §18.7)."""

    reserve: bool


@dataclass(frozen=True, slots=True)
class ReservationToken:
    """Names a reserved port, 8 bytes (RFC 8656 §18.10)."""

    value: bytes


@dataclass(frozen=True, slots=True)
class RequestedTransport:
    """IP protocol number between server and peers; 17 is UDP (RFC 8656 §18.8)."""

    protocol: int


@dataclass(frozen=True, slots=True)
class DontFragment:
    """Asks for the DF bit on datagrams to the peer (RFC 8656 §18.9)."""


@dataclass(frozen=True, slots=True)
class Icmp:
    """An ICMP error that a relayed datagram met: type 0 to 127, code 0 to 511, 4 bytes of data (RFC 8656 §18.13)."""

    type: int
    code: int
    data: bytes = bytes(4)


@dataclass(frozen=True, slots=True)
class Priority:
    """The priority a peer-reflexive candidate would get (RFC 8445 §7.1.1)."""

    value: int


@dataclass(frozen=True, slots=True)
class UseCandidate:
    """The controlling agent nominates this pair (RFC 8445 §7.1.2)."""


@dataclass(frozen=True, slots=True)
class IceControlled:
    """The sender is controlled; a 64-bit tie breaker (RFC 8445 §7.1.3)."""

    tie_breaker: int


@dataclass(frozen=True, slots=True)
class IceControlling:
    """The sender is controlling; a 64-bit tie breaker (RFC 8445 §7.1.3)."""

    tie_breaker: int


Attribute: TypeAlias = (
    MappedAddress
    | XorMappedAddress
    | XorPeerAddress
    | XorRelayedAddress
    | AlternateServer
    | Username
    | Realm
    | Nonce
    | Software
    | AlternateDomain
    | ErrorCodeAttribute
    | AddressErrorCode
    | UnknownAttributes
    | Userhash
    | PasswordAlgorithm
    | PasswordAlgorithms
    | ChannelNumber
    | Lifetime
    | Data
    | RequestedAddressFamily
    | AdditionalAddressFamily
    | EvenPort
    | ReservationToken
    | RequestedTransport
    | DontFragment
    | Icmp
    | Priority
    | UseCandidate
    | IceControlled
    | IceControlling
)
