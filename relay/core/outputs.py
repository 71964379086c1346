"""What the server asks its driver to do.

A closed union: dispatch with ``match`` and ``assert_never``. Data-path outputs borrow scratch memory and are valid
until the server is called again; control outputs own their bytes.

``OpenRelayedPort`` is answered at once with ``Server.relayed_port_opened`` or ``relayed_port_failed``: a client is told
about its relayed address only when the address works. ``InstallChannel`` comes out before the success response that
the client waits for, and is repeated on each refresh; only clients over UDP have channels that can be installed.
"""

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple, TypeAlias

from connectivity.clock import Instant
from connectivity.endpoint import Endpoint
from connectivity.run import Transmit
from connectivity.stun import AddressFamily


class Transport(Enum):
    """What carries TURN between client and server."""

    UDP = "udp"
    TCP = "tcp"
    TLS = "tls"


class FiveTuple(NamedTuple):
    """Names an allocation (RFC 8656 §3.2)."""

    client: Endpoint
    server: Endpoint
    transport: Transport = Transport.UDP


class ToClient(NamedTuple):
    """Send to a client; ``transmit.source`` is the address that it talks to.

    Over UDP this is a run like any other. Over a stream the bytes of the run are what to write, and its segments mean
    nothing.
    """

    transmit: Transmit
    transport: Transport = Transport.UDP


class ToPeer(NamedTuple):
    """Send by the socket of ``relayed_port`` in the destination's family; ``dont_fragment`` sets IPv4's DF bit."""

    relayed_port: int
    transmit: Transmit
    dont_fragment: bool = False


@dataclass(frozen=True, slots=True)
class CloseStream:
    """Close a client's connection: it carries no TURN, or its frames cannot be told apart any more."""

    five_tuple: FiveTuple


@dataclass(frozen=True, slots=True)
class OpenRelayedPort:
    """Bind this port in all of ``families``, or in none."""

    port: int
    families: tuple[AddressFamily, ...]


@dataclass(frozen=True, slots=True)
class CloseRelayedPort:
    """Close the port's sockets of these families."""

    port: int
    families: tuple[AddressFamily, ...]


@dataclass(frozen=True, slots=True)
class SetBucket:
    """The user who owns this token bucket, or with bucket 0 the whole relay, may move so much in each direction.

    Comes before the first ``InstallChannel`` that names the bucket. A bucket that was freed with its user's last
    allocation may be given to another user: then it comes again. ``bytes_per_second`` 0 is without a limit.
    """

    bucket: int
    bytes_per_second: int


@dataclass(frozen=True, slots=True)
class InstallChannel:
    """The channel relays in both directions until ``expires_at``; replaces what was installed for it before.

    ``bucket`` 0 is without a limit.
    """

    five_tuple: FiveTuple
    channel: int
    peer: Endpoint
    relayed_port: int
    expires_at: Instant
    bucket: int = 0


@dataclass(frozen=True, slots=True)
class RemoveChannel:
    """The channel relays no longer."""

    five_tuple: FiveTuple
    channel: int


@dataclass(frozen=True, slots=True)
class NoteChannel:
    """A channel that no offload can carry relays, or goes on, or relays no longer: nothing is to be done.

    Of the others ``InstallChannel`` and ``RemoveChannel`` tell.
    """

    five_tuple: FiveTuple
    channel: int
    relayed_port: int
    relays: bool


Relayed: TypeAlias = ToClient | ToPeer
Output: TypeAlias = (
    ToClient
    | CloseStream
    | OpenRelayedPort
    | CloseRelayedPort
    | SetBucket
    | InstallChannel
    | RemoveChannel
    | NoteChannel
)
