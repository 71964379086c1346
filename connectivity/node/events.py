"""What a node tells the role above it."""

from dataclasses import dataclass
from typing import TypeAlias

from connectivity.clock import Instant


@dataclass(frozen=True, slots=True)
class CandidatesAdded:
    """Local candidates to signal to the peer, in order of falling priority."""

    connection_id: str
    candidates: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CandidatesRemoved:
    """Local candidates that the peer must stop using."""

    connection_id: str
    candidates: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ConnectionEstablished:
    """The first WireGuard handshake of this connection completed."""

    connection_id: str


@dataclass(frozen=True, slots=True)
class PathChanged:
    """ICE has nominated another path, or the first one."""

    connection_id: str


@dataclass(frozen=True, slots=True)
class ConnectionFailed:
    """The connection is gone without a word from the peer; ``reason`` is for logs."""

    connection_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class ConnectionSilent:
    """The peer answers neither data nor checks, and may be another one by now; the connection goes on."""

    connection_id: str
    at: Instant


@dataclass(frozen=True, slots=True)
class ConnectionClosed:
    """This side closed the connection."""

    connection_id: str


Event: TypeAlias = (
    CandidatesAdded
    | CandidatesRemoved
    | ConnectionEstablished
    | PathChanged
    | ConnectionFailed
    | ConnectionSilent
    | ConnectionClosed
)
