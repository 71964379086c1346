"""What the server asks its driver to do.

A closed union: dispatch with ``match`` and ``assert_never``. Data-path outputs borrow scratch memory and are valid
until the server is called again; control outputs own their bytes.

``OpenRelayedPort`` is answered at once with ``Server.relayed_port_opened`` or ``relayed_port_failed``: a client is told
about its relayed address only when the address works. ``InstallChannel`` comes out before the success response that
the client waits for, and is repeated on each refresh.
"""

from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from connectivity.clock import Instant
from connectivity.endpoint import Endpoint
from connectivity.run import Transmit
from connectivity.stun import AddressFamily


class FiveTuple(NamedTuple):
    """Names an allocation (RFC 8656 §3.2). The transport protocol is UDP, so it is not spelled out."""

    client: Endpoint
    server: Endpoint


class ToClient(NamedTuple):
    """Send by the listen socket; ``transmit.source`` is the address that the client talks to."""

    transmit: Transmit


class ToPeer(NamedTuple):
    """Send by the socket of ``relayed_port`` in the destination's family."""

    relayed_port: int
    transmit: Transmit


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
class InstallChannel:
    """The channel relays in both directions until ``expires_at``; replaces what was installed for it before."""

    five_tuple: FiveTuple
    channel: int
    peer: Endpoint
    relayed_port: int
    expires_at: Instant


@dataclass(frozen=True, slots=True)
class RemoveChannel:
    """The channel relays no longer."""

    five_tuple: FiveTuple
    channel: int


Relayed: TypeAlias = ToClient | ToPeer
Output: TypeAlias = ToClient | OpenRelayedPort | CloseRelayedPort | InstallChannel | RemoveChannel
